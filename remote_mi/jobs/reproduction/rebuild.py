"""From a run's folder alone back to its job: the lock, and the copied source.

The recipe's card is read from the copy under source/, in a place where no other module is found
than those copied with it. A rebuilt job has the recorded key if nothing has changed: neither lock
and copies nor what of remote_mi the recipe reaches.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from remote_mi.common.errors import FormerVersion, Mismatch, NotFound, UsageError
from remote_mi.common.yaml_file import read_generated
from remote_mi.jobs.job import Job
from remote_mi.models.embedded import EMBEDDED
from remote_mi.models.spec import ModelSpec, folder_digest
from remote_mi.prompts.examples import Example, PromptSet
from remote_mi.recipes import catalog
from remote_mi.recipes.code_identity import SCHEMA
from remote_mi.store.lock import LOCK, LONGEST
from remote_mi.store.run_folder import SOURCE as SOURCE
from remote_mi.store.run_folder import RunFolder
from remote_mi.store.run_info import RunInfo

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class KeptRun:
    """A run's folder, as far as it is text.

    Attributes:
        folder: where it lies. info: what its run.json says. lock: its config.lock.yaml.
    """

    folder: Path
    info: RunInfo
    lock: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model as it entered the key."""
        return self.lock["model_identity"]


def read_kept(folder: Path) -> KeptRun:
    """A run's run.json and lock.

    Raises:
        Mismatch: if one of them is damaged, naming it.
    """
    info = RunFolder(folder).info
    path = folder / LOCK
    try:
        lock = read_generated(path, LONGEST)
    except FileNotFoundError:
        raise Mismatch(f"{folder} has no {LOCK}, so its job is not known") from None
    except (OSError, ValueError) as error:
        raise Mismatch(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    wanted = ("key", "recipe", "model", "model_identity", "parameters", "prompts")
    lacking = [name for name in wanted if not isinstance(lock, dict) or name not in lock]
    if lacking:
        raise Mismatch(f"{path} does not say: {', '.join(lacking)}")
    return KeptRun(folder, info, lock)


def copy_source(kept: KeptRun, home: Path) -> Path:
    """Put the copied source of a run into a folder of its own; returns that folder."""
    target = home / SOURCE
    shutil.copytree(kept.folder / SOURCE, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


@dataclass(frozen=True)
class AsRecorded(ModelSpec):
    """A model by the identity that a run recorded, whether or not it is here.

    Attributes:
        recorded: what `ModelSpec.identity` gave when the job was made.
    """

    recorded: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        return dict(self.recorded)


@dataclass(frozen=True)
class WithRecordedCode(Job):
    """A job whose code counts as what its lock recorded, to tell changes of it from others.

    Attributes:
        digests: name of the recipe, of its setup and of its analysis → digest of the code it reaches.
    """

    digests: Mapping[str, str] = field(default_factory=dict)

    def _digest_of(self, name: str) -> str:
        return self.digests.get(name) or super()._digest_of(name)


def recorded_job(kept: KeptRun, source: Path, project: Path) -> Job:
    """The job of a run as it was asked for.

    Args:
        source: folder with the copied source. project: where its runs go.

    Raises:
        Mismatch: if the lock or the copied source is damaged, or too old, saying what lacks.
        UsageError: if the recipe was defined in a notebook.
    """
    recipe, prompts = kept.lock["recipe"], kept.lock["prompts"]
    file = recipe.get("file")
    if file is None:
        raise UsageError(
            f"{kept.name}: the recipe {recipe.get('name')!r} was defined in a notebook or prompt, "
            "and its run keeps the function's text only",
            "write the recipe into a file, and run that",
        )
    try:
        if Path(file).name != file:
            raise ValueError(f"recipe.file is {file!r}")
        card = catalog.find(f"{source / file}:{recipe['name']}", project, lenient=True)
        model = {f.name for f in fields(ModelSpec)} & set(kept.lock["model"])
        spec = AsRecorded(
            **{name: kept.lock["model"][name] for name in model}, recorded=dict(kept.identity)
        )
        details = {k: v for k, v in prompts.items() if k not in ("origin", "examples")}
        examples = tuple(_example(data) for data in prompts["examples"])
        parameters = card.resolve(kept.lock["parameters"])
    except FormerVersion:
        raise
    except UsageError as error:
        raise Mismatch(f"{kept.folder}: {error.message}", error.hint) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Mismatch(
            f"{kept.folder / LOCK} is not the lock of a run: {type(error).__name__}: {error}"
        ) from None
    return Job(
        card,
        spec,
        PromptSet(examples, prompts.get("origin", "?"), details),
        parameters,
        project,
        drop_invalid=kept.lock.get("drop_invalid", False),
    )


def _example(data: Mapping[str, Any]) -> Example:
    """A prompt of a lock."""
    values = {f.name: data[f.name] for f in fields(Example) if f.name in data}
    for name in ("answers", "wrongs"):
        if name in values:
            values[name] = tuple(values[name])
    for name in ("labels", "corrupt_labels"):
        if name in values:
            values[name] = {k: (int(v[0]), int(v[1])) for k, v in values[name].items()}
    return Example(**values)


def what_changed(kept: KeptRun, job: Job) -> str:
    """Why a rebuilt job has not the recorded key: "lock", "code", or "" if it has it.

    The key is made as it was made then (`made_before`).
    """
    job = replace(job, schema=key_schema(kept))
    if job.key == kept.lock["key"]:
        return ""
    recipe = kept.lock["recipe"]
    digests = {recipe["name"]: str(recipe.get("code", ""))}
    for what, name in (("setup", job.card.setup), ("analysis", job.card.analysis)):
        if name:
            digests[name] = str(recipe.get(what, ""))
    parts = {f.name: getattr(job, f.name) for f in fields(Job)}
    as_recorded = WithRecordedCode(**parts, digests=digests)
    return "code" if as_recorded.key == kept.lock["key"] else "lock"


def key_schema(kept: KeptRun) -> int:
    """The schema of a run's key; the first locks do not say it."""
    found = kept.lock.get("key_schema", 1)
    return found if isinstance(found, int) else 0


def made_before(kept: KeptRun) -> bool:
    """Whether a run was made by a version whose results are not taken any more."""
    return key_schema(kept) < SCHEMA


def model_here(kept: KeptRun, folder: Path | None) -> ModelSpec:
    """The model of a run as it is to be loaded here: the same content, wherever it lies.

    Args:
        folder: new place of a model that was named by its folder.

    Raises:
        NotFound: if the folder is gone. Mismatch: if its content is another.
        UsageError: if the model was not named by a folder, and one is given.
    """
    content = kept.identity.get("content")
    known = {f.name for f in fields(ModelSpec)}
    spec = ModelSpec(**{k: v for k, v in kept.lock["model"].items() if k in known})
    if content is None or spec.name == EMBEDDED:
        if folder is not None:
            raise UsageError(
                f"{kept.name} ran on {spec.name}, which is no folder", "leave --model out"
            )
        if content is not None and spec.identity().get("content") != content:
            raise Mismatch(f"{kept.name} ran on another version of the embedded model")
        return spec
    place = (folder or Path(spec.name)).expanduser()
    if not (place / "config.json").is_file():
        raise NotFound(
            f"{kept.name} ran on a model in the folder {spec.name}"
            + (f", and {folder} holds no model" if folder else ", which is not here"),
            "name its new place: --model FOLDER",
        )
    if folder_digest(place) != content:
        raise Mismatch(
            f"the model in {place} is not the one {kept.name} ran on: its content has "
            "another SHA-256",
            "--model FOLDER names another place",
        )
    return replace(spec, name=str(place.absolute()))


def commit_of(kept: KeptRun) -> str | None:
    """The commit of the hub that a run loaded its model from, None if it was not recorded."""
    revision = kept.info.made.record.revision or ""
    return revision if _COMMIT.fullmatch(revision) else None


def events_of(folder: Path) -> list[Any]:
    """The events of a run.

    Raises:
        OSError, ValueError: if there are none to read.
    """
    text = (folder / "events.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]

"""Rebuilding a job from a run's folder alone: from the lock and the copied source.

The recipe's card is read from the copy under source/, where only the modules copied with it are
importable. A rebuilt job has the recorded key if neither the lock, the copies nor the code of
remote_mi that the recipe reaches have changed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from remote_mi.common.errors import FormerVersion, Mismatch, NotFound, UsageError
from remote_mi.common.valid_json import parse_json
from remote_mi.common.yaml_file import read_generated
from remote_mi.jobs.job import Job
from remote_mi.models.adapter_files import adapter_identity
from remote_mi.models.embedded import EMBEDDED
from remote_mi.models.folders import file_digest, folder_digest
from remote_mi.models.spec import GGUF, ModelSpec
from remote_mi.models.tokenizer_files import tokenizer_identity
from remote_mi.prompts.behaviours import parse_behaviour
from remote_mi.prompts.examples import Example, PromptSet
from remote_mi.recipes import catalog
from remote_mi.recipes.code_identity import SCHEMA
from remote_mi.store.lock import LOCK, MAX_BYTES
from remote_mi.store.run_folder import SOURCE as SOURCE
from remote_mi.store.run_folder import RunFolder
from remote_mi.store.run_info import RunInfo

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class KeptRun:
    """The text parts of a run's folder.

    Attributes:
        folder: its path. info: from its run.json. lock: its config.lock.yaml.
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
    """Read a run's run.json and lock.

    Raises:
        Mismatch: if one of them is damaged, naming it.
    """
    info = RunFolder(folder).info
    path = folder / LOCK
    try:
        lock = read_generated(path, MAX_BYTES)
    except FileNotFoundError:
        raise Mismatch(f"{folder} has no {LOCK}, so its job is not known") from None
    except (OSError, ValueError) as error:
        raise Mismatch(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    wanted = ("key", "recipe", "model", "model_identity", "parameters", "prompts")
    missing_fields = [name for name in wanted if not isinstance(lock, dict) or name not in lock]
    if missing_fields:
        raise Mismatch(f"{path} lacks: {', '.join(missing_fields)}")
    return KeptRun(folder, info, lock)


def copy_source(kept: KeptRun, home: Path) -> Path:
    """Copy a run's stored source into `home`; returns the new folder."""
    target = home / SOURCE
    shutil.copytree(kept.folder / SOURCE, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


@dataclass(frozen=True)
class RecordedModel(ModelSpec):
    """A model with the identity that a run recorded, whether or not the model is available.

    Attributes:
        recorded: what `ModelSpec.identity` returned when the job was created.
    """

    recorded: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        return dict(self.recorded)


@dataclass(frozen=True)
class JobWithRecordedCode(Job):
    """A job with the code digests that its lock recorded, to separate code changes from others.

    Attributes:
        digests: name of the recipe, setup or analysis → digest of the code that it reaches.
    """

    digests: Mapping[str, str] = field(default_factory=dict)

    def _digest_of(self, name: str) -> str:
        return self.digests.get(name) or super()._digest_of(name)


def recorded_job(kept: KeptRun, source: Path, project: Path) -> Job:
    """The job of a run as it was originally requested.

    Args:
        source: folder with the copied source. project: for its new runs.

    Raises:
        Mismatch: if the lock or the copied source is damaged or too old, naming what is missing.
        UsageError: if the recipe was defined in a notebook.
    """
    recipe, prompts = kept.lock["recipe"], kept.lock["prompts"]
    file = recipe.get("file")
    if file is None:
        raise UsageError(
            f"{kept.name}: the recipe {recipe.get('name')!r} was defined in a notebook or prompt, "
            "and its run stores only the function's text",
            "write the recipe to a file, and run that",
        )
    try:
        if Path(file).name != file:
            raise ValueError(f"recipe.file is {file!r}")
        card = catalog.find(f"{source / file}:{recipe['name']}", project, lenient=True)
        model = {f.name for f in fields(ModelSpec)} & set(kept.lock["model"])
        spec = RecordedModel(
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
            f"{kept.folder / LOCK} is not a valid lock: {type(error).__name__}: {error}"
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
    """A prompt from a lock."""
    values = {f.name: data[f.name] for f in fields(Example) if f.name in data}
    for name in ("answers", "wrongs"):
        if name in values:
            values[name] = tuple(values[name])
    if values.get("behaviour"):
        values["behaviour"] = parse_behaviour(values["behaviour"])
    for name in ("labels", "corrupt_labels"):
        if name in values:
            values[name] = {k: (int(v[0]), int(v[1])) for k, v in values[name].items()}
    for name in ("turns", "corrupt_turns"):
        if name in values:
            values[name] = tuple((str(role), str(content)) for role, content in values[name])
    return Example(**values)


def what_changed(kept: KeptRun, job: Job) -> str:
    """Why a rebuilt job does not have the recorded key: "lock", "code", or "" if it does.

    The key is computed by the run's own schema (`key_schema`).
    """
    statistics = kept.lock.get("key_statistics", 1)
    statistics = statistics if isinstance(statistics, int) else 0
    job = replace(job, schema=key_schema(kept), statistics=statistics)
    if job.key == kept.lock["key"]:
        return ""
    recipe = kept.lock["recipe"]
    digests = {recipe["name"]: str(recipe.get("code", ""))}
    for what, name in (("setup", job.card.setup), ("analysis", job.card.analysis)):
        if name:
            digests[name] = str(recipe.get(what, ""))
    parts = {f.name: getattr(job, f.name) for f in fields(Job)}
    as_recorded = JobWithRecordedCode(**parts, digests=digests)
    return "code" if as_recorded.key == kept.lock["key"] else "lock"


def key_schema(kept: KeptRun) -> int:
    """The schema of a run's key; the earliest locks do not contain it."""
    schema = kept.lock.get("key_schema", 1)
    return schema if isinstance(schema, int) else 0


def is_from_earlier_version(kept: KeptRun) -> bool:
    """Whether a run was made by a version whose results are no longer reused."""
    return key_schema(kept) < SCHEMA


def _check_beside(kept: KeptRun, spec: ModelSpec) -> None:
    """Check that the adapter and the tokenizer of a run are still what they were.

    Raises:
        NotFound: if one is gone. Mismatch: if one has another content.
    """
    for what, identify in (("adapter", adapter_identity), ("tokenizer", tokenizer_identity)):
        name = getattr(spec, what)
        if name is None or what not in kept.identity:
            continue
        try:
            found = identify(name)
        except UsageError as error:
            raise NotFound(f"{kept.name}: its {what}: {error.message}", "put it back") from None
        if found != kept.identity[what]:
            raise Mismatch(
                f"the {what} {name} is not the one {kept.name} ran with: its content has a "
                "different SHA-256",
                "put back the one it ran with",
            )


def _find_object(kept: KeptRun, spec: ModelSpec) -> ModelSpec:
    """The model of a run that was an object in memory, if it is in this program's.

    Raises:
        NotFound: saying what it was, if it is not. Mismatch: if it has changed.
    """
    described = kept.info.made.record.object or {}
    try:
        found = spec.identity().get("content")
    except NotFound:
        config = described.get("config") or {}
        size = f", {config['model_type']}" if "model_type" in config else ""
        raise NotFound(
            f"{kept.name} ran on a model in memory ({described.get('class', '?')}{size}, "
            f"SHA-256 {str(kept.identity.get('content'))[:12]}…), which cannot be loaded again "
            "without the object",
            "pass the same object in Python: mi.run(…, model=model)",
        ) from None
    if found != kept.identity.get("content"):
        raise Mismatch(
            f"the model in memory, {spec.name}, has changed since {kept.name}", "pass it as it was"
        )
    return spec


def find_model(kept: KeptRun, folder: Path | None) -> ModelSpec:
    """The model of a run, found on this machine: the same content, possibly in another folder.

    Args:
        folder: new location of a model that was given as a folder.

    Raises:
        NotFound: if the folder is gone. Mismatch: if its content differs.
        UsageError: if `folder` is given, but the run's model was not a folder.
    """
    content = kept.identity.get("content")
    known = {f.name for f in fields(ModelSpec)}
    spec = ModelSpec(**{k: v for k, v in kept.lock["model"].items() if k in known})
    if spec.is_object and folder is None:
        return _find_object(kept, spec)
    _check_beside(kept, spec)
    if content is None or spec.name == EMBEDDED:
        if folder is not None:
            raise UsageError(
                f"{kept.name} ran on {spec.name}, which is not a folder", "leave --model out"
            )
        if content is not None and spec.identity().get("content") != content:
            raise Mismatch(f"{kept.name} ran on another version of the embedded model")
        return spec
    location = (folder or Path(spec.name)).expanduser()
    if spec.file is not None or location.suffix.lower() == GGUF:
        return _find_file(kept, spec, location)
    if not (location / "config.json").is_file():
        raise NotFound(
            f"{kept.name} ran on a model in the folder {spec.name}"
            + (f", and {folder} contains no model" if folder else ", which is not here"),
            "give its new location: --model FOLDER",
        )
    if folder_digest(location) != content:
        raise Mismatch(
            f"the model in {location} is not the one {kept.name} ran on: its content has "
            "a different SHA-256",
            "give its location: --model FOLDER",
        )
    return replace(spec, name=str(location.absolute()))


def _find_file(kept: KeptRun, spec: ModelSpec, location: Path) -> ModelSpec:
    """The GGUF file that a run's model was; errors as `find_model`."""
    if not location.is_file():
        raise NotFound(
            f"{kept.name} ran on the file {spec.name}, which is not here",
            "give its new location: --model FILE",
        )
    if file_digest(location) != kept.identity.get("content"):
        raise Mismatch(
            f"{location} is not the file {kept.name} ran on: it has a different SHA-256",
            "give its location: --model FILE",
        )
    return replace(spec, name=str(location.absolute()))


def commit_of(kept: KeptRun) -> str | None:
    """The hub commit that a run loaded its model from; None if it was not recorded."""
    revision = kept.info.made.record.revision or ""
    return revision if _COMMIT.fullmatch(revision) else None


def events_of(folder: Path) -> list[Any]:
    """The events of a run.

    Raises:
        OSError, ValueError: if they cannot be read.
    """
    text = (folder / "events.jsonl").read_text(encoding="utf-8")
    return [parse_json(line) for line in text.splitlines() if line.strip()]

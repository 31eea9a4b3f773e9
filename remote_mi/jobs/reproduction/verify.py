"""Whether the parts of a run's folder belong together, without a model, a key or a GPU.

Nothing of the folder is executed. What can be found is an edit of any file and a folder put
together from several; numbers that never came from a model are found by `reproduction` only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from remote_mi.common.errors import Mismatch, RemoteMIError, UsageError
from remote_mi.jobs.reproduction.rebuild import (
    SOURCE,
    KeptRun,
    commit_of,
    events_of,
    made_before,
    read_kept,
    recorded_job,
    what_changed,
)
from remote_mi.recipes.code_identity import EARLIER_SCHEMA_NOTE
from remote_mi.store.environment import Environment
from remote_mi.store.lock import LOCK
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder
from remote_mi.store.run_info import ARRAYS as ARRAYS
from remote_mi.store.run_record import id8_of

_NAME = re.compile(r"\d{8}T\d{6}Z-.+-([0-9a-f]{8})")


@dataclass(frozen=True)
class Finding:
    """What was found of one part of a run.

    Attributes:
        part: the part, mostly a file. state: "ok", "problem", or "note" for what cannot be told.
        said: in words.
    """

    part: str
    state: Literal["ok", "problem", "note"]
    said: str


@dataclass(frozen=True)
class Verification:
    """What was found of a run.

    Attributes:
        run: its name. findings: in the order of the checks.
    """

    run: str
    findings: list[Finding]

    @property
    def holds(self) -> bool:
        """Whether nothing contradicts anything."""
        return not self.problems

    @property
    def problems(self) -> list[Finding]:
        return [f for f in self.findings if f.state == "problem"]

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run, "holds": self.holds, "findings": [vars(f) for f in self.findings]}


def verify(folder: Path, key: str = "") -> Verification:
    """Check everything of a run's folder that can be checked without running anything.

    Args:
        key: of the job that it is to be of, where something else says so.
    """
    findings: list[Finding] = []
    try:
        run = RunFolder(folder)
        findings.extend(_of_files(run))
        findings.extend(_of_result(run))
        if key and run.info.made.key != key:
            findings.append(
                Finding("run.json", "problem", "is not of the job that the study names")
            )
        kept = read_kept(folder)
        findings.extend(_of_lock(kept))
        findings.extend(list(_of_key(kept, findings)))
    except Mismatch as error:
        findings.append(Finding("run", "problem", error.message))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # It was edited into something that no run has.
        said = f"cannot be read as a run's: {type(error).__name__}: {error}"
        findings.append(Finding(LOCK, "problem", said))
    return Verification(folder.name, findings)


def _of_files(run: RunFolder) -> Iterator[Finding]:
    """Every recorded file by its hash; files that should be there or should not."""
    folder, recorded = run.path, run.info.artifacts
    for name in dict.fromkeys([ARRAYS, *recorded]):
        yield _hashed(folder, name, recorded.get(name))
    if LOCK not in recorded:
        yield Finding(
            LOCK,
            "note",
            "no hash of lock and source was recorded (an older run): an "
            "edit shows only where it changes the key",
        )
    else:
        for path in sorted((folder / SOURCE).rglob("*.py")):
            name = path.relative_to(folder).as_posix()
            if name not in recorded:
                yield Finding(name, "problem", "is not among the recorded files")
    try:
        count = len(events_of(folder))
        yield Finding("events.jsonl", "ok" if count else "problem", f"{count} events")
    except (OSError, ValueError) as error:
        yield Finding("events.jsonl", "problem", f"cannot be read: {error}")


def _hashed(folder: Path, name: str, recorded: str | None) -> Finding:
    path = folder / name
    if recorded is None:
        return Finding(name, "problem", "its SHA-256 is not recorded")
    if not path.resolve().is_relative_to(folder.resolve()):
        return Finding(name, "problem", "lies outside the run's folder")
    try:
        with path.open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        return Finding(name, "problem", f"cannot be read: {error.strerror}")
    if found != recorded:
        return Finding(name, "problem", "is not what was recorded: its SHA-256 is another")
    return Finding(name, "ok", "as recorded")


def _of_result(run: RunFolder) -> Iterator[Finding]:
    """Status, provenance and arrays."""
    info, made = run.info, run.info.made
    if info.status != "done":
        yield Finding("run.json", "problem", f"the run is {info.status}: {info.error}")
    if info.lacking or made.environment is None:
        yield Finding("run.json", "problem", f"the provenance lacks: {', '.join(info.lacking)}")
    else:
        where = made.environment
        yield Finding("run.json", "ok", f"complete: computed on {where}, {made.time}")
        yield from _of_name(run.name, made.key, where)
    try:
        result = run.result()
        wrong = _misshapen(result)
    except RemoteMIError as error:
        yield Finding(ARRAYS, "problem", error.message)
        return
    if wrong:
        yield Finding(ARRAYS, "problem", f"{wrong} does not fit what run.json says of it")


def _of_name(name: str, key: str, where: Environment) -> Iterator[Finding]:
    found = _NAME.fullmatch(name)
    expected = id8_of(key, where)
    if found and found[1] != expected:
        yield Finding(
            "run.json",
            "problem",
            f"its key and environment give the id {expected}, the folder is named {found[1]}",
        )


def _misshapen(result: Result) -> str:
    """An output whose array has not the shape of its coordinates, "" if there is none."""
    for name in filter(result.arrays.__contains__, result.names()):
        found = result[name]
        if found.shape != tuple(len(found.coords[dim]) for dim in found.dims):
            return name
    for name, output in result.outputs.items():
        count = 1 if output.of == "set" else len(result.prompts)
        if any(f"{name}@{i}" not in result.arrays for i in range(count)):
            return name
    return ""


def _of_lock(kept: KeptRun) -> Iterator[Finding]:
    """Whether lock and run.json speak of the same job."""
    source, lock = kept.info.provenance, kept.lock
    pairs = {
        "key": (source["key"], lock["key"]),
        "recipe": (kept.info.card.name, lock["recipe"]["name"]),
        "code": (source["code"], lock["recipe"]["code"]),
        "model": (source["model"], lock["model_identity"]),
        "parameters": (source["parameters"], lock["parameters"]),
        "prompts": (True, _same_prompts(kept)),
    }
    wrong = [name for name, (a, b) in pairs.items() if a != b]
    if wrong:
        yield Finding(LOCK, "problem", f"and run.json say different things of: {', '.join(wrong)}")
    else:
        yield Finding(LOCK, "ok", "says the same as run.json")


def _same_prompts(kept: KeptRun) -> bool:
    """Whether the prompts of run.json are those of the lock, some of them left out at most."""
    fields = ("clean", "corrupt", "answer", "wrong")
    every = iter([[e.get(f) for f in fields] for e in kept.lock["prompts"]["examples"]])
    return all(
        any([getattr(part, f) for f in fields] == other for other in every)
        for part in kept.info.shown.parts
    )


def _of_key(kept: KeptRun, files: list[Finding]) -> Iterator[Finding]:
    """Whether lock and copied source give the recorded key."""
    try:
        job = recorded_job(kept, kept.folder / SOURCE, kept.folder / SOURCE)
        changed = what_changed(kept, job)
        declared = job.card.to_json()
    except UsageError as error:  # defined in a notebook
        yield Finding("key", "note", f"cannot be computed again: {error.message}")
        return
    except Mismatch as error:
        yield Finding(SOURCE, "problem", error.message)
        return
    if any(declared[k] != kept.info.recipe.get(k) for k in ("name", "over", "returns")):
        yield Finding("run.json", "problem", f"the outputs it names are not those of {SOURCE}/")
    if made_before(kept):
        yield Finding("key", "note", EARLIER_SCHEMA_NOTE)
    if changed == "lock":
        yield Finding(LOCK, "problem", "what it says does not give the recorded key")
    elif not changed:
        yield Finding("key", "ok", "lock and source give it again")
    else:
        yield _of_code(files)
    if "content" not in kept.identity and commit_of(kept) is None:
        yield Finding("model", "note", "its commit is not recorded: the hub may have another now")


def _of_code(files: list[Finding]) -> Finding:
    """What it means that the code has another digest than it had."""
    own = [f for f in files if f.part.startswith(f"{SOURCE}/")]
    if any(f.state == "problem" for f in own):
        return Finding("key", "problem", "the copied source does not give it")
    if own:
        return Finding(
            "key",
            "note",
            "the source is as recorded; remote_mi's own code that it "
            "reaches is another in this version",
        )
    return Finding(
        "key",
        "note",
        "the code has another digest: the copied source, or remote_mi's "
        "own code that it reaches, is not as it was; an older run does not say which",
    )

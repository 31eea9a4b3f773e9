"""Verifying that the parts of a run's folder belong together, without a model, an API key or a GPU.

Nothing in the folder is executed. This detects edits of any file and folders assembled from several
runs; only `remote_mi.jobs.reproduction.reproduce` detects numbers that never came from a model.
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
    is_from_earlier_version,
    read_kept,
    recorded_job,
    what_changed,
)
from remote_mi.prompts.parameter import as_given
from remote_mi.recipes.code_identity import EARLIER_SCHEMA_NOTE
from remote_mi.store.environment import Environment
from remote_mi.store.lock import LOCK
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder
from remote_mi.store.run_info import ARRAYS as ARRAYS
from remote_mi.store.run_record import id8_of
from remote_mi.store.samples import PROMPT_TEXTS

_NAME = re.compile(r"\d{8}T\d{6}Z-.+-([0-9a-f]{8})")


@dataclass(frozen=True)
class Finding:
    """A finding about one part of a run.

    Attributes:
        part: the part, usually a file.
        state: "ok", "problem", or "note" for what cannot be checked.
        said: the finding in words.
    """

    part: str
    state: Literal["ok", "problem", "note"]
    said: str


@dataclass(frozen=True)
class Verification:
    """All findings about a run.

    Attributes:
        run: its name. findings: in the order of the checks.
    """

    run: str
    findings: list[Finding]

    @property
    def holds(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    @property
    def problems(self) -> list[Finding]:
        return [f for f in self.findings if f.state == "problem"]

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run, "holds": self.holds, "findings": [vars(f) for f in self.findings]}


def verify(folder: Path, key: str = "") -> Verification:
    """Check everything in a run's folder that can be checked without running anything.

    Args:
        key: the expected key of its job, if known from elsewhere.
    """
    findings: list[Finding] = []
    try:
        run = RunFolder(folder)
        findings.extend(_check_files(run))
        findings.extend(_check_result(run))
        if key and run.info.made.key != key:
            findings.append(
                Finding("run.json", "problem", "belongs to a different job than the study says")
            )
        kept = read_kept(folder)
        findings.extend(_check_lock(kept))
        findings.extend(list(_check_key(kept, findings)))
    except Mismatch as error:
        findings.append(Finding("run", "problem", error.message))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # It was edited into something that remote_mi never writes.
        problem = f"is not a valid lock: {type(error).__name__}: {error}"
        findings.append(Finding(LOCK, "problem", problem))
    return Verification(folder.name, findings)


def _check_files(run: RunFolder) -> Iterator[Finding]:
    """Check the hash of every recorded file, and find missing and unexpected files."""
    folder, recorded = run.path, run.info.artifacts
    for name in dict.fromkeys([ARRAYS, *recorded]):
        yield _check_hash(folder, name, recorded.get(name))
    if LOCK not in recorded:
        yield Finding(
            LOCK,
            "note",
            "no hash of lock and source was recorded (an older run): an "
            "edit is detected only if it changes the key",
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


def _check_hash(folder: Path, name: str, recorded: str | None) -> Finding:
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
        return Finding(name, "problem", "has changed: its SHA-256 is not the recorded one")
    return Finding(name, "ok", "as recorded")


def _check_result(run: RunFolder) -> Iterator[Finding]:
    """Check status, provenance and arrays."""
    info, made = run.info, run.info.made
    if info.status != "done":
        yield Finding("run.json", "problem", f"the run is {info.status}: {info.error}")
    if info.missing_fields or made.environment is None:
        yield Finding(
            "run.json", "problem", f"the provenance lacks: {', '.join(info.missing_fields)}"
        )
    else:
        where = made.environment
        yield Finding("run.json", "ok", f"complete: computed on {where}, {made.time}")
        yield from _check_name(run.name, made.key, where)
    try:
        result = run.result()
        wrong = _first_misshapen(result)
    except RemoteMIError as error:
        yield Finding(ARRAYS, "problem", error.message)
        return
    if wrong:
        yield Finding(ARRAYS, "problem", f"{wrong} does not match its description in run.json")


def _check_name(name: str, key: str, where: Environment) -> Iterator[Finding]:
    found = _NAME.fullmatch(name)
    expected = id8_of(key, where)
    if found and found[1] != expected:
        yield Finding(
            "run.json",
            "problem",
            f"its key and environment yield the id {expected}, but the folder is named {found[1]}",
        )


def _first_misshapen(result: Result) -> str:
    """The first output whose arrays are missing or do not fit its coordinates; "" if none."""
    for name in filter(result.arrays.__contains__, result.names()):
        array = result[name]
        if array.shape != tuple(len(array.coords[dim]) for dim in array.dims):
            return name
    for name, output in result.outputs.items():
        count = 1 if output.of == "set" else len(result.prompts)
        if any(f"{name}@{i}" not in result.arrays for i in range(count)):
            return name
    return ""


def _check_lock(kept: KeptRun) -> Iterator[Finding]:
    """Check that lock and run.json describe the same job."""
    source, lock = kept.info.provenance, kept.lock
    pairs = {
        "key": (source["key"], lock["key"]),
        "recipe": (kept.info.card.name, lock["recipe"]["name"]),
        "code": (source["code"], lock["recipe"]["code"]),
        "model": (source["model"], lock["model_identity"]),
        "parameters": (
            source["parameters"],
            {name: as_given(value) for name, value in lock["parameters"].items()},
        ),
        "prompts": (True, _same_prompts(kept)),
    }
    wrong = [name for name, (a, b) in pairs.items() if a != b]
    if wrong:
        yield Finding(LOCK, "problem", f"and run.json disagree about: {', '.join(wrong)}")
    else:
        yield Finding(LOCK, "ok", "agrees with run.json")


def _same_prompts(kept: KeptRun) -> bool:
    """Whether the prompts of run.json are the lock's, in order, possibly with some left out."""
    every = iter([[e.get(f) for f in PROMPT_TEXTS] for e in kept.lock["prompts"]["examples"]])
    return all(
        any([getattr(part, f) for f in PROMPT_TEXTS] == other for other in every)
        for part in kept.info.parsed_document.parts
    )


def _check_key(kept: KeptRun, files: list[Finding]) -> Iterator[Finding]:
    """Check that lock and copied source yield the recorded key."""
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
        yield Finding("run.json", "problem", f"its outputs differ from the recipe's in {SOURCE}/")
    if is_from_earlier_version(kept):
        yield Finding("key", "note", EARLIER_SCHEMA_NOTE)
    if changed == "lock":
        yield Finding(LOCK, "problem", "does not yield the recorded key")
    elif not changed:
        yield Finding("key", "ok", "lock and source yield it")
    else:
        yield _code_finding(files)
    if "content" not in kept.identity and commit_of(kept) is None:
        yield Finding(
            "model", "note", "its commit is not recorded: the hub may have a different one now"
        )


def _code_finding(files: list[Finding]) -> Finding:
    """The finding for a code digest that differs from the recorded one."""
    own = [f for f in files if f.part.startswith(f"{SOURCE}/")]
    if any(f.state == "problem" for f in own):
        return Finding("key", "problem", "the copied source does not yield it")
    if own:
        return Finding(
            "key",
            "note",
            "the source is as recorded; remote_mi's own code that it "
            "reaches is different in this version",
        )
    return Finding(
        "key",
        "note",
        "the code has a different digest: the copied source, or remote_mi's "
        "own code that it reaches, has changed; an older run does not record which",
    )

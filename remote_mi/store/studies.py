"""The records of a project's studies: their points, and the state of each.

    <project>/runs/study-<name>/
      study.yaml       a copy of the study file
      study.json       title, question, chosen figures, and every point with its job's key
      claims.jsonl     append-only; every claim as it was when `study run` first met it
      progress.jsonl   append-only; one line whenever a point is submitted, done or failed

The numbers are in the runs that the points name, in the same runs/ folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.common.atomic_files import store_error, write_atomically
from remote_mi.common.errors import Mismatch, NotFound, not_found
from remote_mi.common.named_files import named_files
from remote_mi.common.valid_json import parse_json, to_json
from remote_mi.store.claims.claim import Claim, FrozenClaim, freeze, withdrawn
from remote_mi.store.grid_comparison import GridComparison
from remote_mi.store.typed_json import WrongJson, dataclass_from_json

SCHEMA = 1
PREFIX = "study-"
#: States of a point; the next `study run` tries every point again that is not done.
STATES = ("waiting", "submitted", "done", "failed")


@dataclass
class PointRecord:
    """A point of a study.

    Attributes:
        index: in the study's order. recipe, model, prompts: their names. seed: of the phenomenon.
        parameters: as given. backend: as requested. key: the job's; "" if the job is invalid.
        state: one of `STATES`. run: name of its run. error: why it failed.
        where: the backend that it was sent to.
    """

    index: int
    recipe: str
    model: str
    prompts: str
    parameters: dict[str, Any]
    seed: int | None
    backend: str
    key: str
    state: str = "waiting"
    run: str | None = None
    error: str | None = None
    where: str = ""


@dataclass
class StudyRecord:
    """A study as recorded in its folder.

    Attributes:
        figures: recipe → names of the chosen figures; a recipe without an entry shows all.
        claims: what it expects. compare: comparisons across its points.
        path: its folder.
    """

    name: str
    title: str
    question: str
    points: list[PointRecord]
    figures: Mapping[str, list[str]] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    compare: list[GridComparison] = field(default_factory=list)
    path: Path = Path()

    @property
    def withdrawn(self) -> list[FrozenClaim]:
        """The registered claims that the study no longer makes, or makes in other words."""
        return withdrawn(self.path, self.claims)

    def counts(self) -> dict[str, int]:
        """State → number of points in it."""
        return {state: sum(p.state == state for p in self.points) for state in STATES}


class StudyRecords:
    """The studies of a project, which may have none."""

    def __init__(self, project: Path) -> None:
        self.folder = project / "runs"

    def names(self) -> list[str]:
        """Names of all studies that were ever started."""
        try:
            entries = sorted(os.listdir(self.folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [e.removeprefix(PREFIX) for e in entries if e.startswith(PREFIX)]

    def path(self, name: str) -> Path:
        """The folder of a study."""
        return self.folder / f"{PREFIX}{name}"

    def read(self, name: str) -> StudyRecord:
        """A study by its name.

        Raises:
            NotFound: with the nearest name. Mismatch: if its folder is damaged or newer.
        """
        name = name.removeprefix(PREFIX)
        if name not in self.names():
            if name in named_files("studies", self.folder.parent):
                raise NotFound(
                    f"the study {name!r} has not been run here yet", f"remote-mi study run {name}"
                )
            raise not_found("study", name, self.names(), "remote-mi study ls")
        return read_study_folder(self.path(name))

    def begin(
        self, record: StudyRecord, text: bytes, results: Mapping[int, bool] | None = None
    ) -> StudyRecord:
        """Record a study before any of it runs; progress on the same jobs is kept.

        Args:
            text: the study's file.
            results: index of a point that a claim speaks of → whether there is a result already.

        Raises:
            StoreError: if the project cannot be written.
        """
        record.path = self.path(record.name)
        self._freeze_claims(record, results or {})
        points = [
            {k: v for k, v in vars(p).items() if k not in ("state", "run", "error", "where")}
            for p in record.points
        ]
        content = {
            "schema": SCHEMA,
            "name": record.name,
            "title": record.title,
            "question": record.question,
            "figures": dict(record.figures),
            "points": points,
            "claims": [asdict(claim) for claim in record.claims],
            "compare": [asdict(comparison) for comparison in record.compare],
        }
        data = to_json(content).encode()
        try:
            record.path.mkdir(parents=True, exist_ok=True)
            for name, new in (("study.yaml", text), ("study.json", data)):
                path = record.path / name
                if not path.exists() or path.read_bytes() != new:
                    write_atomically(path, new, record.path / ".tmp")
            if (record.path / ".tmp").is_dir():
                (record.path / ".tmp").rmdir()
        except OSError as error:
            raise store_error(error, record.path, "the study") from error
        _replay(record)
        return record

    def _freeze_claims(self, record: StudyRecord, results: Mapping[int, bool]) -> None:
        """Set the status of the claims, and freeze new ones before anything else is written."""
        begun = any(entry["state"] == "done" for entry in _progress(record.path))
        try:
            if record.claims:
                record.path.mkdir(parents=True, exist_ok=True)
                record.claims = freeze(record.path, record.claims, results, begun)
        except OSError as error:
            raise store_error(error, record.path, "the study's claims") from error

    def note(self, record: StudyRecord, *points: PointRecord) -> None:
        """Append the states of points to the progress file.

        Raises:
            StoreError: if the project cannot be written.
        """
        now = round(time.time(), 3)
        lines = [
            to_json(
                {
                    "time": now,
                    "key": p.key,
                    "state": p.state,
                    "run": p.run,
                    "error": p.error,
                    "where": p.where,
                }
            )
            + "\n"
            for p in points
        ]
        try:
            with (record.path / "progress.jsonl").open("a", encoding="utf-8") as file:
                file.write("".join(lines))
        except OSError as error:
            raise store_error(error, record.path, "the study's progress") from error


def read_study_folder(folder: Path) -> StudyRecord:
    """The study in a folder, which need not be in a project.

    Raises:
        Mismatch: if it is damaged or has a newer schema.
    """
    path = folder / "study.json"
    try:
        data = parse_json(path.read_bytes())
        if data["schema"] != SCHEMA:
            raise Mismatch(
                f"{path} has schema {data['schema']}, this version reads {SCHEMA}",
                "update remote_mi",
            )
        record = dataclass_from_json(StudyRecord, {**data, "path": folder}, "")
    except FileNotFoundError:
        raise Mismatch(f"{folder} is not a study: it has no study.json") from None
    except (OSError, ValueError, KeyError, TypeError, WrongJson) as error:
        raise Mismatch(f"{path} is damaged: {error}", "run the study again") from None
    _replay(record)
    return record


def _progress(folder: Path) -> list[dict[str, Any]]:
    """The lines of a study's progress file that can be read."""
    try:
        lines = (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        try:
            entry = parse_json(line)
            if entry["key"] and entry.get("state") in STATES:
                found.append(entry)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # the last line of a process that was killed
    return found


def _replay(record: StudyRecord) -> None:
    """Set the points' states from the progress file."""
    latest = {str(entry["key"]): entry for entry in _progress(record.path)}
    for point in record.points:
        entry = latest.get(point.key) if point.key else None
        if entry is None:
            continue
        told = {name: entry.get(name) for name in ("run", "error", "where")}
        point.state = entry["state"]
        point.run, point.error, where = (
            text if isinstance(text, str) else None for text in told.values()
        )
        point.where = where or ""

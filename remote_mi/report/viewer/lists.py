"""The viewer's lists: runs, studies, jobs on servers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from remote_mi.common.errors import RemoteMIError
from remote_mi.common.text import ago, line, pad_or_cut
from remote_mi.report.listing import Item, Listing, make_listing
from remote_mi.report.viewer.opened_run import run_argument
from remote_mi.store.run_index import RunRow
from remote_mi.store.runs import Runs
from remote_mi.store.studies import PointRecord, StudyRecords

if TYPE_CHECKING:
    from remote_mi.backends.ledger import Entry

_SIGNS = {"done": "✓", "failed": "✗", "damaged": "!", "": " "}
#: Maximum number of finished jobs listed, below the open ones.
_MOST_FINISHED = 200
#: Maximum number of runs read from a folder without an index (not the project's).
_MOST_UNINDEXED = 500


@dataclass
class RunTable:
    """The runs of a folder, newest first; their details are loaded after the names.

    Attributes:
        room: the runs. names: newest first. rows: name → details of the run.
        marked: folders of the marked runs. current: folder of the run that is shown.
    """

    room: Runs
    marked: list[Path]
    current: Path | None = None
    names: list[str] = field(default_factory=list)
    rows: Mapping[str, RunRow] = field(default_factory=dict)

    def reread(self) -> None:
        """Read the names again; details already loaded are kept."""
        self.names = self.room.ids()[::-1]

    def listing(self, width: int) -> Listing:
        """One line per run."""
        shown = (
            self.current.name if self.current and self.current.parent == self.room.folder else None
        )
        start = self.names.index(shown) if shown in self.names else 0
        date, wide = _columns(width)
        head = Text(
            f"   id        {'time (UTC)':<{16 - date}}  {'recipe':<{wide}} model, prompts, parameters",
            "bold",
        )
        empty = f"no runs in {self.room.folder}; `remote-mi demo` makes one"
        return Listing(
            len(self.names), lambda i: self._line(i, width), self._item, [head], start, empty
        )

    def _line(self, index: int, width: int) -> Text:
        name = self.names[index]
        stamp, recipe, id8 = _split_name(name)
        row = self.rows.get(name)
        sign = _SIGNS.get(row.status if row else "", "?")
        mark = "●" if self.room.folder / name in self.marked else " "
        date, wide = _columns(width)
        text = Text(
            f" {mark}{sign}{id8}  {stamp[date:]}  {pad_or_cut(line(recipe), wide)} ", no_wrap=True
        )
        if row is not None:
            text.append(_describe(row), "" if row.status == "done" else "bold")
        return text

    def _item(self, index: int) -> Item:
        name = self.names[index]
        row = self.rows.get(name)
        sentences = [name]
        if row is not None and row.problem:
            sentences.append(line(row.problem))
        elif row is not None:
            numbers = "  ".join(f"{line(k)} {v:.3g}" for k, v in row.scalars.items())
            sentences += [x for x in (_describe(row), numbers) if x]
        folder = self.room.folder / name
        return Item(
            tuple(sentences),
            f"remote-mi view {run_argument(folder)}",
            folder,
            search_text=" ".join(sentences),
        )


def _columns(width: int) -> tuple[int, int]:
    """Characters of the date to omit, and cells for the recipe's name."""
    return (0, 24) if width >= 110 else (5, 24) if width >= 76 else (5, 16)


def _split_name(name: str) -> tuple[str, str, str]:
    """Time, recipe and id in a run's name."""
    stamp, _, rest = name.partition("-")
    recipe, _, id8 = rest.rpartition("-")
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]}", recipe, id8


def _describe(row: RunRow) -> str:
    if row.problem:
        return line(row.problem)
    given = ", ".join(f"{k}={v}" for k, v in row.parameters.items())
    tags = " ".join(f"#{tag}" for tag in row.tags)
    return "  ".join(line(x) for x in (tags, row.model, row.prompts or "", given) if x)


def read_rows(room: Runs, project: Path) -> dict[str, RunRow]:
    """Details of every run, by name; only of the newest if the runs have no index."""
    if room.folder == project / "runs":
        return {row.name: row for row in room.rows()}
    return {name: room.row(name) for name in room.ids()[-_MOST_UNINDEXED:]}


def study_listing(records: StudyRecords) -> Listing:
    """One line per study, with its progress."""
    lines = []
    for name in records.names():
        try:
            record = records.read(name)
        except RemoteMIError as error:
            lines.append((Text(f"  ! {line(name)}", no_wrap=True), Item((line(str(error)),))))
            continue
        counts = {state: many for state, many in record.counts().items() if many}
        progress = ", ".join(f"{many} {state}" for state, many in counts.items())
        text = Text(
            f"    {pad_or_cut(line(name), 24)} {len(record.points):>5} points: {progress}",
            no_wrap=True,
        )
        words = [line(x) for x in (record.title, record.question) if x]
        item = Item(
            tuple(words or [name]), f"remote-mi study run {record.path / 'study.yaml'}", study=name
        )
        lines.append((text, item))
    return make_listing(lines, (), "no studies; `remote-mi study run FILE` starts one")


def point_listing(records: StudyRecords, name: str) -> Listing:
    """One line per point of a study.

    Raises:
        NotFound, Mismatch: if the study does not exist or is damaged.
    """
    record = records.read(name)
    every = [_settings(point) for point in record.points]
    names = list(dict.fromkeys(key for settings in every for key in settings))
    same = {n for n in names if len(every) > 1 and len({str(f.get(n)) for f in every}) == 1}
    differing = [
        _settings_text(settings, [n for n in names if n not in same]) for settings in every
    ]
    head = [Text(f" {line(name)}: {line(record.title)}", "bold")]
    if same:
        head.append(
            Text(f" all: {_settings_text(every[0], [n for n in names if n in same])}", "dim")
        )

    def shown(index: int) -> Text:
        point = record.points[index]
        sign = {"done": "✓", "failed": "✗", "submitted": "▶"}.get(point.state, "·")
        return Text(f"  {sign} {point.index:>4}  {differing[index]}", no_wrap=True)

    def item(index: int) -> Item:
        point = record.points[index]
        sentences = [f"{point.state}: {_settings_text(every[index], names)}"]
        sentences.append(line(point.error or "") if point.error else point.run or "not run yet")
        run = records.folder / point.run if point.run else None
        command = f"remote-mi view {run_argument(run)}" if run else ""
        return Item(tuple(sentences), command, run)

    return Listing(len(record.points), shown, item, head)


def _settings(point: PointRecord) -> dict[str, str]:
    """The settings of a point by name; names that are not displayed begin with a space."""
    settings = {" recipe": point.recipe, " model": point.model, " prompts": point.prompts}
    settings |= {k: str(v) for k, v in point.parameters.items()}
    return settings | ({" seed": f"seed {point.seed}"} if point.seed is not None else {})


def _settings_text(settings: Mapping[str, str], names: Sequence[str]) -> str:
    parts = [
        settings[n] if n.startswith(" ") else f"{n}={settings[n]}" for n in names if n in settings
    ]
    return "  ".join(line(part) for part in parts if part)


def read_jobs(project: Path) -> list[Entry]:
    """The jobs of a project's ledger: the open ones, then the newest of the others.

    Raises:
        StoreError: if the ledger cannot be read.
    """
    from remote_mi.backends.ledger import Ledger  # slow to import, and most have no jobs

    every = Ledger(project).all()[::-1]
    going = [e for e in every if e.is_open]
    return [*going, *[e for e in every if not e.is_open][:_MOST_FINISHED]]


def job_listing(entries: Sequence[Entry], project: Path) -> Listing:
    """One line per job, with the state last reported by the server."""
    head = Text(f"   id        {'since':>8}  {'state':<12} recipe, model, server", "bold")
    lines = []
    for entry in entries:
        state = entry.state
        if state == "submitted":
            state = entry.status.lower() or state
        sign = "▶" if entry.is_open else "✓" if entry.state == "done" else "✗"
        text = Text(
            f"  {sign}{entry.id[:8]}  {ago(entry.created):>8}  {pad_or_cut(line(state), 12)} "
            f"{line(entry.recipe)}  {line(entry.model)}  {line(entry.url)}",
            no_wrap=True,
        )
        sentences = [f"job {entry.id} · {line(state)}{_expiry_text(entry)}"]
        if entry.run:
            sentences.append(f"run {entry.run} (Enter opens it)")
        if entry.error:
            sentences.append(line(str(entry.error.get("message", ""))))
        run = project / "runs" / entry.run if entry.run else None
        command = f"remote-mi jobs {'wait' if entry.is_open else 'show'} {entry.id[:8]}"
        lines.append((text, Item(tuple(sentences), command, run)))
    return make_listing(
        lines, [head], "no jobs on servers; `remote-mi run … --backend ndif` submits one"
    )


def _expiry_text(entry: Entry) -> str:
    if not entry.is_open or entry.deadline is None:
        return ""
    left = entry.deadline - time.time()
    return (
        f" · its result is kept for {left / 60:.0f} min"
        if left > 0
        else " · its result has expired"
    )

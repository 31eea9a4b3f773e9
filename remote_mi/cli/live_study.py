"""Progress of a study on a terminal: one live table of what is done, running and in flight."""

from __future__ import annotations

import time

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from remote_mi.common.console import terminal_console
from remote_mi.common.progress import Pace, Watch, describe_progress
from remote_mi.common.text import line
from remote_mi.store.studies import PointRecord, StudyRecord

#: Points that are shown at a time.
_MAX_ROWS = 10


class _RowWatch:
    """Shows the latest progress of one point in its row."""

    def __init__(self, rows: dict[int, str], index: int) -> None:
        self._rows, self._index = rows, index
        self._pace = Pace()

    def stage(self, text: str) -> None:
        self._pace = Pace()
        self._rows[self._index] = text

    def advance(self, done: int, total: int, unit: str) -> None:
        left = self._pace.seconds_left(done, total)
        self._rows[self._index] = describe_progress(done, total, unit, left)

    def note(self, text: str) -> None:
        pass


class LiveOverview:
    """Shows, redrawn in place, how many points are done and what the others are doing."""

    def __init__(self) -> None:
        self._record: StudyRecord | None = None
        self._busy: dict[int, str] = {}
        self._started = time.monotonic()
        self._live = Live(
            console=terminal_console(stderr=True),
            get_renderable=self._render,
            transient=True,
            refresh_per_second=8,
        )

    def __enter__(self) -> LiveOverview:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begin(self, record: StudyRecord) -> None:
        self._record = record

    def point(self, point: PointRecord) -> None:
        if point.state in ("done", "failed"):
            self._busy.pop(point.index, None)

    def watch(self, point: PointRecord) -> Watch:
        return _RowWatch(self._busy, point.index)

    def _render(self) -> Group:
        record = self._record
        if record is None:
            return Group(Text("planning …"))
        counts = record.counts()
        ended, total = counts["done"] + counts["failed"], len(record.points)
        head = Table.grid(padding=(0, 1, 0, 0))
        seconds = int(time.monotonic() - self._started)
        head.add_row(
            Text(line(record.name), style="bold"),
            ProgressBar(total=max(1, total), completed=ended, width=24),
            Text(f"{ended}/{total}"),
            Text(f"{counts['failed']} failed", style="red") if counts["failed"] else Text(""),
            Text(f"{seconds // 60}:{seconds % 60:02d}", style="dim"),
        )
        rows = Table.grid(padding=(0, 2, 0, 0))
        for index, progress in list(self._busy.items())[:_MAX_ROWS]:
            point = record.points[index]
            # A record says where a point runs only if that is not here.
            where = point.where or point.backend.replace("auto", "local")
            rows.add_row(
                Text(where, style="dim"),
                Text(point.recipe),
                Text(line(point.prompts)),
                Text(line(progress), style="dim"),
            )
        if len(self._busy) > _MAX_ROWS:
            rows.add_row(Text(f"and {len(self._busy) - _MAX_ROWS} more", style="dim"))
        return Group(head, rows)

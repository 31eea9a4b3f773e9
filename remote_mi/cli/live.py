"""Progress on a terminal: one line, redrawn in place."""

from __future__ import annotations

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from remote_mi.common.console import terminal_console
from remote_mi.common.errors import sanitize
from remote_mi.common.progress import Pace, describe_progress


class LiveWatch:
    """Shows progress as one line redrawn in place: spinner, stage, bar, time."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=terminal_console(stderr=True),
            transient=True,
        )
        self._pace = Pace()
        self._task = self._progress.add_task("", total=None, count="")

    def __enter__(self) -> LiveWatch:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, text: str) -> None:
        self._pace = Pace()
        # Reset rather than update: a task that was once complete would stay finished.
        self._progress.reset(self._task, total=None, description=sanitize(text), count="")

    def advance(self, done: int, total: int, unit: str) -> None:
        left = self._pace.seconds_left(done, total)
        count = describe_progress(done, total, unit, left)
        self._progress.update(self._task, total=total or None, completed=done, count=count)

    def note(self, text: str) -> None:
        self._progress.console.print(sanitize(text), markup=False)

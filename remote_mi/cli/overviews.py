"""What shows the progress of a study: a live table on a terminal, lines, lines of JSON, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from remote_mi.cli.output import JsonWatch, say
from remote_mi.common.errors import first_line, sanitize
from remote_mi.common.progress import Silent, Watch
from remote_mi.common.valid_json import to_json
from remote_mi.store.studies import PointRecord, StudyRecord


@contextmanager
def open_overview(quiet: bool, form: str | None = None) -> Iterator[Any]:
    """What shows a study's progress; arguments as for `remote_mi.cli.output.show_progress`."""
    if form == "json":
        yield JsonOverview()
    elif quiet:
        yield SilentOverview()
    elif sys.stderr.isatty():
        from remote_mi.cli.live_study import LiveOverview

        with LiveOverview() as overview:
            yield overview
    else:
        yield LineOverview()


class SilentOverview:
    """Shows nothing."""

    def begin(self, record: StudyRecord) -> None:
        pass

    def point(self, point: PointRecord) -> None:
        pass

    def watch(self, point: PointRecord) -> Watch:
        return Silent()


class LineOverview(SilentOverview):
    """Prints one line per finished point, for logs and pipes."""

    def begin(self, record: StudyRecord) -> None:
        self.left = sum(p.state != "done" for p in record.points)
        self.total = len(record.points)

    def point(self, point: PointRecord) -> None:
        if point.state == "submitted":
            say(f"… {point.recipe} on {point.prompts}: submitted to {point.where}")
            return
        self.left -= 1
        outcome = (
            point.run
            if point.state == "done"
            else f"failed: {first_line(RuntimeError(point.error))}"
        )
        say(
            f"[{self.total - self.left}/{self.total}] {point.recipe} on {point.prompts}: "
            f"{sanitize(str(outcome))}"
        )


class JsonOverview(SilentOverview):
    """Every event as a line of JSON on stderr, for programs.

    `event` is "study" (`points`: how many there are) or "point", with `point`, `recipe`, `prompts`,
    `state`, `run`, `error`; or of `JsonWatch`, with the `point` it is about.
    """

    def _write(self, event: str, **content: Any) -> None:
        print(to_json({"event": event, **content}), file=sys.stderr, flush=True)

    def begin(self, record: StudyRecord) -> None:
        done = sum(point.state == "done" for point in record.points)
        self._write("study", name=record.name, points=len(record.points), done=done)
        self._watches: dict[int, JsonWatch] = {}

    def point(self, point: PointRecord) -> None:
        self._write(
            "point",
            point=point.index,
            recipe=point.recipe,
            prompts=point.prompts,
            state=point.state,
            run=point.run or None,
            error=point.error or None,
        )

    def watch(self, point: PointRecord) -> Watch:
        return self._watches.setdefault(point.index, JsonWatch({"point": point.index}))

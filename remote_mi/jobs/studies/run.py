"""Running a study: local jobs in one lane a model, remote ones in flight at the same time.

Nothing is lost by an end in the middle: a finished local job is in the store, a remote one is
looked after by the collector, and the next `run_study` goes on from there.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from remote_mi.backends.ledger import Ledger
from remote_mi.backends.registry import parse_backend
from remote_mi.common.errors import RemoteMIError, UsageError, first_line
from remote_mi.common.progress import Watch
from remote_mi.jobs import start_collector
from remote_mi.jobs.dispatch.plan import Plan
from remote_mi.jobs.runner import execute, hand_over_planned
from remote_mi.jobs.studies import local_worker
from remote_mi.jobs.studies.plan import PlannedPoint, StudyPlan
from remote_mi.store.result import Result
from remote_mi.store.studies import PointRecord, StudyRecord, StudyRecords

#: How often remote jobs and the lane are looked at, in seconds.
PAUSE_S = 0.1
#: Jobs that a lane is told of beforehand, so that it need not wait for the next.
_AHEAD = 2


def goes_on_alone(plan: Plan) -> bool:
    """Whether a job runs on while nobody waits for it, and is not to be done in a lane."""
    return parse_backend(plan.chosen.backend)[0].detaches


class Overview(Protocol):
    """Something that shows how a study goes."""

    def begin(self, record: StudyRecord) -> None:
        """The study, before anything of it runs."""
        ...

    def point(self, point: PointRecord) -> None:
        """A point's state has changed."""
        ...

    def watch(self, point: PointRecord) -> Watch:
        """Something that shows what is being done about a point."""
        ...


def run_study(
    plan: StudyPlan, project: Path, overview: Overview, max_remote: int, text: bytes
) -> StudyRecord:
    """Run what of a study is not there yet; points that fail are recorded, and the rest goes on.

    Args:
        max_remote: the most jobs on servers at one time. text: the study's file.

    Raises:
        UsageError: if the same study is running already. StoreError: if nothing can be written.
    """
    records = StudyRecords(project)
    study = plan.study
    figures = {name: list(chosen) for name, chosen in study.figures.items()}
    record = StudyRecord(study.name, study.title, study.question, [], figures)
    record.points = [replace(p.record, state="waiting", run=None) for p in plan.points]
    record = records.begin(record, text)
    changed = []
    for point, planned in zip(record.points, plan.points, strict=True):
        # What is there now is truer than what was written down.
        before = (point.state, point.run)
        point.state, point.run = ("done" if planned.run else "waiting"), planned.run
        if (point.state, point.run) != before:
            point.error, point.where = None, ""
            if planned.run or before[0] == "done":
                changed.append(point)
    records.note(record, *changed)
    locks = Ledger(project).folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks.parent / ".gitignore").write_text("*\n")
    try:
        with FileLock(locks / f"study-{study.name}", timeout=0):
            overview.begin(record)
            _StudyRun(plan, record, project, overview, max_remote).go()
    except Timeout:
        raise UsageError(
            f"the study {study.name!r} is running already",
            f"`remote-mi study show {study.name}` says how far it is",
        ) from None
    return record


class _StudyRun:
    """One run of a study."""

    def __init__(
        self, plan: StudyPlan, record: StudyRecord, project: Path, overview: Overview, most: int
    ) -> None:
        self.record, self.project, self.overview, self.most = record, project, overview, most
        self.records = StudyRecords(project)
        self.remote: deque[PlannedPoint] = deque()
        self.in_flight: dict[str, PlannedPoint] = {}
        self.ledger = Ledger(project)
        lanes: dict[str, list[PlannedPoint]] = {}
        first: dict[str, PlannedPoint] = {}
        self.twins: dict[int, list[PlannedPoint]] = {}
        for point in plan.points:
            if point.run or point.job is None or point.problem:
                continue
            same = first.setdefault(point.job.key + point.point.backend, point)
            if same is not point:
                self.twins.setdefault(same.point.index, []).append(point)
            elif point.where is not None and goes_on_alone(point.where):
                self.remote.append(point)
            else:
                lanes.setdefault(repr(point.point.model), []).append(point)
        self.lanes = deque(deque(points) for points in lanes.values())
        self.lane: _Lane | None = None
        for point in plan.points:
            if point.problem:
                self.end(point, error=point.problem)

    def go(self) -> None:
        """Until every point is done or has failed."""
        try:
            while self.lanes or self.lane or self.remote or self.in_flight:
                self._feed_lane()
                self._send_one()
                self._look()
                self._hear()
        finally:
            if self.lane is not None:
                self.lane.stop()

    def end(self, point: PlannedPoint, run: str | None = None, error: str | None = None) -> None:
        """A point is done, or has failed."""
        for same in (point, *self.twins.get(point.point.index, ())):
            entry = self._entry(same)
            entry.state, entry.run, entry.error = ("done" if run else "failed"), run, error
            self.records.note(self.record, entry)
            self.overview.point(entry)

    def _entry(self, point: PlannedPoint) -> PointRecord:
        return self.record.points[point.point.index]

    # --- local ---

    def _feed_lane(self) -> None:
        """Start the next lane where none runs, and tell the running one of its next jobs."""
        if self.lane is None and self.lanes:
            points = self.lanes.popleft()
            self._take_cached(points)
            if points:
                self.lane = _Lane(self.project, points)
        if self.lane is not None:
            self.lane.feed()

    def _take_cached(self, points: deque[PlannedPoint]) -> None:
        """Make the runs of what the cache has; that needs no model, and so no lane."""
        for point in [p for p in points if p.cached]:
            points.remove(point)
            assert point.job is not None
            try:
                watch = self.overview.watch(self._entry(point))
                self.end(point, execute(point.job, point.point.backend, None, watch).run_id)
            except RemoteMIError as error:
                self.end(point, error=str(error))

    def _hear(self) -> None:
        """Take what the lane says, waiting a moment for it."""
        if self.lane is None:
            if self.in_flight:
                time.sleep(PAUSE_S)
            return
        for said in self.lane.heard(PAUSE_S):
            point = self.lane.told.get(said.get("job", -1))
            if point is None:
                continue
            entry = self._entry(point)
            if "state" in said:
                del self.lane.told[said["job"]]
                self.end(point, said.get("run"), said.get("error"))
            elif "stage" in said:
                self.overview.watch(entry).stage(said["stage"])
            elif "total" in said:
                self.overview.watch(entry).advance(said["done"], said["total"], said["unit"])
        if self.lane.is_over:
            self._lane_is_over(self.lane)

    def _lane_is_over(self, over: _Lane) -> None:
        """Go on after a lane has ended, also where it crashed in the middle of a job."""
        self.lane = None
        unfinished = [over.told[number] for number in sorted(over.told)]
        if unfinished:  # it was at the first; the others it had not begun
            self.end(
                unfinished[0],
                error=f"the process that ran it ended ({over.how_it_ended()}); "
                "if memory ran out: a smaller dtype, shorter prompts or fewer pairs",
            )
        rest = deque([*unfinished[1:], *over.points])
        if rest:
            self.lanes.appendleft(rest)

    # --- remote ---

    def _send_one(self) -> None:
        """Send the next job to its server, where there is room."""
        if not self.remote or len(self.in_flight) >= self.most:
            return
        point = self.remote.popleft()
        assert point.job is not None and point.where is not None
        entry = self._entry(point)
        entry.where = point.where.chosen.backend
        watch = self.overview.watch(entry)
        watch.stage(f"submitting to {entry.where}")
        try:
            handed = hand_over_planned(point.job, point.where, watch)
        except RemoteMIError as error:
            self.end(point, error=str(error))
            return
        if isinstance(handed, Result):
            self.end(point, handed.run_id)
            return
        # It fetches the results, also if this process is killed.
        start_collector.start(self.project)
        self.in_flight[handed.id] = point
        entry.state = "submitted"
        self.records.note(self.record, entry)
        self.overview.point(entry)

    def _look(self) -> None:
        """See in the ledger what has become of the jobs in flight."""
        for job_id, point in list(self.in_flight.items()):
            found = self.ledger.get(job_id)
            if found.is_open:
                said = found.status.lower() or "submitted"
                self.overview.watch(self._entry(point)).stage(said)
                continue
            del self.in_flight[job_id]
            if found.state == "done":
                self.end(point, found.run or "")
            else:
                said = (found.error or {}).get("message") or f"the job is {found.state}"
                self.end(point, error=str(said))


class _Lane:
    """The process in which jobs on one model run; see `remote_mi.jobs.studies.local_worker`."""

    def __init__(self, project: Path, points: deque[PlannedPoint]) -> None:
        self.points = points
        self.told: dict[int, PlannedPoint] = {}
        self.said: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.is_over = self.closed = False
        logs = project / ".remote_mi"
        with (logs / "lane.log").open("wb") as log:
            # In a session of its own: Ctrl-C is for us, and we end it.
            self.process = subprocess.Popen(
                [sys.executable, "-m", local_worker.MODULE, str(project)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env={**os.environ, "REMOTE_MI_PROJECT": str(project)},
            )
        self.log = logs / "lane.log"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self.said.put(json.loads(line))
            except ValueError:
                continue
        self.said.put(None)

    def feed(self) -> None:
        """Tell it of its next jobs, or that there are no more."""
        while self.points and len(self.told) < _AHEAD:
            point = self.points.popleft()
            self.told[point.point.index] = point
            assert point.job is not None
            where = point.where.chosen.backend if point.where else point.point.backend
            self._write(local_worker.job_message(point.point, point.job.key, where))
        if not self.points and not self.told and not self.closed:
            self.closed = True
            self._write({})

    def _write(self, told: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(told) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended; its listener says so

    def heard(self, patience: float) -> list[dict[str, Any]]:
        """What it has said since; waits for the first word."""
        found: list[dict[str, Any]] = []
        try:
            said = self.said.get(timeout=patience)
            while said is not None:
                found.append(said)
                said = self.said.get_nowait()
            self.is_over = True
        except queue.Empty:
            pass
        return found

    def how_it_ended(self) -> str:
        """Its exit code, and the last that it or a library of it said."""
        code = self.process.wait(timeout=10)
        said = self.log.read_text(errors="replace").strip().splitlines()
        return f"exit code {code}" + (f": {first_line(RuntimeError(said[-1]))}" if said else "")

    def stop(self) -> None:
        """End it, and with it the job at hand."""
        self.process.kill()
        self.process.wait(timeout=10)

"""Running a study: local jobs in one lane per model, remote jobs in flight at the same time.

Nothing is lost if it is interrupted: finished local jobs are in the store, remote ones are
fetched by the collector, and the next `run_study` continues from there.
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
from remote_mi.jobs.runner import execute, submit_planned
from remote_mi.jobs.studies import local_worker
from remote_mi.jobs.studies.plan import PlannedPoint, StudyPlan
from remote_mi.store.result import Result
from remote_mi.store.studies import PointRecord, StudyRecord, StudyRecords

#: How often remote jobs and the lane are polled, in seconds.
PAUSE_S = 0.1
#: Jobs sent to a lane in advance, so that it need not wait for the next.
_AHEAD = 2


def runs_detached(plan: Plan) -> bool:
    """Whether the chosen backend runs a job in the background, so that it needs no lane."""
    return parse_backend(plan.chosen.backend)[0].detaches


class Overview(Protocol):
    """Displays the progress of a study."""

    def begin(self, record: StudyRecord) -> None:
        """Called with the study before any of it runs."""
        ...

    def point(self, point: PointRecord) -> None:
        """Called when a point's state has changed."""
        ...

    def watch(self, point: PointRecord) -> Watch:
        """Displays the progress of a point."""
        ...


def run_study(
    plan: StudyPlan, project: Path, overview: Overview, max_remote: int, text: bytes
) -> StudyRecord:
    """Run all points of a study without a result; failures are recorded, and the rest continues.

    Args:
        max_remote: most jobs on servers at one time. text: content of the study's file.

    Raises:
        UsageError: if the same study is already running. StoreError: if nothing can be written.
    """
    records = StudyRecords(project)
    study = plan.study
    figures = {name: list(chosen) for name, chosen in study.figures.items()}
    record = StudyRecord(study.name, study.title, study.question, [], figures)
    record.points = [replace(p.record, state="waiting", run=None) for p in plan.points]
    record.claims, record.compare = plan.claims(), list(study.compare)
    results = {p.point.index: bool(p.run or p.cached) for p in plan.points}
    record = records.begin(record, text, results)
    changed = []
    for point, planned in zip(record.points, plan.points, strict=True):
        # What exists now takes precedence over what was recorded.
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
            _StudyRun(plan, record, project, overview, max_remote).run()
    except Timeout:
        raise UsageError(
            f"the study {study.name!r} is already running",
            f"`remote-mi study show {study.name}` shows its progress",
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
            elif point.where is not None and runs_detached(point.where):
                self.remote.append(point)
            else:
                lanes.setdefault(repr(point.point.model), []).append(point)
        self.lanes = deque(deque(points) for points in lanes.values())
        self.lane: _Lane | None = None
        for point in plan.points:
            if point.problem:
                self.finish(point, error=point.problem)

    def run(self) -> None:
        """Run until every point is done or has failed."""
        try:
            while self.lanes or self.lane or self.remote or self.in_flight:
                self._feed_lane()
                self._send_one()
                self._poll_remote()
                self._read_lane()
        finally:
            if self.lane is not None:
                self.lane.stop()

    def finish(self, point: PlannedPoint, run: str | None = None, error: str | None = None) -> None:
        """Record that a point is done, or has failed."""
        for same in (point, *self.twins.get(point.point.index, ())):
            entry = self._entry(same)
            entry.state, entry.run, entry.error = ("done" if run else "failed"), run, error
            self.records.note(self.record, entry)
            self.overview.point(entry)

    def _entry(self, point: PlannedPoint) -> PointRecord:
        return self.record.points[point.point.index]

    # --- local ---

    def _feed_lane(self) -> None:
        """Start the next lane if none is running, and send the running one its next jobs."""
        if self.lane is None and self.lanes:
            points = self.lanes.popleft()
            self._take_cached(points)
            if points:
                self.lane = _Lane(self.project, points)
        if self.lane is not None:
            self.lane.feed()

    def _take_cached(self, points: deque[PlannedPoint]) -> None:
        """Write the runs of cached results; that needs no model, and so no lane."""
        for point in [p for p in points if p.cached]:
            points.remove(point)
            assert point.job is not None
            try:
                watch = self.overview.watch(self._entry(point))
                self.finish(point, execute(point.job, point.point.backend, None, watch).run_id)
            except RemoteMIError as error:
                self.finish(point, error=str(error))

    def _read_lane(self) -> None:
        """Handle the lane's messages, waiting briefly for them."""
        if self.lane is None:
            if self.in_flight:
                time.sleep(PAUSE_S)
            return
        for message in self.lane.read_messages(PAUSE_S):
            point = self.lane.sent.get(message.get("job", -1))
            if point is None:
                continue
            entry = self._entry(point)
            if "state" in message:
                del self.lane.sent[message["job"]]
                self.finish(point, message.get("run"), message.get("error"))
            elif "stage" in message:
                self.overview.watch(entry).stage(message["stage"])
            elif "total" in message:
                watch = self.overview.watch(entry)
                watch.advance(message["done"], message["total"], message["unit"])
        if self.lane.has_ended:
            self._handle_lane_end(self.lane)

    def _handle_lane_end(self, ended: _Lane) -> None:
        """Continue after a lane has ended, possibly by a crash in the middle of a job."""
        self.lane = None
        unfinished = [ended.sent[number] for number in sorted(ended.sent)]
        if unfinished:  # it was running the first, and had not begun the others
            self.finish(
                unfinished[0],
                error=f"the process that ran it ended ({ended.exit_reason()}); "
                "if it ran out of memory: use a smaller dtype, shorter prompts or fewer pairs",
            )
        rest = deque([*unfinished[1:], *ended.points])
        if rest:
            self.lanes.appendleft(rest)

    # --- remote ---

    def _send_one(self) -> None:
        """Submit the next remote job, unless too many are in flight."""
        if not self.remote or len(self.in_flight) >= self.most:
            return
        point = self.remote.popleft()
        assert point.job is not None and point.where is not None
        entry = self._entry(point)
        entry.where = point.where.chosen.backend
        watch = self.overview.watch(entry)
        watch.stage(f"submitting to {entry.where}")
        try:
            submitted = submit_planned(point.job, point.where, watch)
        except RemoteMIError as error:
            self.finish(point, error=str(error))
            return
        if isinstance(submitted, Result):
            self.finish(point, submitted.run_id)
            return
        # It fetches the results even if this process is killed.
        start_collector.start(self.project)
        self.in_flight[submitted.id] = point
        entry.state = "submitted"
        self.records.note(self.record, entry)
        self.overview.point(entry)

    def _poll_remote(self) -> None:
        """Look up the jobs in flight in the ledger."""
        for job_id, point in list(self.in_flight.items()):
            job = self.ledger.get(job_id)
            if job.is_open:
                self.overview.watch(self._entry(point)).stage(job.status.lower() or "submitted")
                continue
            del self.in_flight[job_id]
            if job.state == "done":
                self.finish(point, job.run or "")
            else:
                message = (job.error or {}).get("message") or f"the job is {job.state}"
                self.finish(point, error=str(message))


class _Lane:
    """The process that runs the jobs on one model; see `remote_mi.jobs.studies.local_worker`."""

    def __init__(self, project: Path, points: deque[PlannedPoint]) -> None:
        self.points = points
        self.sent: dict[int, PlannedPoint] = {}
        self.messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.has_ended = self.closed = False
        logs = project / ".remote_mi"
        with (logs / "lane.log").open("wb") as log:
            # In its own session: Ctrl-C goes to this process only, which then stops the lane.
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
                self.messages.put(json.loads(line))
            except ValueError:
                continue
        self.messages.put(None)

    def feed(self) -> None:
        """Send it its next jobs, or the message that there are no more."""
        while self.points and len(self.sent) < _AHEAD:
            point = self.points.popleft()
            self.sent[point.point.index] = point
            assert point.job is not None
            where = point.where.chosen.backend if point.where else point.point.backend
            self._write(local_worker.job_message(point.point, point.job.key, where))
        if not self.points and not self.sent and not self.closed:
            self.closed = True
            self._write({})

    def _write(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended; the listener reports that

    def read_messages(self, patience: float) -> list[dict[str, Any]]:
        """Its new messages; waits up to `patience` seconds for the first."""
        new: list[dict[str, Any]] = []
        try:
            message = self.messages.get(timeout=patience)
            while message is not None:
                new.append(message)
                message = self.messages.get_nowait()
            self.has_ended = True
        except queue.Empty:
            pass
        return new

    def exit_reason(self) -> str:
        """Its exit code, and the last line of its log."""
        code = self.process.wait(timeout=10)
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"exit code {code}" + (f": {first_line(RuntimeError(lines[-1]))}" if lines else "")

    def stop(self) -> None:
        """Kill it, together with the current job."""
        self.process.kill()
        self.process.wait(timeout=10)

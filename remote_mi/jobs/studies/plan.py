"""From a study to its jobs: which are there already, where the others would run, what it costs.

Thousands of points share recipes, prompts and models; each of these is read once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remote_mi.common.errors import RemoteMIError
from remote_mi.jobs.building import job_on
from remote_mi.jobs.dispatch.plan import Dispatcher, Plan
from remote_mi.jobs.job import Job, Memo
from remote_mi.jobs.lookup import Home, homes, places
from remote_mi.jobs.studies import Point, Study
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.choice import PromptChoice
from remote_mi.prompts.examples import PromptSet
from remote_mi.store.runs import Runs
from remote_mi.store.studies import PointRecord


@dataclass
class PlannedPoint:
    """A point of a study, with its job and where it would run.

    Attributes:
        job: None if it could not be made. where: None if it is there or cannot run anywhere.
        run: name of the run that holds its result. cached: whether the cache holds it.
        problem: why it cannot run.
    """

    point: Point
    job: Job | None = None
    where: Plan | None = None
    run: str | None = None
    cached: bool = False
    problem: str | None = None

    @property
    def record(self) -> PointRecord:
        """The point as the study's record has it."""
        point = self.point
        return PointRecord(
            point.index,
            point.recipe,
            point.model.name,
            _prompts_name(point.choice),
            dict(point.parameters),
            point.choice.seed,
            point.backend,
            self.job.key if self.job else "",
            state="done" if self.run else "waiting",
            run=self.run,
        )


@dataclass
class StudyPlan:
    """All points of a study, planned.

    Attributes:
        study: as read. points: in its order.
    """

    study: Study
    points: list[PlannedPoint]

    @property
    def download(self) -> int:
        """Bytes of models that somebody should be asked for."""
        sizes = {p.where.model.name: p.where.download for p in self.points if p.where}
        return sum(sizes.values())

    def counts(self) -> Counter[str]:
        """How many points are there already, in the cache, to run on each backend, or cannot run."""
        return Counter(state_of(point) for point in self.points)


def state_of(point: PlannedPoint) -> str:
    """Where a point stands, in a word."""
    if point.run:
        return "there"
    if point.problem:
        return "cannot run"
    if point.cached:
        return "cached"
    return point.where.chosen.backend if point.where else "?"


def plan_study(study: Study, project: Path) -> StudyPlan:
    """The jobs of a study, and where each would run.

    A point that cannot run is part of the plan, with its reason. Errors of single points are, too.
    """
    makes, places = _Maker(project), _Places(project)
    points = []
    for point in study.points:
        planned = PlannedPoint(point)
        try:
            planned.job = makes(point)
            places.find(planned)
        except RemoteMIError as error:
            planned.problem = str(error)
        points.append(planned)
    return StudyPlan(study, points)


def _prompts_name(choice: PromptChoice) -> str:
    if choice.phenomenon is not None:
        return choice.phenomenon
    if choice.pairs is not None:
        return str(choice.pairs) if not isinstance(choice.pairs, list) else "list"
    return next(iter(choice.texts.values()), "")


class _Maker:
    """Makes the jobs of points; what they share is read once."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.prompts: dict[str, PromptSet] = {}
        self.memo = Memo()

    def __call__(self, point: Point) -> Job:
        card, choice = point.card, point.choice
        asked = card.over != "none"
        prompts = _once(
            self.prompts,
            repr((asked, choice)),
            lambda: choice.resolve(self.project) if asked else choice.check_none(card.name),
        )
        return job_on(card, point.model, prompts, point.parameters, self.project, memo=self.memo)


class _Places:
    """Where the results of jobs are, and where those that are not there would be computed."""

    def __init__(self, project: Path) -> None:
        self.planner = Dispatcher(project)
        self.done = Runs(project).done()
        self.homes: dict[str, list[Home]] = {}
        self.plans: dict[str, Plan | RemoteMIError] = {}

    def find(self, point: PlannedPoint) -> None:
        """Fill in where a point's result is or would be computed."""
        job, asked = point.job, point.point.backend
        assert job is not None
        for place in places(job, self._homes(job.model, asked), self.done):
            if place.run:
                point.run = place.run
                return
            point.cached |= place.cached
        plan = self._plan(job, asked)
        if isinstance(plan, RemoteMIError):
            if not point.cached:
                point.problem = str(plan)
            return
        point.where = plan

    def _homes(self, model: ModelSpec, asked: str) -> list[Home]:
        return _once(
            self.homes,
            repr((model, asked)),
            lambda: list(homes(model, self.planner.backends(asked), every=True)),
        )

    def _plan(self, job: Job, asked: str) -> Plan | RemoteMIError:
        """The plan for a job; jobs that are alike in what matters to it share one."""
        longest = max(
            (len(e.clean) + len(e.corrupt or "") for e in job.prompts.examples), default=0
        )
        alike = repr(
            (
                asked,
                job.model,
                job.card.needs,
                job.card.name,
                len(job.prompts.examples),
                longest // 64,
            )
        )

        def decide() -> Plan | RemoteMIError:
            try:
                return self.planner.plan(job, asked)
            except RemoteMIError as error:
                return error

        return _once(self.plans, alike, decide)


def _once(known: dict[Any, Any], name: Any, find: Callable[[], Any]) -> Any:
    if name not in known:
        known[name] = find()
    return known[name]

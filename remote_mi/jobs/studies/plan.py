"""From a study to its jobs: which have results, where the others would run, and the downloads.

Thousands of points share recipes, prompts and models; each of these is read only once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remote_mi.common.digests import digest
from remote_mi.common.errors import RemoteMIError
from remote_mi.jobs.building import job_on
from remote_mi.jobs.dispatch.plan import Dispatcher, Plan
from remote_mi.jobs.job import Job, Memo
from remote_mi.jobs.lookup import Home, candidate_environments, result_places
from remote_mi.jobs.studies import Point, Study
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.choice import PromptChoice
from remote_mi.prompts.examples import PromptSet
from remote_mi.prompts.messages import conversation_text
from remote_mi.store.claims.claim import Claim
from remote_mi.store.runs import Runs
from remote_mi.store.studies import PointRecord


@dataclass
class PlannedPoint:
    """A point of a study, with its job and where it would run.

    Attributes:
        job: None if it is invalid. where: None if it has a run or cannot run anywhere.
        run: name of the run with its result. cached: whether the cache has it.
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
        """The point's entry in the study's record."""
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
        study: as read. points: in the study's order.
    """

    study: Study
    points: list[PlannedPoint]

    @property
    def download(self) -> int:
        """Total size of model downloads that need confirmation, in bytes."""
        sizes = {p.where.model.name: p.where.download for p in self.points if p.where}
        return sum(sizes.values())

    def claims(self) -> list[Claim]:
        """The study's claims, each with what its points are."""
        subjects = {
            index: _subject(self.points[index])
            for index in {point for claim in self.study.claims for point in claim.points}
        }
        return [
            replace(claim, subjects=[subjects[point] for point in claim.points])
            for claim in self.study.claims
        ]

    def counts(self) -> Counter[str]:
        """Number of points in each state; see `state_of`."""
        return Counter(state_of(point) for point in self.points)


def state_of(point: PlannedPoint) -> str:
    """A point's state: there, cached, cannot run, or the backend that would run it."""
    if point.run:
        return "there"
    if point.problem:
        return "cannot run"
    if point.cached:
        return "cached"
    return point.where.chosen.backend if point.where else "?"


def plan_study(study: Study, project: Path) -> StudyPlan:
    """Plan the jobs of a study.

    Points that are invalid or cannot run are part of the plan, each with its reason.
    """
    make_point_job, finder = _JobMaker(project), _PlaceFinder(project)
    points = []
    for point in study.points:
        planned = PlannedPoint(point)
        try:
            planned.job = make_point_job(point)
            finder.find(planned)
        except RemoteMIError as error:
            planned.problem = str(error)
        points.append(planned)
    return StudyPlan(study, points)


def _subject(point: PlannedPoint) -> str:
    """Digest of what a point is about; of its description if its job is invalid."""
    job = point.job
    if job is None:
        return digest([point.point.recipe, repr(point.point.model), repr(point.point.choice)])
    return digest(
        {
            "recipe": job.card.name,
            "model": job.identity,
            "prompts": job.prompts.examples_json,
            "parameters": job.recorded_parameters,
        }
    )


def _prompts_name(choice: PromptChoice) -> str:
    if choice.phenomenon is not None:
        return choice.phenomenon
    if choice.pairs is not None:
        return str(choice.pairs) if not isinstance(choice.pairs, list) else "list"
    named = (choice.texts.get(name) for name in ("prompt", "messages", "clean"))
    first = next((text for text in named if text is not None), "")
    if isinstance(first, str):
        return first
    return conversation_text([(turn["role"], turn["content"]) for turn in first])[0]


class _JobMaker:
    """Creates the jobs of points; what they share is read only once."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.prompts: dict[str, PromptSet] = {}
        self.memo = Memo()

    def __call__(self, point: Point) -> Job:
        card, choice = point.card, point.choice
        takes_prompts = card.over != "none"
        prompts = _get_or_compute(
            self.prompts,
            repr((takes_prompts, choice)),
            lambda: choice.resolve(self.project) if takes_prompts else choice.check_none(card.name),
        )
        return job_on(card, point.model, prompts, point.parameters, self.project, memo=self.memo)


class _PlaceFinder:
    """Finds existing results of jobs, and where the missing ones would be computed."""

    def __init__(self, project: Path) -> None:
        self.planner = Dispatcher(project)
        self.latest_done = Runs(project).latest_done()
        self.homes: dict[str, list[Home]] = {}
        self.plans: dict[str, Plan | RemoteMIError] = {}

    def find(self, point: PlannedPoint) -> None:
        """Fill in where a point's result is, or where it would be computed."""
        job, requested = point.job, point.point.backend
        assert job is not None
        for place in result_places(job, self._homes(job.model, requested), self.latest_done):
            if place.run:
                point.run = place.run
                return
            point.cached |= place.cached
        plan = self._plan(job, requested)
        if isinstance(plan, RemoteMIError):
            if not point.cached:
                point.problem = str(plan)
            return
        point.where = plan

    def _homes(self, model: ModelSpec, requested: str) -> list[Home]:
        return _get_or_compute(
            self.homes,
            repr((model, requested)),
            lambda: list(
                candidate_environments(model, self.planner.backends(requested), every=True)
            ),
        )

    def _plan(self, job: Job, requested: str) -> Plan | RemoteMIError:
        """The plan for a job; jobs that are similar enough to be planned alike share one."""
        longest = max(
            (len(e.clean) + len(e.corrupt or "") for e in job.prompts.examples), default=0
        )
        alike = repr(
            (
                requested,
                job.model,
                job.card.needs,
                job.card.name,
                len(job.prompts.examples),
                longest // 64,
            )
        )

        def decide() -> Plan | RemoteMIError:
            try:
                return self.planner.plan(job, requested)
            except RemoteMIError as error:
                return error

        return _get_or_compute(self.plans, alike, decide)


def _get_or_compute(known: dict[Any, Any], name: Any, find: Callable[[], Any]) -> Any:
    if name not in known:
        known[name] = find()
    return known[name]

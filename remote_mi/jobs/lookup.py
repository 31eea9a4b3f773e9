"""Results that are there already: among the runs of a project, or in the cache."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from remote_mi.backends.base import Backend
from remote_mi.common.errors import StoreError
from remote_mi.jobs.job import Job
from remote_mi.jobs.keep import event_line
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes.code_identity import EARLIER_SCHEMA_NOTE, SCHEMA
from remote_mi.store.cache import Cache, CacheEntry
from remote_mi.store.cache_index import CacheIndex
from remote_mi.store.environment import Environment
from remote_mi.store.result import Result
from remote_mi.store.run_record import RunRecord, environment_of, id8_of
from remote_mi.store.runs import Runs


@dataclass(frozen=True)
class ResultPlace:
    """Where the result of a job may be.

    Attributes:
        backend: what `--backend` takes; "" where nobody asked for one.
        environment: where the job runs there; None where that is not known yet.
        run: name of the run that holds the result. cached: whether the cache does, and no run.
        kept: the result or the cache's entry, where it was read.
    """

    backend: str
    environment: Environment | None
    run: str = ""
    cached: bool = False
    kept: Result | CacheEntry | None = None

    @property
    def has_it(self) -> bool:
        """Whether the result is there."""
        return bool(self.run) or self.cached

    @property
    def said(self) -> str:
        """In words: where it is, or why it is not."""
        if self.run:
            return f"run {self.run}"
        if self.cached:
            return "the cache"
        if self.environment is None:
            return f"what {self.backend} has installed is not known before it was asked once"
        return f"there is no result in {self.environment}"


#: What `--backend` takes, and the backend that it stands for.
Backends = Iterable[tuple[str, Backend]]
#: A backend, as `--backend` takes it, and where it would run a model; None if that is not known yet.
Home = tuple[str, Environment | None]


def homes(spec: ModelSpec, backends: Backends, every: bool = False) -> Iterator[Home]:
    """Where backends would run a model, in the order in which they are tried.

    Args:
        every: each environment that a backend may have run it in, not only the one of now.
    """
    for name, backend in backends:
        found = backend.environments(spec) if every else [backend.environment(spec)]
        yield from ((name, environment) for environment in found)


def places(
    job: Job, homes: Iterable[Home], listed: Mapping[tuple[str, str], str] | None = None
) -> Iterator[ResultPlace]:
    """The places where the result of a job is taken from, in the order in which they are tried.

    Never imports torch.

    Args:
        listed: the runs of the project, as `Runs.done` gives them. Then no result is read, which
            is quick enough for thousands of jobs.
    """
    runs, cache = Runs(job.project), Cache(job.cache)
    for name, environment in homes:
        if environment is None:
            yield ResultPlace(name, None)
        elif listed is not None:
            run = listed.get((job.key, environment.id), "")
            cached = not run and cache.holds(job.key, environment)
            yield ResultPlace(name, environment, run, cached)
        elif (result := runs.lookup(job.key, environment)) is not None:
            yield ResultPlace(name, environment, result.run_id, kept=result)
        else:
            entry = cache.get(job.key, environment)
            yield ResultPlace(name, environment, cached=entry is not None, kept=entry)


def other_places(job: Job) -> Iterator[ResultPlace]:
    """Where the same was computed, in whatever environment: runs of the project, then the cache's."""
    for result in Runs(job.project).of_key(job.key):
        yield ResultPlace("", environment_of(result.provenance), result.run_id, kept=result)
    for environment in Cache(job.cache).environments(job.key):
        yield ResultPlace("", environment, cached=True)


def look_up(job: Job, backends: Backends) -> Result | None:
    """The result of the same job in the environment of one of the backends, or None."""
    place = first_with_it(job, backends)
    return None if place is None else _taken(job, place)


def first_with_it(job: Job, backends: Backends) -> ResultPlace | None:
    """The first place that has the result, or None."""
    found = places(job, homes(job.model, backends))
    return next((place for place in found if place.has_it), None)


def computed_elsewhere(job: Job) -> Result | None:
    """A result that was computed in whatever environment, or None: the newest of the project's
    runs, else the newest that the cache has.

    Its provenance says under `reused` that this was asked for.
    """
    for place in other_places(job):
        assert place.environment is not None
        if place.cached:
            place = replace(place, kept=Cache(job.cache).get(job.key, place.environment))
        if place.kept is not None:
            return _taken(job, place, reused=f"taken on request, computed in {place.environment}")
    return None


def _taken(job: Job, place: ResultPlace, **noted: str) -> Result | None:
    """The result that a place has, shown as a run of today would be. `noted`: for its provenance."""
    if isinstance(place.kept, CacheEntry):
        return _from_cache(job, place.kept, **noted)
    return None if place.kept is None else _shown_as_now(place.kept, job, "run", **noted)


def earlier(job: Job) -> str:
    """A line on results of the same job that were kept under an earlier kind of key, or ""."""
    about = job.about()
    wanted = [prompt["digest"] for prompt in about["prompts"]]
    for row in CacheIndex(Cache(job.cache)).of_recipe(job.card.name):
        there = row.about or {}
        if (
            there.get("schema", SCHEMA) < SCHEMA
            and not row.part
            and [prompt["digest"] for prompt in there.get("prompts", [])] == wanted
            and all(there.get(name) == about[name] for name in ("parameters", "model"))
        ):
            return f"a result of this job from {_day(row.time)} is not taken: {EARLIER_SCHEMA_NOTE}"
    return ""


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _from_cache(job: Job, entry: CacheEntry, **noted: str) -> Result:
    """A run of the project that is made from what the cache has.

    Args:
        noted: for its provenance.
    """
    provenance = {**entry.record, **noted}
    result = Result(job.card.to_json(), entry.document, entry.arrays, provenance)
    id8 = id8_of(job.key, entry.environment)
    try:
        result = Runs(job.project).write(
            RunRecord(id8, result, job.lock(), job.sources(), [event_line("taken from the cache")])
        )
    except StoreError:
        pass  # a project that cannot be written still shows what the cache has
    return _shown_as_now(result, job, "cache", **noted)


def _shown_as_now(result: Result, job: Job, source: str, **noted: str) -> Result:
    """The result with the recipe's figures as they are today, and where it came from."""
    result.recipe = job.card.to_json()
    result.provenance = {**result.provenance, **noted, "cache": "hit", "hit_from": source}
    return result

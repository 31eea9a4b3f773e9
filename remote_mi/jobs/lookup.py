"""Finding existing results: among the runs of a project, or in the cache."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from remote_mi.backends.base import Backend
from remote_mi.common.errors import StoreError
from remote_mi.jobs.artifacts import folders_of, keep_artifacts, records_of
from remote_mi.jobs.job import Job
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes.code_identity import EARLIER_SCHEMA_NOTE, SCHEMA
from remote_mi.store.cache import Cache, CacheEntry
from remote_mi.store.cache_index import CacheIndex
from remote_mi.store.environment import Environment
from remote_mi.store.kept_artifacts import KeptInputs, inputs_to_keep
from remote_mi.store.result import Result
from remote_mi.store.run_info import RunInfo
from remote_mi.store.run_record import RunRecord, environment_of, event_line, id8_of
from remote_mi.store.runs import Runs
from remote_mi.store.typed_json import WrongJson


@dataclass(frozen=True)
class ResultPlace:
    """A place where the result of a job may be found.

    Attributes:
        backend: as for `--backend`; "" if none was requested.
        environment: in which the backend runs the job; None if that is not known yet.
        run: name of the run with the result. cached: whether only the cache has the result.
        kept: the result or the cache's entry, if it was read.
    """

    backend: str
    environment: Environment | None
    run: str = ""
    cached: bool = False
    kept: Result | CacheEntry | None = None

    @property
    def has_result(self) -> bool:
        """Whether the result was found there."""
        return bool(self.run) or self.cached

    @property
    def description(self) -> str:
        """In words: where the result is, or why there is none."""
        if self.run:
            return f"run {self.run}"
        if self.cached:
            return "the cache"
        if self.environment is None:
            return f"the versions installed on {self.backend} are not known until it is first asked"
        return f"there is no result in {self.environment}"


#: A backend's name as for `--backend`, and the backend.
Backends = Iterable[tuple[str, Backend]]
#: A backend's name, and the environment in which it would run a model; None if not known yet.
Home = tuple[str, Environment | None]


def candidate_environments(
    spec: ModelSpec, backends: Backends, every: bool = False
) -> Iterator[Home]:
    """The environments in which backends would run a model, in the order they are tried.

    Args:
        every: include all environments a backend may have run it in, not only the current one.
    """
    for name, backend in backends:
        environments = backend.environments(spec) if every else [backend.environment(spec)]
        yield from ((name, environment) for environment in environments)


def result_places(
    job: Job, homes: Iterable[Home], finished: Mapping[tuple[str, str], str] | None = None
) -> Iterator[ResultPlace]:
    """The places to take a job's result from, in the order they are tried.

    Never imports torch.

    Args:
        finished: the runs of the project, from `Runs.latest_done`. If given, results are located
            but not read, which is fast enough for thousands of jobs.
    """
    runs, cache = Runs(job.project), Cache(job.cache)
    for name, environment in homes:
        if environment is None:
            yield ResultPlace(name, None)
        elif finished is not None:
            run = finished.get((job.key, environment.id), "")
            cached = not run and cache.contains(job.key, environment)
            yield ResultPlace(name, environment, run, cached)
        elif (result := runs.lookup(job.key, environment)) is not None:
            yield ResultPlace(name, environment, result.run_id, kept=result)
        else:
            entry = _result_entry(job, environment)
            yield ResultPlace(name, environment, cached=entry is not None, kept=entry)


def _result_entry(job: Job, environment: Environment) -> CacheEntry | None:
    """The cache's entry of a job's result; None if there is none that can be shown.

    An entry is checked against its hashes, and these are no secret: one that is no result of the
    job's recipe after all is quarantined like any damaged one.
    """
    cache = Cache(job.cache)
    entry = cache.get(job.key, environment)
    if entry is None:
        return None
    info = RunInfo("done", {}, job.card.cached_json, entry.document, entry.record)
    try:
        info.check(entry.arrays)
        there = info.made.environment
        if info.made.key != job.key or there is None or there.id != environment.id:
            raise WrongJson("provenance", "is that of another job")
    except WrongJson:
        cache.quarantine(cache.entry_path(job.key, environment))
        return None
    return entry


def other_places(job: Job) -> Iterator[ResultPlace]:
    """Results of the job in any environment: runs of the project, then entries of the cache."""
    for result in Runs(job.project).results_of_key(job.key):
        yield ResultPlace("", environment_of(result.provenance), result.run_id, kept=result)
    for environment in Cache(job.cache).environments(job.key):
        yield ResultPlace("", environment, cached=True)


def look_up(job: Job, backends: Backends) -> Result | None:
    """The existing result of a job in the environment of one of the backends, or None."""
    place = first_place_with_result(job, backends)
    return None if place is None else _load_result(job, place)


def first_place_with_result(job: Job, backends: Backends) -> ResultPlace | None:
    """The first place that has the result, or None."""
    places = result_places(job, candidate_environments(job.model, backends))
    return next((place for place in places if place.has_result), None)


def find_computed_elsewhere(job: Job) -> Result | None:
    """A result of the job from any environment, or None: the newest of the project's runs, else
    the newest in the cache.

    Its provenance records under `reused` that this was requested.
    """
    for place in other_places(job):
        assert place.environment is not None
        if place.cached:
            place = replace(place, kept=_result_entry(job, place.environment))
        if place.kept is not None:
            return _load_result(
                job, place, reused=f"taken on request, computed in {place.environment}"
            )
    return None


def _load_result(job: Job, place: ResultPlace, **noted: str) -> Result | None:
    """The result in a place, with the recipe's current figures. `noted`: for its provenance."""
    if isinstance(place.kept, CacheEntry):
        return _from_cache(job, place.kept, **noted)
    return None if place.kept is None else _with_current_figures(place.kept, job, "run", **noted)


def earlier_result_note(job: Job) -> str:
    """A note if the job has a result under an earlier key schema, which is not reused; else ""."""
    about = job.key_description()
    wanted = [prompt["digest"] for prompt in about["prompts"]]
    for row in CacheIndex(Cache(job.cache)).rows_of_recipe(job.card.name):
        there = row.about or {}
        if (
            there.get("schema", SCHEMA) < SCHEMA
            and not row.part
            and [prompt["digest"] for prompt in there.get("prompts", [])] == wanted
            and all(there.get(name) == about[name] for name in ("parameters", "model"))
        ):
            return (
                f"a result of this job from {_day(row.time)} is not reused: {EARLIER_SCHEMA_NOTE}"
            )
    return ""


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _from_cache(job: Job, entry: CacheEntry, **noted: str) -> Result:
    """Write a run of the project from a cache entry.

    Args:
        noted: for its provenance.
    """
    provenance = {**entry.record, **noted}
    inputs = KeptInputs()
    if job.artifacts:
        keep_artifacts(job)
        inputs = inputs_to_keep(
            records_of(job.artifacts), folders_of(job.artifacts), Cache(job.cache)
        )
        provenance["artifacts"] = inputs.records
    result = Result(job.card.to_json(), entry.document, entry.arrays, provenance)
    id8 = id8_of(job.key, entry.environment)
    events = [event_line("taken from the cache")]
    try:
        result = Runs(job.project).write(
            RunRecord(id8, result, job.lock(), job.sources(), events, inputs=inputs.files)
        )
    except StoreError as error:
        result.unsaved = error  # it is still usable if the project cannot be written
    return _with_current_figures(result, job, "cache", **noted)


def _with_current_figures(result: Result, job: Job, source: str, **noted: str) -> Result:
    """The result with the recipe's current figures, and where it was found."""
    result.recipe = job.card.to_json()
    result.provenance = {**result.provenance, **noted, "cache": "hit", "hit_from": source}
    return result

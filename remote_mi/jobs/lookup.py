"""Results that are there already: among the runs of a project, or in the cache."""

from __future__ import annotations

import time

from remote_mi.backends.base import Backend
from remote_mi.common.errors import StoreError
from remote_mi.jobs.job import Job
from remote_mi.jobs.keep import event
from remote_mi.recipes.code_identity import EARLIER, SCHEMA
from remote_mi.store.cache import Cache, CacheEntry
from remote_mi.store.cache_index import CacheIndex
from remote_mi.store.result import Result
from remote_mi.store.run_record import RunRecord, environment_of, id8_of
from remote_mi.store.runs import Runs


def look_up(job: Job, backend: Backend) -> Result | None:
    """The result of the same job in the same environment, or None; never imports torch."""
    kept = _kept(job, backend)
    if isinstance(kept, CacheEntry):
        return _from_cache(job, kept)
    return None if kept is None else _shown_as_now(kept, job, "run")


def found(job: Job, backend: Backend) -> str | None:
    """Where the result of a job of a backend is: "run NAME", "the cache", or None."""
    kept = _kept(job, backend)
    if isinstance(kept, CacheEntry):
        return "the cache"
    return None if kept is None else f"run {kept.run_id}"


def _kept(job: Job, backend: Backend) -> Result | CacheEntry | None:
    """A run of the project, else an entry of the cache, of the job in the backend's environment."""
    environment = backend.environment(job.model)
    if environment is None:
        return None
    run = Runs(job.project).lookup(job.key, environment)
    return run if run is not None else Cache(job.cache).get(job.key, environment)


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
            return f"a result of this job from {_day(row.time)} is not taken: {EARLIER}"
    return ""


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def computed_elsewhere(job: Job) -> Result | None:
    """A result that was computed in whatever environment, or None: the newest of the project's
    runs, else the newest that the cache has.

    Its provenance says under `reused` that this was asked for.
    """
    noted = "taken on request, computed in {}"
    for kept in Runs(job.project).of_key(job.key):
        return _shown_as_now(kept, job, "run", reused=noted.format(environment_of(kept.provenance)))
    cache = Cache(job.cache)
    for environment in cache.environments(job.key):
        entry = cache.get(job.key, environment)
        if entry is not None:
            return _from_cache(job, entry, reused=noted.format(environment))
    return None


def _from_cache(job: Job, entry: CacheEntry, **noted: str) -> Result:
    """A run of the project that is made from what the cache has.

    Args:
        noted: for its provenance.
    """
    provenance = {**entry.record, **noted}
    result = Result(job.card.shown(), entry.document, entry.arrays, provenance)
    id8 = id8_of(job.key, entry.environment)
    try:
        result = Runs(job.project).write(
            RunRecord(id8, result, job.lock(), job.sources(), [event("taken from the cache")])
        )
    except StoreError:
        pass  # a project that cannot be written still shows what the cache has
    return _shown_as_now(result, job, "cache", **noted)


def _shown_as_now(result: Result, job: Job, source: str, **noted: str) -> Result:
    """The result with the recipe's figures as they are today, and where it came from."""
    result.recipe = job.card.shown()
    result.provenance = {**result.provenance, **noted, "cache": "hit", "hit_from": source}
    return result

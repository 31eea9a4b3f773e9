"""The artifacts of a run that is reproduced: as they were kept, or made again from the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from remote_mi.common.errors import NotFound
from remote_mi.common.paths import cache_root
from remote_mi.jobs.job import Job
from remote_mi.jobs.reproduction.rebuild import KeptRun, read_kept
from remote_mi.store.artifacts import StoredArtifact, output_of
from remote_mi.store.cache import Cache
from remote_mi.store.kept_artifacts import ANCESTORS, kept_input
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder

#: Makes a kept run again: from it and the artifacts that it takes to its result.
Again = Callable[[KeptRun, "Inputs"], Result]


@dataclass
class Inputs:
    """The artifacts that a run takes when it is reproduced.

    Attributes:
        found: parameter → artifact. notes: how those that were made again compare.
    """

    found: dict[str, StoredArtifact] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put_into(self, job: Job) -> Job:
        """The job with these artifacts."""
        digests = {name: artifact.digest for name, artifact in self.found.items()}
        parameters = {**job.parameters, **digests}
        return replace(job, parameters=parameters, artifacts=self.found)


def kept_inputs(kept: KeptRun) -> Inputs:
    """The artifacts of a run as it took them; errors as `kept_input`."""
    run = RunFolder(kept.folder)
    return Inputs(
        {name: kept_input(run, name, (Cache(cache_root()),)) for name in kept.info.made.artifacts}
    )


def remade_inputs(kept: KeptRun, root: Path, again: Again) -> Inputs:
    """The artifacts of a run, made again by the runs that made them, as far as these are kept.

    Args:
        root: folder of the last run, which keeps all of them. again: makes one.

    Raises:
        NotFound: if what made one is not kept. Others as `again`.
    """
    inputs = Inputs()
    for name, facts in kept.info.made.artifacts.items():
        if not facts.run or facts.file:
            inputs.found[name] = kept_inputs(kept).found[name]
            inputs.notes.append(f"{facts.name} comes from a file, and is taken as it was kept")
            continue
        folder = root / ANCESTORS / Path(facts.run).name
        if not RunFolder(folder).is_run:
            raise NotFound(
                f"{root.name} does not keep the run {facts.run}, which made {facts.name}",
                "leave --chain out: it is reproduced from the numbers that it took",
            )
        ancestor = read_kept(folder)
        own = remade_inputs(ancestor, root, again)
        result = again(ancestor, own)
        named, at = facts.named, {dim: str(value) for dim, value in facts.at.items()}
        whole = output_of(result, facts.output or "", [*facts.dims, *at], named)
        made = whole.part(at).fitted(facts.dims, f"parameter {name!r}")
        inputs.found[name] = made
        inputs.notes += [*own.notes, _compared(kept, name, made)]
    return inputs


def _compared(kept: KeptRun, name: str, made: StoredArtifact) -> str:
    """How an artifact that was made again differs from the one that the run took."""
    facts = kept.info.made.artifacts[name]
    if made.digest == facts.digest:
        return f"{facts.name}, made again, has the same numbers"
    try:
        before = kept_inputs(kept).found[name].array
    except NotFound:
        return f"{facts.name}, made again, has other numbers; those that were taken are not kept"
    if before.shape != made.array.shape:
        return f"{facts.name}, made again, has another shape: {made.array.shape}"
    gap = np.abs(before.astype(np.float64) - made.array).max(initial=0.0)
    size = np.abs(before).max(initial=0.0) or 1.0
    return f"{facts.name}, made again, is within {gap / size:.1e} of its largest number"

"""What is written of a run, and the name it gets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remote_mi.common.digests import digest
from remote_mi.store.environment import Environment
from remote_mi.store.result import Result

#: Single numbers that a list may show.
_MOST_SCALARS = 12


def id8_of(key: str, environment: Environment) -> str:
    """Eight hex digits that name a run: the same for the same job in the same environment."""
    return digest([key, environment.id])[:8]


@dataclass
class RunRecord:
    """What a run folder is made from.

    Attributes:
        id8: eight hex digits that the key and the environment give.
        lock: the job, for config.lock.yaml.
        sources: file name → content to keep under source/.
        events: one JSON object each, in order.
        error: the message of a failed run, or None.
    """

    id8: str
    result: Result
    lock: Mapping[str, Any]
    sources: Mapping[str, bytes] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    error: str | None = None


def environment_of(provenance: Mapping[str, Any]) -> Environment:
    """Where a run was computed; a KeyError or TypeError where its provenance is malformed."""
    return Environment(**provenance["environment"])


def scalars_of(result: Result) -> dict[str, float]:
    """Outputs and summaries over all prompts that are single numbers."""
    found = {
        name: float(values)
        for name, values in result.arrays.items()
        if values.ndim == 0 and not {"@", ":"} & set(name)
    }
    finite = [(name, value) for name, value in found.items() if math.isfinite(value)]
    return dict(finite[:_MOST_SCALARS])

"""The content of a run folder to be written, and its id."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remote_mi.common.digests import digest
from remote_mi.store.environment import Environment
from remote_mi.store.result import Result

#: Most single numbers stored for lists.
_MOST_SCALARS = 12


def id8_of(key: str, environment: Environment) -> str:
    """A run's id of eight hex digits: the same for the same job in the same environment."""
    return digest([key, environment.id])[:8]


@dataclass
class RunRecord:
    """What a run folder is made from.

    Attributes:
        id8: the run's id, see `id8_of`.
        lock: the job, for config.lock.yaml.
        sources: file name → content to keep under source/.
        events: one JSON object each, in order.
        error: the message of a failed run, or None.
        inputs: file name → content of what is kept of its artifacts.
    """

    id8: str
    result: Result
    lock: Mapping[str, Any]
    sources: Mapping[str, bytes] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    error: str | None = None
    inputs: Mapping[str, bytes] = field(default_factory=dict)


def event_line(what: str, **more: Any) -> dict[str, Any]:
    """One line of events.jsonl."""
    return {"time": round(time.time(), 3), "event": what, **more}


def environment_of(provenance: Mapping[str, Any]) -> Environment:
    """The environment of a run.

    Raises:
        KeyError, TypeError: if its provenance is malformed.
    """
    return Environment.from_json(provenance["environment"])


def scalars_of(result: Result) -> dict[str, float]:
    """The outputs and summaries over all prompts that are single finite numbers."""
    found = {
        name: float(values)
        for name, values in result.arrays.items()
        if values.ndim == 0 and not {"@", ":"} & set(name)
    }
    finite = [(name, value) for name, value in found.items() if math.isfinite(value)]
    return dict(finite[:_MOST_SCALARS])

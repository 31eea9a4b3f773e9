"""What is asked of a backend before a job goes there, and what it answers.

A plan asks each candidate in turn. Plain data, so that every decision can be tested and read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from remote_mi.models.spec import ModelSpec

if TYPE_CHECKING:
    from remote_mi.backends.settings.values import Limits
    from remote_mi.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class Footprint:
    """What a job needs beside the weights.

    Attributes:
        activations: bytes of memory; None where the model's configuration is not known.
        tokens: of the longest prompt, about.
        bytes_up, bytes_down: to a server and back; None where it is not known.
        measured: whether by a run without weights, not by arithmetic.
    """

    activations: int | None
    tokens: int
    bytes_up: int
    bytes_down: int | None
    measured: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Option:
    """A backend that was considered.

    Attributes:
        backend: what `--backend` takes. can: whether the job can run there.
        why: the reason, in words. hint: what would make it possible; "" where it is.
        model: the model as it would run there: device, device map.
        rows_bytes: what the rows of a sweep may take there.
        download: bytes to fetch first.
        defer_reason: why every other backend is tried before; "" where there is no reason.
    """

    backend: str
    can: bool
    why: str
    hint: str = ""
    model: ModelSpec = field(default_factory=ModelSpec)
    rows_bytes: int | None = None
    download: int = 0
    defer_reason: str = ""

    def to_json(self) -> dict[str, Any]:
        shown = asdict(self)
        del shown["defer_reason"]
        shown["model"] = {"device": self.model.device, "device_map": self.model.device_map}
        return shown


@dataclass
class Question:
    """Can you run this job? What a backend looks at is found out when it looks, and once.

    Attributes:
        model: as asked for. needs: what the recipe needs, as `remote_mi.recipes.declaration.NEEDS`
            names it. limits: of the project's settings.
        explicit: whether this backend was asked for by name, not by `auto`.
        survey: whether somebody wants to read the answer, not only to have the job run.
        describe, estimate, measure: find out what the properties give.
    """

    model: ModelSpec
    needs: tuple[str, ...]
    limits: Limits
    explicit: bool
    survey: bool
    describe: Callable[[], Checkpoint]
    estimate: Callable[[Checkpoint], Footprint]
    measure: Callable[[Footprint, int], Footprint]

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        """What is known of the model's weights."""
        return self.describe()

    @functools.cached_property
    def need(self) -> Footprint:
        """What the job needs beside the weights, by arithmetic."""
        return self.estimate(self.checkpoint)

    def measured(self, rows_bytes: int) -> Footprint:
        """The same by a run without weights, which takes seconds.

        Args:
            rows_bytes: what the rows of a sweep may take.
        """
        return self.measure(self.need, rows_bytes)

    @property
    def looked_up(self) -> tuple[Checkpoint | None, Footprint | None]:
        """The checkpoint and the need, as far as some backend has looked at them."""
        return self.__dict__.get("checkpoint"), self.__dict__.get("need")

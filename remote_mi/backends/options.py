"""The question a plan puts to each candidate backend, and the answer.

Both are plain data, so that every decision can be tested and read.
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
    """What a job needs in addition to the weights.

    Attributes:
        activations: bytes of memory; None if the model's configuration is unknown.
        tokens: of the longest prompt, approximately.
        bytes_up, bytes_down: to a server and back; None if unknown.
        bytes_down_most: the same as `bytes_down` if every dimension of unknown size were as large
            as the largest whole number among the parameters.
        measured: whether measured by a run without weights, rather than estimated.
    """

    activations: int | None
    tokens: int
    bytes_up: int
    bytes_down: int | None
    measured: bool = False
    bytes_down_most: int = 0

    def to_json(self) -> dict[str, Any]:
        document = asdict(self)
        del document["bytes_down_most"]
        return document


@dataclass(frozen=True)
class Option:
    """A backend that was considered.

    Attributes:
        backend: what `--backend` takes. can: whether the job can run there.
        why: the reason, in words. hint: what would make it possible; "" if it is.
        model: the model as it would run there: device, device map.
        rows_bytes: memory for the rows of a sweep there.
        download: bytes to fetch first.
        defer_reason: why every other backend is tried first; "" for no reason.
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
        document = asdict(self)
        del document["defer_reason"]
        document["model"] = {"device": self.model.device, "device_map": self.model.device_map}
        return document


@dataclass
class Question:
    """Can you run this job? The properties are computed on first use, and once.

    Attributes:
        model: as requested. needs: of the recipe, as named in
            `remote_mi.recipes.declaration.NEEDS`. limits: from the project's settings.
        explicit: whether the user named this backend, rather than `auto`.
        survey: whether the answer is to be shown, not only acted on.
        describe, estimate, measure: compute what the properties return.
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
        """What the job needs in addition to the weights, estimated."""
        return self.estimate(self.checkpoint)

    def measured(self, rows_bytes: int) -> Footprint:
        """The same, measured by a run without weights, which takes seconds.

        Args:
            rows_bytes: memory for the rows of a sweep.
        """
        return self.measure(self.need, rows_bytes)

    @property
    def looked_up(self) -> tuple[Checkpoint | None, Footprint | None]:
        """The checkpoint and the need, each None if no backend has used it."""
        return self.__dict__.get("checkpoint"), self.__dict__.get("need")

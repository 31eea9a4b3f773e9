"""Whether an output has the coordinates that a study names, as far as that is known beforehand."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from remote_mi.common.errors import RemoteMIError
from remote_mi.jobs.studies.entry_reader import Reader
from remote_mi.jobs.studies.selection import Origin
from remote_mi.models.checkpoint import layers_and_heads
from remote_mi.prompts.datasets import DATASET
from remote_mi.prompts.examples import Example
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.store.claims.bounds import is_comparison
from remote_mi.store.claims.cells import matching
from remote_mi.store.claims.expectation import WrongExpectation

#: The label that every prompt has.
_END = "end"


class CoordinateCheck:
    """Checks coordinates against parameters, the model's configuration and the prompts' labels."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._sizes: dict[str, tuple[int | None, int | None]] = {}
        self._examples: dict[str, tuple[Example, ...]] = {}

    def __call__(self, origin: Origin, output: str, at: Mapping[str, Any]) -> None:
        """Check the coordinates that are selected in an output.

        Raises:
            WrongExpectation: if one of them cannot exist.
        """
        for dim, wanted in at.items():
            inside = ("at", dim)
            if dim in POSITIONS:
                self._check_position(origin, dim, wanted)
                continue
            known = self._coordinates(origin, dim)
            if known is None:
                continue
            try:
                matching(known, wanted, dim)
            except RemoteMIError as error:
                what = f"{error.message} in {output!r} of {origin.recipe.card.name}"
                raise WrongExpectation(
                    f"{what} on {origin.model.word}", error.hint, *inside
                ) from None

    def _coordinates(self, origin: Origin, dim: str) -> list[Any] | None:
        """The coordinates that a dimension has at most; None if that is not known."""
        given = origin.parameters.get(f"{dim}s")
        if isinstance(given, list) and given:
            return given
        if dim not in ("layer", "head") or dim in origin.recipe.card.labels:
            return None
        name = repr(origin.model.spec)
        if name not in self._sizes:
            self._sizes[name] = layers_and_heads(origin.model.spec)
        layers, heads = self._sizes[name]
        count = heads if dim == "head" else layers + 1 if layers else None  # a lens has one more
        return None if count is None else list(range(count))

    def _check_position(self, origin: Origin, dim: str, wanted: Any) -> None:
        """Check labels of positions against those of the prompts, and tokens against their text."""
        examples = self._texts(origin)
        several = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        chat = origin.model.spec.chat or any(example.turns for example in examples)
        if not examples or is_comparison(wanted) or chat:  # the template names more positions
            return
        labels = {_END, *(k for e in examples for k in (*e.labels, *e.corrupt_labels))}
        for one in several:
            name = str(one).strip("[]")
            if not isinstance(one, str) or name in labels or one.startswith("<"):
                continue
            if not any(one.strip() and one.strip() in example.clean for example in examples):
                raise WrongExpectation(
                    f"the prompts {origin.prompts.word!r:.60} have no {dim} {one!r}",
                    f"their labels are: {', '.join(sorted(labels))}",
                    *("at", dim),
                )

    def _texts(self, origin: Origin) -> tuple[Example, ...]:
        """The examples of some prompts; () if they are not known yet."""
        choice = origin.prompts.choice
        name = repr(choice)
        if name not in self._examples:
            self._examples[name] = ()
            if not str(choice.pairs or "").startswith(DATASET):  # may need the network
                with contextlib.suppress(RemoteMIError):
                    self._examples[name] = choice.resolve(self.reader.project).examples
        return self._examples[name]

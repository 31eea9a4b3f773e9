"""Mean activations of reference prompts, which mean ablation puts in place of a prompt's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from remote_mi.interventions.forward import is_empty, run
from remote_mi.interventions.ports import Stream
from remote_mi.interventions.prompts import Prompt
from remote_mi.interventions.vocabulary import Average


class Means:
    """Mean activations of reference prompts; made by `mean_activations`."""

    def __init__(self, lm: Any, prompts: Sequence[Prompt], site: str | Stream, of: str) -> None:
        self.lm, self.prompts, self.site, self.of = lm, list(prompts), site, of
        self.layers: Sequence[int] | None = None
        self._known: dict[tuple[int, ...], list[torch.Tensor]] = {}

    def at(self, prompt: Prompt) -> list[torch.Tensor]:
        """The mean of each layer for a prompt: [width], or [1, position, width] for "each"; float32.

        Raises:
            ValueError: for "each", if no reference prompt but the prompt itself has its length and
                its labels in the same places.
        """
        alike = tuple(range(len(self.prompts)))
        if self.of == "each":
            alike = tuple(i for i, one in enumerate(self.prompts) if _is_alike(one, prompt))
            if all(self.prompts[i].ids == prompt.ids for i in alike):
                raise ValueError(self._why_none(prompt))
        if alike not in self._known:
            self._known[alike] = self._mean([self.prompts[i] for i in alike])
        return self._known[alike]

    def _mean(self, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        totals: list[torch.Tensor] = []
        for prompt in prompts:
            read = run(self.lm, prompt, self.site, layers=self.layers).values
            sums = [self._summed(x.float()) if not is_empty(x) else x for x in read]
            totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
        count = sum(1 if self.of == "each" else self._positions(prompt) for prompt in prompts)
        return [total / count for total in totals]

    def _summed(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over the positions that count, or an activation as it is."""
        if self.of == "each":
            return x
        return x[0, 1 if self.of == "after_first" else 0 :].sum(0)

    def _positions(self, prompt: Prompt) -> int:
        return len(prompt.ids) - (1 if self.of == "after_first" else 0)

    def _why_none(self, prompt: Prompt) -> str:
        length = len(prompt.ids)
        same = [one for one in self.prompts if len(one.ids) == length and one.ids != prompt.ids]
        why = "has its labels in the same places" if same else f"has its {length} tokens"
        return (
            "a mean at each position needs other prompts of the same template: none of the "
            f"{len(self.prompts)} reference prompts but itself {why}; average over all positions, "
            "or give reference prompts of its template"
        )


def mean_activations(
    lm: Any,
    prompts: Sequence[Prompt],
    site: str | Stream,
    *,
    of: Average = "all",
    layers: Sequence[int] | None = None,
) -> Means:
    """The mean activation of each layer over reference prompts, computed where it is first used.

    Every position that counts has the same weight.

    Args:
        of: the positions: "all", "after_first" (all but the first), or "each" (position by
            position, as Wang et al. 2023 define it, over the prompts like the one that it is for).
        layers: whose; None for all. Those of the others are empty.

    Raises:
        ValueError: if there are no prompts, or no positions after the first.
    """
    if not prompts:
        raise ValueError("there are no reference prompts to average over")
    if of == "after_first" and all(len(prompt.ids) < 2 for prompt in prompts):
        raise ValueError("no reference prompt has a position after its first")
    found = Means(lm, prompts, site, of)
    found.layers = layers
    return found


def _is_alike(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts have one length, and the labels that both have in the same places."""
    shared = one.spans.keys() & other.spans.keys()
    return len(one.ids) == len(other.ids) and all(
        one.spans[label] == other.spans[label] for label in shared
    )

"""Passes that the calls of a recipe share.

A recipe's body is a function of one pair or prompt, and runs its own. All calls of a job are known
before the first one, and all run the same: so when a call asks for a plain run, the prompts of
later calls with as many tokens become rows of the same pass, and each call takes its rows when it
asks. This affects numbers only by rounding. How many rows, follows from the available memory.

The first call's pass is its own, and its prompts are rows of the first shared pass once more. Unless
both agree, no pass is shared: in a model, rows may depend on each other (experts of limited
capacity, a scale that is computed over the batch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from remote_mi.interventions.dealing import rows_of_a_pass
from remote_mi.interventions.memory import rows_that_fit
from remote_mi.interventions.prompts import Pair, Prompt

#: Tokens of a shared pass: with more, it would hardly be faster.
MOST_TOKENS = 2048
#: The share of the memory of a pass that what is kept of it may take.
KEPT_SHARE = 8
#: How far the same row may be in another pass, of the largest number in it.
_ROUNDING, _HALF_ROUNDING = 1e-3, 0.1


class SharedPasses:
    """The runs of the prompts of all calls, made for several calls at a time.

    Attributes:
        items: of each call, its prompts by what they are of it: "clean", "corrupt", "prompt".
        proved: whether rows depend on nothing but their prompt; None before it is known.
    """

    def __init__(self, items: Sequence[Pair | Prompt]) -> None:
        self.items = [_prompts_of(item) for item in items]
        self.proved: bool | None = None
        self._requests: dict[Any, _Request] = {}
        for index, prompts in enumerate(self.items):
            for part, prompt in prompts.items():
                prompt.place = (self, index, part)

    def close(self) -> None:
        """Forget all runs; from now on, every prompt is run by itself."""
        self._requests.clear()
        for prompts in self.items:
            for prompt in prompts.values():
                vars(prompt).pop("place", None)  # as it was before

    def take(
        self, lm: Any, prompts: Sequence[Prompt], kept: Any, make: Callable[[Sequence[Prompt]], Any]
    ) -> Any:
        """The run of prompts of one call; out of the pass of an earlier call if it is in one.

        Args:
            kept: what is kept of the run; equal requests share passes.
            make: runs prompts of equal length as rows of one pass.
        """
        index, parts = prompts[0].place[1], [prompt.place[2] for prompt in prompts]
        request = self._requests.setdefault((*parts, kept), _Request())
        if index not in request.ready:
            if index in request.made:  # it asks for the same run once more
                return make(prompts)
            calls = self._calls_of_a_pass(lm, index, parts, request)
            request.made.update(calls)
            if len(calls) == 1:
                return self._alone(index, prompts, request, make)
            known = request.alone.get(len(prompts[0].ids))  # of the first shared pass only
            before, size = [] if known is None else [known[0]], len(parts)
            whole = make([self.items[call][part] for call in before + calls for part in parts])
            if known is not None and not self._prove(known[1], whole.hidden[:size]):
                return make(prompts)
            for place, call in enumerate(calls, len(before)):
                request.ready[call] = whole.rows(place * size, size)
        return request.ready.pop(index)

    def _calls_of_a_pass(
        self, lm: Any, index: int, parts: Sequence[str], request: _Request
    ) -> list[int]:
        """A call and the later ones whose prompts can be rows of the same pass."""
        length = len(self.items[index][parts[0]].ids)
        if self.proved is False or not request.bytes:
            return [index]
        if self.proved is None and length not in request.alone:
            return [index]
        calls = [
            call
            for call in range(index, len(self.items))
            if call not in request.made
            if all(len(self.items[call][part].ids) == length for part in parts)
        ]
        again = 1 if self.proved is None else 0  # the call that is in the pass once more
        return calls[: max(1, request.most_rows(lm, length) // len(parts) - again)]

    def _alone(self, index: int, prompts: Sequence[Prompt], request: _Request, make: Any) -> Any:
        """A pass of one call, which tells how much is kept of it."""
        found = make(prompts)
        request.length, request.bytes = len(prompts[0].ids), found.size() // len(prompts)
        if self.proved is None:
            request.alone[request.length] = index, found.hidden
        return found

    def _prove(self, own: torch.Tensor, shared: torch.Tensor) -> bool:
        """Whether prompts in a shared pass are what they were in a pass of their own."""
        rounding = _ROUNDING if own.dtype == torch.float32 else _HALF_ROUNDING
        apart = (own.float() - shared.float()).abs().max()
        self.proved = bool(apart <= rounding * own.float().abs().max())
        for request in self._requests.values():
            request.alone.clear()
        return self.proved


class _Request:
    """A run that every call asks for.

    Attributes:
        ready: call → its run, not yet taken. made: the calls whose run was made.
        bytes: what is kept of a row of `length` tokens.
        alone: tokens → a call that had a pass of its own, and its final states; until it is known
            whether rows depend on each other.
    """

    def __init__(self) -> None:
        self.ready: dict[int, Any] = {}
        self.made: set[int] = set()
        self.length = self.bytes = 0
        self.alone: dict[int, tuple[int, torch.Tensor]] = {}

    def most_rows(self, lm: Any, length: int) -> int:
        """How many rows of some tokens a pass may have."""
        kept = self.bytes * max(1, length / self.length) ** 2  # attention patterns grow like this
        return min(
            MOST_TOKENS // length,
            rows_of_a_pass(lm, length, length),
            rows_that_fit(lm.embed_tokens.weight.device, round(kept) * KEPT_SHARE),
        )


def share_passes(calls: Sequence[Any]) -> SharedPasses | None:
    """Let calls share passes; None if they do already, or have nothing to share.

    Args:
        calls: the arguments of each call after the model: one pair or prompt, or else.
    """
    items = [call for call in calls if isinstance(call, (Pair, Prompt))]
    free = all(prompt.place is None for item in items for prompt in _prompts_of(item).values())
    return SharedPasses(items) if free and len(items) > 1 else None


def shared_by(prompts: Sequence[Prompt]) -> SharedPasses | None:
    """The passes that prompts of one call share with those of others; None if they do not."""
    places = [prompt.place for prompt in prompts]
    if not places or any(place is None or place[:2] != places[0][:2] for place in places):
        return None
    return places[0][0] if len({len(prompt.ids) for prompt in prompts}) == 1 else None


def _prompts_of(item: Pair | Prompt) -> dict[str, Prompt]:
    if isinstance(item, Prompt):
        return {"prompt": item}
    return {"clean": item.clean, "corrupt": item.corrupt}

"""Attention's scores, and the queries and keys that they are computed from.

They are reached in the source of the module that computes them (`operations`), and proven on the
twin: softmax(scores) is the pattern; turning one head's queries or keys around at one position
changes that head's row or column of the pattern, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from remote_mi.models.structure.attention import Attention
from remote_mi.models.structure.block import LayerParts
from remote_mi.models.structure.observation import Call, factor_between, same
from remote_mi.models.structure.operations import SourceCall, operations

#: How far a pattern's numbers may move without having been changed.
STILL = 1e-6


def name_scores(
    block: LayerParts,
    inside: Sequence[Call],
    attention: Attention,
    views: Mapping[str, Mapping[str, torch.Tensor]],
    names: dict[str, str],
    facts: dict[str, Any],
) -> None:
    """Add where scores, and rotated queries and keys, are found, or why they are not.

    Args:
        views: queries and keys, [1, position, head, d_head], by site: "q", "q_normed", "k", ….
    """
    lacks, places = facts.setdefault("lacks", {}), facts.setdefault("operations", {})
    pattern = _pattern(block, inside, attention)
    for call in _scoring(block, names, inside, attention):
        ran, _ = operations(call)
        scores = None if pattern is None else _scores(ran, pattern)
        if pattern is None or scores is None:
            continue
        names["scoring"] = block.relative(call.path)
        places["attn_scores"] = scores
        search = _RotationSearch(call, ran, pattern, attention)
        for which in "qk":
            site = f"{which}_rotated"
            found = search.rotated(which, views)
            if isinstance(found, str):
                lacks[site] = found
            else:
                places[site] = found
        return
    why = "no call in the source of this attention takes what the pattern is the softmax of"
    lacks.update({"attn_scores": why, "q_rotated": why, "k_rotated": why})


def _pattern(
    block: LayerParts, inside: Sequence[Call], attention: Attention
) -> torch.Tensor | None:
    for call in inside:
        if block.relative(call.path) == attention.attends:
            for tensor in call.given:
                if tensor.dim() == 4 and tensor.shape[1] == attention.heads:
                    return tensor
    return None


def _scoring(
    block: LayerParts, names: Mapping[str, str], inside: Sequence[Call], attention: Attention
) -> list[Call]:
    """The modules whose source may compute the pattern, innermost first."""
    path = f"{block.call.path}.{attention.attends}"
    root = f"{block.call.path}.{names['self_attn']}"
    holders = [
        c
        for c in inside
        if (path == c.path or path.startswith(f"{c.path}."))
        and (c.path == root or c.path.startswith(f"{root}."))
        and not c.is_leaf
    ]
    return sorted(holders, key=lambda c: -len(c.path))


def _scores(ran: Sequence[SourceCall], pattern: torch.Tensor) -> dict[str, Any] | None:
    """Where the scores are: what the softmax takes, or a value that an attention sink follows."""
    for one in ran:
        first = one.args[0] if one.args else None
        if _gives(first, pattern) and same(_tensor(one.value), pattern):
            return {"path": list(one.path), "side": "input"}
    for one in reversed(ran):
        if _gives(one.value, pattern):
            return {"path": list(one.path), "side": "output"}
    return None


def _tensor(value: Any) -> torch.Tensor | None:
    return value if isinstance(value, torch.Tensor) else None


def _gives(scores: Any, pattern: torch.Tensor) -> bool:
    """Whether the softmax of some scores is the pattern, perhaps beside one sink per head."""
    if not isinstance(scores, torch.Tensor) or scores.shape != pattern.shape:
        return False
    total = pattern.sum(-1, keepdim=True)
    scores = scores.float()
    if not same(scores.softmax(-1) * total, pattern):
        return False
    if bool((total - 1).abs().max() < 1e-4):
        return True
    sink = scores.logsumexp(-1, keepdim=True) + (1 / total - 1).log()  # the same in every row
    return bool((sink - sink[:, :, :1]).abs().max() < 1e-2)


class _RotationSearch:
    """Looking for the queries and keys that one attention computes its scores from."""

    def __init__(
        self,
        call: Call,
        ran: Sequence[SourceCall],
        pattern: torch.Tensor,
        attention: Attention,
    ) -> None:
        self.call, self.ran, self.pattern = call, ran, pattern
        self.counts = {"q": attention.heads, "k": attention.key_heads or attention.heads}

    def rotated(
        self, which: str, views: Mapping[str, Mapping[str, torch.Tensor]]
    ) -> dict[str, Any] | str:
        """Where queries or keys after their rotation are; or why nowhere."""
        given = self._taken(which)
        if given is None:
            return "no function in the source of this attention takes queries and keys"
        word = {"q": "queries", "k": "keys"}[which]
        for site, view in views.get(which, {}).items():
            if factor_between(given, view.transpose(1, 2)):
                return f"the {word} are not rotated here: use {site}"
        for one in self.ran:
            if len(one.path) > 1:
                continue
            listed = one.value if isinstance(one.value, tuple) else (one.value,)
            for item, tensor in enumerate(listed):
                if not isinstance(tensor, torch.Tensor) or tensor.shape != given.shape:
                    continue
                if not torch.equal(tensor, given):
                    continue
                whole = not isinstance(one.value, tuple)
                if self._acts(which, one.path, None if whole else item):
                    place = {"path": list(one.path), "side": "output"}
                    return place if whole else {**place, "item": item}
        return f"no call in the source of this attention gives the {word} that it scores"

    def _taken(self, which: str) -> torch.Tensor | None:
        """The queries or keys, [1, head, position, d_head], that a function gets to attend with."""
        for one in self.ran:
            values = one.value if isinstance(one.value, tuple) else (one.value,)
            if not any(same(_tensor(value), self.pattern) for value in values):
                continue
            taken = [a for a in one.args if isinstance(a, torch.Tensor) and a.dim() == 4]
            if len(taken) < 3 or taken[0].shape[1] != self.counts["q"]:
                continue
            return taken["qk".index(which)]
        return None

    def _acts(self, which: str, path: tuple[str, ...], item: int | None) -> bool:
        """Whether turning one head's around at one position moves its row or column alone."""
        place = self.pattern.shape[-1] - 2
        count = self.counts[which]
        group = self.counts["q"] // count
        for head in {0, count - 1}:
            output = operations(self.call, {path: _turned(item, head, place)})[1]
            listed = output if isinstance(output, (tuple, list)) else (output,)
            new = next(
                (
                    t
                    for t in map(_tensor, listed)
                    if t is not None and t.shape == self.pattern.shape
                ),
                None,
            )
            if new is None:
                return False
            moved = (new - self.pattern).abs() > STILL
            mine = slice(head * group, (head + 1) * group)
            rest = moved.clone()
            if which == "q":
                hits, rest[:, mine, place] = moved[:, mine, place].any(-1).all(), False
            else:
                hits, rest[:, mine] = moved[:, mine, :, place].any(-1).all(), False
            if not bool(hits) or bool(rest.any()):
                return False
        return True


def _turned(item: int | None, head: int, place: int) -> Callable[[Any], Any]:
    def turn(value: Any) -> Any:
        tensor = (value if item is None else value[item]).clone()
        tensor[:, head, place] = -tensor[:, head, place]
        if item is None:
            return tensor
        return tuple(tensor if index == item else other for index, other in enumerate(value))

    return turn

"""The parts of an attention: its output projection, heads, pattern, queries, keys and values.

Each is proven on the twin: values by `pattern · value = head_z`; queries and keys by their effect.
Turning the queries of one head at one position around changes one row of one head's pattern, and
nothing else; a key changes one head's column, in the rows that see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from remote_mi.models.structure.block import Block, Part
from remote_mi.models.structure.observation import Call, factor_between, observe, same

#: How a projection for all three arranges them in its output: all queries, then all keys, then all
#: values; or for each key head its queries, its key and its value.
PACKINGS = ("thirds", "by_group")


@dataclass
class Attention:
    """The parts of an attention, as paths below the layer; "" for what it lacks or is not proven.

    Attributes:
        o_proj: the output projection. attends: the module that gives the pattern.
        pattern_name: "attends" if that module gives head_z, too; "pattern" if it gives the pattern
            alone, which the model goes on with.
        pattern_at: place of the pattern among that module's outputs.
        heads, key_heads: how many; 0 if it has no pattern.
        q_proj, k_proj, v_proj: the projections; or qkv_proj and its `packing`.
    """

    o_proj: str = ""
    attends: str = ""
    heads: int = 0
    key_heads: int = 0
    q_proj: str = ""
    k_proj: str = ""
    v_proj: str = ""
    qkv_proj: str = ""
    packing: str = ""
    pattern_name: str = "attends"
    pattern_at: int = 1


def find_attention(block: Block, part: Part, calls: Sequence[Call]) -> Attention:
    """Find the parts of the sub-layer that mixes positions."""
    root = f"{block.call.path}.{part.root}"
    inside = [
        c for c in calls if _within(c, root) and block.call.began < c.began < block.call.ended
    ]
    found = Attention(heads=0)
    projection = _projection(part, inside)
    found.o_proj = "" if projection is None else block.relative(projection.path)
    giver, pattern = _pattern(inside)
    if giver is None or pattern is None or projection is None or projection.input is None:
        return found
    found.attends, found.heads = block.relative(giver.path), int(pattern.shape[1])
    if giver.output is pattern:
        found.pattern_name = "pattern"
    else:
        found.pattern_at = next(i for i, given in enumerate(giver.given) if given is pattern)
    z = projection.input.reshape(pattern.shape[0], pattern.shape[2], -1)
    if z.shape[-1] % found.heads:
        return found
    whole = next((c for c in inside if c.path == root), giver)
    search = _Search(found, block, whole, giver, pattern, z)
    search.values(inside, projection)
    return found


def _within(call: Call, root: str) -> bool:
    return call.path == root or call.path.startswith(f"{root}.")


def _projection(part: Part, inside: Sequence[Call]) -> Call | None:
    """The last matrix of a sub-layer: a leaf that gives what the sub-layer gives."""
    for call in inside:
        changes = not same(call.input, call.output)
        is_matrix = call.is_leaf and any(p.dim() == 2 for p in call.module.parameters())
        if is_matrix and changes and factor_between(call.output, part.source.output):
            return call
    return None


def _pattern(inside: Sequence[Call]) -> tuple[Call | None, torch.Tensor | None]:
    """The innermost call that gives attention weights, [1, head, query, key], and these."""
    for call in sorted(inside, key=lambda c: -len(c.path)):
        for tensor in call.given:
            if tensor.dim() == 4 and tensor.shape[-1] == tensor.shape[-2] and _are_weights(tensor):
                return call, tensor
    return None, None


def _are_weights(tensor: torch.Tensor) -> bool:
    """Whether rows could be attention weights: a sink may take a part of each."""
    rows = tensor.sum(-1)
    return bool((tensor >= 0).all() and (rows > 0).all() and (rows <= 1 + 1e-4).all())


class _Search:
    """Looking for the queries, keys and values of one attention."""

    def __init__(
        self,
        found: Attention,
        block: Block,
        whole: Call,
        giver: Call,
        pattern: torch.Tensor,
        z: torch.Tensor,
    ) -> None:
        self.found, self.block, self.whole, self.giver = found, block, whole, giver
        self.pattern, self.z = pattern, z
        self.length = pattern.shape[-1]

    def values(self, inside: Sequence[Call], projection: Call) -> None:
        """Find the values by `pattern · value = head_z`, then queries and keys beside them."""
        matrices = [
            c
            for c in inside
            if c.is_leaf
            and c.output is not None
            and c.ended <= projection.began
            and c.output.numel() == self.length * c.output.shape[-1]
            and any(p.dim() == 2 for p in c.module.parameters())
        ]
        for call in matrices:
            for key_heads in self._key_heads(call.output.shape[-1]):  # type: ignore[union-attr]
                if self._gives(self._flat(call), key_heads):
                    self.found.v_proj, self.found.key_heads = self._name(call), key_heads
                    self._separate(matrices, call)
                    return
        for call in matrices:
            for packing, queries, keys in self._packings(self._flat(call)):
                split = unpack(self._flat(call), packing, queries, keys)
                if self._gives(split[2], keys):
                    self.found.qkv_proj, self.found.packing = self._name(call), packing
                    self.found.key_heads = keys
                    self._prove_fused(call)
                    return

    def _name(self, call: Call) -> str:
        return self.block.relative(call.path)

    def _flat(self, call: Call) -> torch.Tensor:
        assert call.output is not None
        return call.output.reshape(1, self.length, -1)

    def _key_heads(self, width: int) -> list[int]:
        heads = self.found.heads
        d_head = self.z.shape[-1] // heads
        return [k for k in range(1, heads + 1) if heads % k == 0 and width == k * d_head]

    def _packings(self, whole: torch.Tensor) -> list[tuple[str, int, int]]:
        heads, d_head = self.found.heads, self.z.shape[-1] // self.found.heads
        total, rest = divmod(whole.shape[-1], d_head)
        keys, odd = divmod(total - heads, 2)
        if rest or odd or keys < 1 or heads % keys:
            return []
        return [(packing, heads, keys) for packing in PACKINGS]

    def _gives(self, values: torch.Tensor, key_heads: int) -> bool:
        """Whether the pattern times these values is head_z."""
        if values.shape[-1] % key_heads:
            return False
        by_head = values.unflatten(-1, (key_heads, -1)).transpose(1, 2)
        by_head = by_head.repeat_interleave(self.found.heads // key_heads, 1)
        return same((self.pattern @ by_head).transpose(1, 2).flatten(2), self.z)

    def _separate(self, matrices: Sequence[Call], values: Call) -> None:
        """Queries and keys of their own modules."""
        for call in matrices:
            if call is values or self._name(call) == self.found.o_proj:
                continue
            width = self._flat(call).shape[-1]
            for which, heads in (("q", self.found.heads), ("k", self.found.key_heads)):
                if getattr(self.found, f"{which}_proj") or width % heads:
                    continue
                if self._acts(call, which, lambda x, heads=heads: x.unflatten(-1, (heads, -1))):
                    setattr(self.found, f"{which}_proj", self._name(call))
                    break

    def _prove_fused(self, call: Call) -> None:
        """Whether the queries and keys of a projection for all three are where they should be."""
        packing, heads, keys = self.found.packing, self.found.heads, self.found.key_heads
        for index, which in enumerate("qk"):

            def part(x: torch.Tensor, index: int = index, count: int = (heads, keys)[index]) -> Any:
                split = unpack_views(x, packing, heads, keys)
                return split[index]

            if not self._acts(call, which, part):
                self.found.qkv_proj = self.found.packing = ""
                return

    def _acts(self, call: Call, which: str, part: Callable[[torch.Tensor], torch.Tensor]) -> bool:
        """Whether a part of an output acts as queries or keys do.

        Args:
            part: from the output [1, position, width] to a view [1, position, head, d_head].
        """
        place = self.length - 2
        count = self.found.heads if which == "q" else self.found.key_heads
        group = self.found.heads // count
        for head in {0, count - 1}:

            def turn(_m: Any, _a: Any, output: torch.Tensor, head: int = head) -> torch.Tensor:
                changed = output.clone()
                view = part(changed.view(1, self.length, -1))
                view[:, place, head] = -view[:, place, head]
                return changed

            hook = call.module.register_forward_hook(turn)
            try:
                args, kwargs = self.whole.arguments
                with torch.no_grad():
                    again, _ = observe(self.whole.module, kwargs, args)
            except Exception:  # it is no such part, if the attention fails with it
                return False
            finally:
                hook.remove()
            pattern = _pattern(again)[1]
            if pattern is None:
                return False
            moved = (pattern - self.pattern).abs() > 1e-6
            own = torch.zeros_like(moved)
            mine = slice(head * group, (head + 1) * group)
            if which == "q":
                own[:, mine, place] = True
                hits = moved[:, mine, place].any(-1).all()
            else:
                own[:, mine] = True
                hits = moved[:, mine, :, place].any(-1).all()
            if not bool(hits) or bool((moved & ~own).any()):
                return False
        return True


def unpack(
    whole: torch.Tensor, packing: str, heads: int, keys: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values, each [row, position, head × d_head]."""
    q, k, v = (part.flatten(-2) for part in unpack_views(whole, packing, heads, keys))
    return q, k, v


def unpack_views(whole: torch.Tensor, packing: str, heads: int, keys: int) -> Any:
    """The same as views, [row, position, head, d_head] each."""
    d_head = whole.shape[-1] // (heads + 2 * keys)
    if packing == "thirds":
        sizes = [heads * d_head, keys * d_head, keys * d_head]
        q, k, v = whole.split(sizes, -1)
        return (
            q.unflatten(-1, (heads, -1)),
            k.unflatten(-1, (keys, -1)),
            v.unflatten(-1, (keys, -1)),
        )
    by_group = whole.unflatten(-1, (keys, heads // keys + 2, -1))
    return by_group[..., :-2, :].flatten(-3, -2), by_group[..., -2, :], by_group[..., -1, :]

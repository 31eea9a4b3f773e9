"""The parts of an attention: its output projection, heads, pattern, queries, keys and values.

Each is proven on the twin. Values by `pattern · value = head_z`; or, where a gate, a norm or a
bound is between, by their effect: turning the values of one head at one position around changes
head_z of the heads that read it, at later positions too, and no pattern. Queries and keys by their
effect: turning the queries of one head at one position around changes one row of one head's
pattern, and nothing else; a key changes one head's column, in the rows that see it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from remote_mi.models.structure.block import LayerParts, SubLayer
from remote_mi.models.structure.observation import Call, factor_between, observe, same, tensors_of

#: Orders in which a block of the output of a projection for all three may hold them.
_ORDERS = tuple("".join(order) for order in itertools.permutations("qkv"))
_PARTS = {"q": "queries", "k": "keys", "v": "values"}
#: Whether columns of a module's output, [key head, d_head], are the values.
Proof = Callable[[Call, torch.Tensor], bool]
#: How far an activation must move to depend on something: beyond rounding.
MOVED = 1e-6
#: The position at which queries, keys and values are turned around: it sees others and is seen by
#: the next, in short windows, too.
PLACE = 2


@dataclass
class Attention:
    """The parts of an attention, as paths below the layer; "" for what it lacks or is not proven.

    Attributes:
        root: the module that it is. o_proj: the output projection.
        attends: the module that gives the pattern.
        pattern_name: "attends" if that module gives head_z, too; "pattern" if it gives the pattern
            alone, which the model goes on with.
        pattern_at: place of the pattern among that module's outputs.
        heads, key_heads: how many; 0 if it has no pattern, or no keys of its own.
        q_proj, k_proj, v_proj: the projections; or qkv_proj for all three, whose output is divided
            into `blocks` of equal width, each with its share of each in this `order`.
        plain_values: whether pattern · value is head_z. first_is_value: whether head_z of the first
            position is its value, as where a position sees earlier ones and itself only.
        refused: why a part is "".
    """

    root: str = ""
    o_proj: str = ""
    attends: str = ""
    heads: int = 0
    key_heads: int = 0
    q_proj: str = ""
    k_proj: str = ""
    v_proj: str = ""
    qkv_proj: str = ""
    blocks: int = 1
    order: str = "qkv"
    pattern_name: str = "attends"
    plain_values: bool = False
    first_is_value: bool = False
    refused: dict[str, str] = field(default_factory=dict)
    pattern_at: int = 1


def find_attention(block: LayerParts, part: SubLayer, calls: Sequence[Call]) -> Attention:
    """Find the parts of the sub-layer that mixes positions."""
    root = f"{block.call.path}.{part.root}"
    inside = [
        c for c in calls if _within(c, root) and block.call.began < c.began < block.call.ended
    ]
    found = Attention(part.root)
    projection = _projection(part, inside)
    found.o_proj = "" if projection is None else block.relative(projection.path)
    giver, pattern = _pattern(inside)
    if giver is None or pattern is None:
        return found
    found.attends, found.heads = block.relative(giver.path), int(pattern.shape[1])
    if giver.output is pattern:
        found.pattern_name = "pattern"
    else:
        found.pattern_at = next(i for i, given in enumerate(giver.given) if given is pattern)
        if found.o_proj.startswith(f"{found.attends}."):
            found.root = found.attends
    whole = next((c for c in inside if c.path == root), giver)
    if projection is None or projection.input is None:
        found.refused["o_proj"] = "no matrix of this attention takes what its heads give"
        return found
    if projection.input.numel() % (pattern.shape[2] * found.heads):
        found.refused["o_proj"] = "the output projection takes no number of each head"
        found.o_proj = ""
        return found
    search = _Search(found, block, whole, projection, pattern)
    search.all(inside)
    if not found.plain_values and not search.makes_head_z(giver):
        found.refused["pattern"] = "head_z is not made with these attention weights alone"
    return found


def _within(call: Call, root: str) -> bool:
    return call.path == root or call.path.startswith(f"{root}.")


def _projection(part: SubLayer, inside: Sequence[Call]) -> Call | None:
    """The last matrix of a sub-layer: a leaf that gives what the sub-layer gives."""
    for call in inside:
        changes = not same(call.input, call.output)
        if call.is_matrix and changes and factor_between(call.output, part.source.output):
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
        block: LayerParts,
        whole: Call,
        projection: Call,
        pattern: torch.Tensor,
    ) -> None:
        self.found, self.block, self.whole, self.projection = found, block, whole, projection
        self.pattern, self.length = pattern, pattern.shape[-1]
        self.z = self._by_head(projection)

    def all(self, inside: Sequence[Call]) -> None:
        """Find the values, then queries and keys beside them; or in one projection for all."""
        matrices = [
            c
            for c in inside
            if c.is_matrix
            and c.output is not None
            and c.ended <= self.projection.began
            and c.output.numel() == self.length * c.output.shape[-1]
        ]
        for proves in (self._gives, self._carries):
            if self._separate_values(matrices, proves) or self._fused(matrices, proves):
                self.found.plain_values = proves == self._gives
                alone = torch.allclose(self.pattern[0, :, 0, 0], torch.ones(self.found.heads))
                self.found.first_is_value = self.found.plain_values and alone
                break
        if not self.found.qkv_proj:
            self._queries_and_keys(matrices)
            for which in "qkv":
                if not getattr(self.found, f"{which}_proj"):
                    why = (
                        f"no module of this attention gives the {_PARTS[which]} of its heads alone"
                    )
                    self.found.refused.setdefault(f"{which}_proj", why)

    def _name(self, call: Call) -> str:
        return self.block.relative(call.path)

    def _flat(self, call: Call) -> torch.Tensor:
        assert call.output is not None
        return call.output.reshape(1, self.length, -1)

    def _by_head(self, projection: Call) -> torch.Tensor:
        """head_z, [position, head, d_head]."""
        assert projection.input is not None
        return projection.input.reshape(self.length, self.found.heads, -1)

    def _key_heads(self) -> list[int]:
        heads = self.found.heads
        return [count for count in range(heads, 0, -1) if heads % count == 0]

    def _separate_values(self, matrices: Sequence[Call], proves: Proof) -> bool:
        for call in reversed(matrices):
            width = self._flat(call).shape[-1]
            for key_heads in self._key_heads():
                if width % key_heads == 0 and proves(call, _columns(width, key_heads)):
                    self.found.v_proj, self.found.key_heads = self._name(call), key_heads
                    return True
        return False

    def _fused(self, matrices: Sequence[Call], proves: Proof) -> bool:
        for call in matrices:
            width, found = self._flat(call).shape[-1], self.found
            for found.key_heads, found.blocks, found.order in self._arrangements(width):
                q, k, v = packed_columns(width, found)
                if proves(call, v) and self._acts(call, "q", q) and self._acts(call, "k", k):
                    found.qkv_proj = self._name(call)
                    return True
            found.key_heads, found.blocks, found.order = 0, 1, "qkv"
        return False

    def _arrangements(self, width: int) -> Iterator[tuple[int, int, str]]:
        """Ways in which a projection of all three may arrange them: key heads, blocks, order.

        The usual ones first: thirds (GPT-2), and a block for each key head (GPT-NeoX).
        """
        heads, d_head = self.found.heads, self.z.shape[-1]
        total, rest = divmod(width, d_head)
        keys, odd = divmod(total - heads, 2)
        if rest or odd or keys < 1 or heads % keys:
            return
        counts = [count for count in range(1, keys + 1) if keys % count == 0]
        counts.sort(key=lambda count: count not in (1, keys))
        for order in _ORDERS:
            yield from ((keys, count, order) for count in counts)

    def _gives(self, call: Call, columns: torch.Tensor) -> bool:
        """Whether the pattern times these values is head_z."""
        values = self._flat(call)[0][:, columns]  # [position, key head, d_head]
        if values.shape[-1] != self.z.shape[-1]:
            return False
        values = values.repeat_interleave(self.found.heads // values.shape[1], 1)
        return same(torch.einsum("hqk,khd->qhd", self.pattern[0], values), self.z)

    def _carries(self, call: Call, columns: torch.Tensor) -> bool:
        """Whether values of a head reach head_z of the heads that share them, and nothing else."""
        group = self.found.heads // len(columns)
        if columns.shape[1] != self.z.shape[-1]:
            return False
        for head in {0, len(columns) - 1}:
            turned = self._turned(call, columns[head])
            if turned is None or bool(((turned[0] - self.pattern).abs() > MOVED).any()):
                return False
            moved = ((turned[1] - self.z).abs() > MOVED).any(-1)  # [position, head]
            own = torch.zeros_like(moved)
            own[:, head * group : (head + 1) * group] = True
            if bool((moved & ~own).any()) or not bool(moved[PLACE + 1][own[PLACE + 1]].all()):
                return False
        return True

    def makes_head_z(self, giver: Call) -> bool:
        """Whether head_z is linear in the attention weights that a module gives.

        By Euler's identity: then Σ weight · (∂f / ∂weight) = f, for any linear f of head_z.
        """
        kept: dict[str, torch.Tensor] = {}

        def keep_weights(_m: object, _a: object, output: object) -> None:
            wanted = self.pattern
            for tensor in tensors_of(output):
                if tensor.shape == wanted.shape and same(tensor.detach(), wanted):
                    kept["weights"] = tensor

        def keep_z(_m: object, args: tuple[torch.Tensor, ...]) -> None:
            kept["z"] = args[0]

        hooks = [
            giver.module.register_forward_hook(keep_weights),
            self.projection.module.register_forward_pre_hook(keep_z),
        ]
        try:
            args, kwargs = self.whole.arguments
            args = tuple(_leaf(value) for value in args)
            kwargs = {name: _leaf(value) for name, value in kwargs.items()}
            with torch.enable_grad():
                self.whole.module(*args, **kwargs)
                z, weights = kept["z"], kept["weights"]
                direction = torch.sin(torch.arange(z.numel())).reshape(z.shape)
                slope = torch.autograd.grad((direction * z).sum(), weights)[0]
        except Exception:  # no gradient, or the model's own code
            return False
        finally:
            for hook in hooks:
                hook.remove()
        parts = (weights * slope).detach().double()
        off = parts.sum() - (direction * z).detach().double().sum()
        return float(off.abs()) <= 1e-4 * float(parts.abs().sum())

    def _queries_and_keys(self, matrices: Sequence[Call]) -> None:
        """Queries and keys of their own modules; keys only beside values that are others."""
        widths: dict[str, int] = {}
        for call in matrices:
            name = self._name(call)
            width = self._flat(call).shape[-1]
            for which, heads in (("q", self.found.heads), ("k", self.found.key_heads)):
                if which in widths or name == self.found.v_proj or not heads or width % heads:
                    continue
                if self._acts(call, which, _columns(width, heads)):
                    setattr(self.found, f"{which}_proj", name)
                    widths[which] = width // heads
                    break
        if len(widths) == 2 and widths["q"] != widths["k"]:
            self.found.q_proj = ""
            self.found.refused["q_proj"] = "the projection of the queries gives a gate as well"

    def _acts(self, call: Call, which: str, columns: torch.Tensor) -> bool:
        """Whether columns of an output, [head, d_head], act as queries or keys do."""
        group = self.found.heads // len(columns)
        for head in {0, len(columns) - 1}:
            turned = self._turned(call, columns[head])
            if turned is None:
                return False
            moved = (turned[0] - self.pattern).abs() > MOVED
            own = torch.zeros_like(moved)
            mine = slice(head * group, (head + 1) * group)
            if which == "q":
                own[:, mine, PLACE] = True
                hits = moved[:, mine, PLACE].any(-1).all()
            else:
                own[:, mine] = True
                hits = moved[:, mine, PLACE + 1, PLACE].all()  # a later query, not its own
            if not bool(hits) or bool((moved & ~own).any()):
                return False
        return True

    def _turned(
        self, call: Call, columns: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The pattern and head_z with some columns of an output turned around at `PLACE`."""

        def turn(_m: object, _a: object, output: torch.Tensor) -> torch.Tensor:
            changed = output.clone()
            view = changed.view(self.length, -1)
            view[PLACE, columns] = -view[PLACE, columns]
            return changed

        hook = call.module.register_forward_hook(turn)
        try:
            args, kwargs = self.whole.arguments
            again, _ = observe(self.whole.module, kwargs, args)
        except Exception:  # it is no such part, if the attention fails with it
            return None
        finally:
            hook.remove()
        pattern = _pattern(again)[1]
        path = self.projection.path.removeprefix(self.whole.path).removeprefix(".")
        projection = next((c for c in again if c.path == path), None)
        if pattern is None or projection is None or pattern.shape != self.pattern.shape:
            return None
        return pattern, self._by_head(projection)


def _leaf(value: object) -> object:
    """A tensor of numbers as one that needs a gradient; all else as it is."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_(True)
    return value


def _columns(width: int, heads: int) -> torch.Tensor:
    """The columns of each head, [head, d_head], if heads are side by side."""
    return torch.arange(width).reshape(heads, -1)


def packed_columns(width: int, attention: Attention) -> list[torch.Tensor]:
    """The columns of queries, keys and values, [head, d_head] each, in a projection of all three."""
    heads, keys = attention.heads, attention.key_heads
    d_head = width // (heads + 2 * keys)
    shares = {"q": heads // attention.blocks, **dict.fromkeys("kv", keys // attention.blocks)}
    blocks = torch.arange(width).reshape(attention.blocks, -1, d_head)
    parts = blocks.split([shares[which] for which in attention.order], 1)
    return [parts[attention.order.index(which)].flatten(0, 1) for which in "qkv"]

"""Sites within attention: queries, keys and values, and the pattern."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from remote_mi.interventions.model_info import fact, head_count, key_head_count
from remote_mi.interventions.ports import Change, Port, Stream, edit_output, has_name


class Projection(Port):
    """The queries, keys or values: a projection's output, or a part of one that has all three."""

    def __init__(self, which: str, parts: str) -> None:
        super().__init__(
            f"self_attn.{which}_proj",
            "output",
            parts,
            which,
        )
        self.which = which

    def why_not(self, lm: Any, layer: int) -> str:
        return "" if _is_fused(lm.layers[layer]) else Port.why_not(self, lm, layer)

    def _module(self, lm: Any, layer: int) -> Any:
        block = lm.layers[layer]
        return block.self_attn.qkv_proj if _is_fused(block) else Port._module(self, lm, layer)

    def view(self, tensor: torch.Tensor, lm: Any, rows: int) -> torch.Tensor:
        if not any(_is_fused(block) for block in lm.layers):
            return tensor
        return _split(tensor, lm)["qkv".index(self.which)]

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        edit_projections(lm, layer, {self.which: change})


def read_projections(lm: Any, layer: int, which: Collection[str]) -> dict[str, torch.Tensor]:
    """Queries, keys and values of a layer, by name, inside a trace; one projection may give all."""
    if not _is_fused(lm.layers[layer]):
        return {name: PROJECTIONS[name].read(lm, layer) for name in "qkv" if name in which}
    three = _split(lm.layers[layer].self_attn.qkv_proj.output, lm)
    return {name: three["qkv".index(name)] for name in which}


def edit_projections(lm: Any, layer: int, changes: dict[str, Change]) -> None:
    """Replace queries, keys and values of a layer, inside a trace; one projection may give all."""
    block = lm.layers[layer]
    if not _is_fused(block):
        for name in [name for name in "qkv" if name in changes]:
            Port.edit(PROJECTIONS[name], lm, layer, changes[name])
        return

    def change_parts(whole: torch.Tensor) -> torch.Tensor:
        three = dict(zip("qkv", _split(whole, lm), strict=True))
        three |= {name: change(three[name]) for name, change in changes.items()}
        blocks, order = _arrangement(lm)
        return torch.cat([three[name].unflatten(-1, (blocks, -1)) for name in order], -1).flatten(
            -2
        )

    if changes:
        edit_output(block.self_attn.qkv_proj, change_parts)


def _split(whole: torch.Tensor, lm: Any) -> list[torch.Tensor]:
    """Queries, keys and values from the output of a projection that has all three."""
    queries, keys = head_count(lm), key_head_count(lm)
    blocks, order = _arrangement(lm)
    size = whole.shape[-1] // (queries + 2 * keys) // blocks
    widths = {"q": queries * size, "k": keys * size, "v": keys * size}  # in each block
    parts = whole.unflatten(-1, (blocks, -1)).split([widths[which] for which in order], -1)
    return [parts[order.index(which)].flatten(-2) for which in "qkv"]


def _arrangement(lm: Any) -> tuple[int, str]:
    """Into how many blocks projections of all three divide their output, and the order in each."""
    layer = next((block for block in lm.layers if _is_fused(block)), None)
    return fact(layer, "qkv_blocks", 1), fact(layer, "qkv_order", "qkv")


def _is_fused(block: Any) -> bool:
    """Whether one projection gives queries, keys and values."""
    return has_name(block, "self_attn.qkv_proj")


#: The rows of the sites "q", "k" and "v".
PROJECTIONS = {
    "q": Projection("q", "query"),
    "k": Projection("k", "key"),
    "v": Projection("v", "key"),
}


class HeadNorm(Port):
    """Queries or keys after a norm of each head, [row, position, head × d_head]."""

    def __init__(self, site: str, parts: str) -> None:
        super().__init__(site, "output", parts, site)

    def _is_heads_first(self, lm: Any) -> bool:
        return any(fact(layer, f"{self.site}_heads_first", False) for layer in lm.layers)

    def view(self, tensor: torch.Tensor, lm: Any, rows: int) -> torch.Tensor:
        if tensor.dim() != 4:
            return Port.view(self, tensor, lm, rows)
        return (tensor.transpose(1, 2) if self._is_heads_first(lm) else tensor).flatten(2)

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        def change_view(tensor: torch.Tensor) -> torch.Tensor:
            changed = change(self.view(tensor, lm, 0))
            if tensor.dim() != 4:
                return changed.reshape(tensor.shape)
            if not self._is_heads_first(lm):
                return changed.unflatten(2, tensor.shape[2:])
            return changed.unflatten(2, (tensor.shape[1], -1)).transpose(1, 2)

        edit_output(self._module(lm, layer), change_view)


class HeadOut(Port):
    """What each head adds through the output projection, [row, position, head × d_model].

    Without the projection's bias, and before a norm after attention or a multiplier. An edit adds
    the sum of the heads' changes to the projection's output.
    """

    def __init__(self) -> None:
        super().__init__("self_attn.o_proj", "output", "query", "head_out")

    def why_not(self, lm: Any, layer: int) -> str:
        reason = Port.why_not(self, lm, layer)
        return reason or ("" if fact(lm.layers[layer], "heads", 0) else "its heads are not known")

    def read(self, lm: Any, layer: int) -> torch.Tensor:
        projection = self._module(lm, layer)
        return shares(projection, projection.input, head_count(lm))

    def differentiated(self, lm: Any, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        projection = self._module(lm, layer)
        z = projection.input  # outside: until it is there, the model itself runs
        with torch.no_grad():
            own = shares(projection, z, head_count(lm))
        return projection.output, own

    def view(self, tensor: torch.Tensor, lm: Any, rows: int) -> torch.Tensor:
        # The sum of all heads goes on, so its gradient is that of every head.
        whole = fact(lm, "d_model", tensor.shape[-1]) == tensor.shape[-1]
        return tensor.repeat(1, 1, head_count(lm)) if whole else tensor

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        projection, heads = self._module(lm, layer), head_count(lm)
        before = shares(projection, projection.input, heads)
        moved = (change(before) - before).unflatten(-1, (heads, -1)).sum(-2)
        projection.output = projection.output + moved.to(before.dtype)


def shares(projection: Any, z: torch.Tensor, heads: int) -> torch.Tensor:
    """What each head's part of an output projection's input gives, without the bias.

    Args:
        projection: the module, inside a trace. z: [row, position, head × d_head].

    Returns:
        [row, position, head × d_model].
    """
    own = torch.eye(heads, dtype=z.dtype, device=z.device)
    own = own.repeat_interleave(z.shape[-1] // heads, 1)
    with torch.autocast(z.device.type, enabled=False):
        each = projection(z[:, :, None] * own)
        return (each - projection(torch.zeros_like(z[:1, :1, None]))).flatten(2)


class Pattern(Stream):
    """The attention weights, as computed by the model; this needs eager attention.

    Where a module of their own gives them, it is this module's output that is edited. Else the
    model only outputs them, without using them further. So the effect of a changed pattern is
    added to attention's output: with values v and their projection o, attention becomes
    o(z + (new − pattern) · v). The rows that `change` returns need not sum to 1.
    """

    parts, prefix, dims = "query", False, 4

    def __init__(self) -> None:
        self.after = None

    def why_not(self, lm: Any, layer: int) -> str:
        block = lm.layers[layer]
        if has_name(block, "self_attn"):
            return ""
        why = "there is no attention with weights of its own"
        return fact(block, "lacks", {}).get("attn_pattern", why)

    def tensor(self, lm: Any, layer: int) -> torch.Tensor:
        attention = _attention(lm.layers[layer], layer)
        if hasattr(attention, "pattern"):
            return attention.pattern.output
        return self._weights(attention.output, _place(lm.layers[layer]))

    def _weights(self, output: Any, place: int) -> torch.Tensor:
        weights = output[place] if isinstance(output, tuple) and len(output) > place else None
        if weights is None:
            raise ValueError("the model gives no attention weights: it needs eager attention")
        return weights

    def by_position(self, activation: torch.Tensor) -> torch.Tensor:
        return _by_position(activation)  # the query's position; the keys become the width

    def as_it_was(self, swept: torch.Tensor, heads: int) -> torch.Tensor:
        return swept.unflatten(2, (heads, -1)).transpose(1, 2)

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        attention = _attention(lm.layers[layer], layer)
        if hasattr(attention, "pattern"):
            edit_output(attention.pattern, change)
            return
        values = (
            PROJECTIONS["v"].read(lm, layer).unflatten(-1, (key_head_count(lm), -1)).transpose(1, 2)
        )
        if hasattr(attention, "attends"):  # outputs z and the weights, before the projection
            z, weights, *rest = attention.attends.output
            new, change_of_z = self._changed(weights, values, z, change)
            attention.attends.output = (z + change_of_z, new, *rest)
            return
        z, output, place = attention.o_proj.input, attention.output, _place(lm.layers[layer])
        weights = self._weights(output, place)
        new, change_of_z = self._changed(weights, values, z, change)
        both = attention.o_proj(torch.cat([z, z + change_of_z]))  # in one call: same rounding
        plain, changed = both.split(len(z))
        between, rest = output[1:place], output[place + 1 :]
        attention.output = (output[0] + changed - plain, *between, new, *rest)

    def _changed(
        self, weights: torch.Tensor, values: torch.Tensor, z: torch.Tensor, change: Change
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The new weights, and the change they make to head_z."""
        values = values.repeat_interleave(weights.shape[1] // values.shape[1], 1)
        if values.shape[2] != weights.shape[3] or not _same(weights @ values, z):
            raise ValueError("attn_pattern cannot be edited here: pattern · v is not head_z")
        new = change(weights)
        return new, _by_position((new - weights) @ values)


def _place(block: Any) -> int:
    """The place of the weights among the outputs of a layer's attention."""
    return fact(block, "pattern_at", 1)


def _attention(block: Any, layer: int) -> Any:
    why = fact(block, "lacks", {}).get("attn_pattern", "")
    if why or not has_name(block, "self_attn"):
        why = why or "it has no attention with weights of its own"
        raise ValueError(f"attn_pattern does not exist in layer {layer}: {why}")
    return block.self_attn


def _by_position(z: torch.Tensor) -> torch.Tensor:
    """[row, head, position, x] → [row, position, head × x]."""
    return z.transpose(1, 2).flatten(2)


def _same(by_head: torch.Tensor, z: torch.Tensor) -> bool:
    """Whether two tensors of head_z are equal except for rounding."""
    found, expected = _by_position(by_head).float(), z.float()
    half = z.dtype in (torch.float16, torch.bfloat16)
    return bool((found - expected).norm() <= (0.05 if half else 1e-3) * expected.norm())

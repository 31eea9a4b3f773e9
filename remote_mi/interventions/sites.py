"""The table of sites: one row per site, which defines how to read, edit and differentiate it.

`lm` is the nnsight model with portable names: `lm.backbone`, `lm.layers[i]`, `lm.ln_final`,
`lm.embed_tokens`, `lm.lm_head`; on a layer `self_attn`, `self_attn.o_proj`, `mlp`, `ln_mlp` (its
input is resid_mid), `attn_add` and `mlp_add` (their outputs are what is added to the stream),
`down_proj` (its input is mlp_hidden), and on `self_attn` the projections of queries, keys and
values: `q_proj`, `k_proj`, `v_proj`, or `qkv_proj` for all three.

Within a trace each value can be accessed once, in the order in which the model computes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from remote_mi.interventions.model_info import head_count, key_head_count

Change = Callable[[torch.Tensor], torch.Tensor]


def read(lm: Any, layer: int, site: str | Stream) -> torch.Tensor:
    """The activation at a site of one layer, inside a trace.

    Returns:
        [row, position, width]; for "attn_pattern" [row, head, query, key], whose sum over keys is
        1.

    Raises:
        ValueError: for an unknown site, or one that does not exist in this model.
    """
    return row_of(site).read(lm, layer)


def edit(lm: Any, layer: int, site: str | Stream, change: Change) -> None:
    """Replace the activation at a site of one layer by `change(activation)`, inside a trace.

    Args:
        change: from the activation (in the shapes of `read`) to a replacement of the same shape.

    Raises:
        ValueError: for an unknown site, or one that does not exist in this model.
    """
    row_of(site).edit(lm, layer, change)


class Stream:
    """The residual stream before (`after` 0) or after (1) a block.

    Every row of the table has the interface of this class.

    Attributes:
        parts: "query" or "key" heads that the width divides into; "" for none.
        prefix: whether rows of a sweep may share the keys and values of earlier tokens.
        dims: number of dimensions of an activation, including that of rows.
        after: which stream it is; None for a site that is not a stream.
    """

    parts, prefix, dims = "", True, 3

    def __init__(self, after: int) -> None:
        self.after: int | None = after

    def tensor(self, lm: Any, layer: int) -> torch.Tensor:
        """The tensor that the model itself goes on with, inside a trace."""
        assert self.after is not None
        return read_stream(lm, layer + self.after)

    def view(self, tensor: torch.Tensor, lm: Any, rows: int) -> torch.Tensor:
        """The site in that tensor (or in its gradient): `rows` rows, in the shapes of `read`."""
        return tensor

    def read(self, lm: Any, layer: int) -> torch.Tensor:
        """The activation, inside a trace."""
        return self.tensor(lm, layer)

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        """Replace the activation, inside a trace.

        Args:
            stream: the stream before the block, if it was already accessed in this trace.
        """
        assert self.after is not None
        edit_stream(lm, layer + self.after, change)

    def by_position(self, activation: torch.Tensor) -> torch.Tensor:
        """The activation as a sweep sees it, [row, position, width]."""
        return activation

    def as_it_was(self, swept: torch.Tensor, heads: int) -> torch.Tensor:
        """The inverse of `by_position`."""
        return swept


class Port(Stream):
    """The input or output of a module, [row, position, width]; custom sites are made with this.

    Args:
        module: its portable name on a layer, or the model's own: "mlp.gate_proj".
        side: "input" or "output".
        parts: "query" or "key" heads that the width divides into; "" for none.
        why_not: why a model may not have it.
    """

    def __init__(self, module: str, side: str, parts: str = "", why_not: str = "") -> None:
        self.after = None
        self.module, self.side, self.parts = module, side, parts
        self.why_not = why_not or f"the layers of this model have no module {module}"

    def __str__(self) -> str:
        return f"the {self.side} of {self.module}"

    def _module(self, lm: Any, layer: int) -> Any:
        module = lm.layers[layer]
        for name in self.module.split("."):
            if not hasattr(module, name):
                raise ValueError(self.why_not)
            module = getattr(module, name)
        return module

    def tensor(self, lm: Any, layer: int) -> torch.Tensor:
        module = self._module(lm, layer)
        return module.input if self.side == "input" else first_of(module.output)

    def view(self, tensor: torch.Tensor, lm: Any, rows: int) -> torch.Tensor:
        # Rows and positions may be merged into one dimension (OPT's MLP).
        return tensor.reshape(rows, -1, tensor.shape[-1]) if tensor.dim() == 2 else tensor

    def read(self, lm: Any, layer: int) -> torch.Tensor:
        tensor = self.tensor(lm, layer)
        rows = first_of(lm.layers[layer].output).shape[0] if tensor.dim() == 2 else 0
        return self.view(tensor, lm, rows)

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        module, block, rows = self._module(lm, layer), lm.layers[layer], 0
        if hasattr(block, "mlp_flat") and self.module in ("mlp_add", "down_proj"):
            rows = first_of(block.attn_add.output).shape[0]

        def change_view(tensor: torch.Tensor) -> torch.Tensor:
            return change(self.view(tensor, lm, rows)).reshape(tensor.shape)

        if self.side == "input":
            module.input = change_view(module.input)
        else:
            edit_output(module, change_view)


class Projection(Port):
    """The queries, keys or values: a projection's output, or a part of one that has all three."""

    def __init__(self, which: str, parts: str) -> None:
        super().__init__(
            f"self_attn.{which}_proj",
            "output",
            parts,
            f"{which} does not exist here: this model has no such projection",
        )
        self.which = which

    def _module(self, lm: Any, layer: int) -> Any:
        attention = lm.layers[layer].self_attn
        return attention.qkv_proj if hasattr(attention, "qkv_proj") else super()._module(lm, layer)

    def view(self, tensor: torch.Tensor, lm: Any, rows: int) -> torch.Tensor:
        if not hasattr(lm.layers[0].self_attn, "qkv_proj"):
            return tensor
        return self._split(tensor, lm)["qkv".index(self.which)]

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        if not hasattr(lm.layers[layer].self_attn, "qkv_proj"):
            super().edit(lm, layer, change)
            return

        def change_part(whole: torch.Tensor) -> torch.Tensor:
            three, mine = self._split(whole, lm), "qkv".index(self.which)
            three[mine] = change(three[mine])
            if not hasattr(lm.layers[layer].self_attn, "qkv_by_head"):
                return torch.cat(three, -1)
            by_head = [one.unflatten(-1, (head_count(lm), -1)) for one in three]
            return torch.stack(by_head, -2).flatten(-3)

        edit_output(self._module(lm, layer), change_part)

    def _split(self, whole: torch.Tensor, lm: Any) -> list[torch.Tensor]:
        """Queries, keys and values from the output of a projection that has all three."""
        queries, keys = head_count(lm), key_head_count(lm)
        if hasattr(lm.layers[0].self_attn, "qkv_by_head"):  # [head, (q, k, v), d_head]
            by_head = whole.unflatten(-1, (queries, 3, -1))
            return [one.flatten(-2) for one in by_head.unbind(-2)]
        size = whole.shape[-1] // (queries + 2 * keys)
        return list(whole.split([queries * size, keys * size, keys * size], -1))


class Middle(Port):
    """The stream between attention and MLP, which both the MLP and the later stream read.

    It is edited through what attention adds: attn_out becomes change(resid_mid) − resid_pre.
    """

    def __init__(self) -> None:
        super().__init__("ln_mlp", "input")

    def _module(self, lm: Any, layer: int) -> Any:
        block = lm.layers[layer]
        if hasattr(block, "ln_mlp"):
            return block.ln_mlp
        why = "attention and MLP of this model run in parallel"
        if hasattr(block, "ln_after_attn"):
            why = "this model normalises the stream after each addition"
        raise ValueError(
            f"resid_mid does not exist here: {why}; use resid_pre, attn_out or mlp_out"
        )

    def read(self, lm: Any, layer: int) -> torch.Tensor:
        module, block = self._module(lm, layer), lm.layers[layer]
        rows = first_of(block.attn_add.output).shape[0] if hasattr(block, "mlp_flat") else 0
        return self.view(module.input, lm, rows)

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        self._module(lm, layer)
        before = read_stream(lm, layer) if stream is None else stream
        edit_output(lm.layers[layer].attn_add, lambda added: change(before + added) - before)


class Pattern(Stream):
    """The attention weights, as computed by the model; this needs eager attention.

    The model only outputs them, without using them further. So the effect of a changed pattern is
    added to attention's output: with values v and their projection o, attention becomes
    o(z + (new − pattern) · v). The rows that `change` returns need not sum to 1.
    """

    parts, prefix, dims = "query", False, 4

    def __init__(self) -> None:
        self.after = None

    def tensor(self, lm: Any, layer: int) -> torch.Tensor:
        return self._weights(lm.layers[layer].self_attn.output)

    def _weights(self, output: Any) -> torch.Tensor:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if weights is None:
            raise ValueError("the model gives no attention weights: it needs eager attention")
        return weights

    def by_position(self, activation: torch.Tensor) -> torch.Tensor:
        return _by_position(activation)  # the query's position; the keys become the width

    def as_it_was(self, swept: torch.Tensor, heads: int) -> torch.Tensor:
        return swept.unflatten(2, (heads, -1)).transpose(1, 2)

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        attention = lm.layers[layer].self_attn
        values = SITES["v"].read(lm, layer).unflatten(-1, (key_head_count(lm), -1)).transpose(1, 2)
        if hasattr(attention, "attends"):  # outputs z and the weights, before the projection
            z, weights, *rest = attention.attends.output
            new, change_of_z = self._changed(weights, values, z, change)
            attention.attends.output = (z + change_of_z, new, *rest)
            return
        z, output = attention.o_proj.input, attention.output
        weights = self._weights(output)
        new, change_of_z = self._changed(weights, values, z, change)
        both = attention.o_proj(torch.cat([z, z + change_of_z]))  # in one call: same rounding
        plain, changed = both.split(len(z))
        attention.output = (output[0] + changed - plain, new, *output[2:])

    def _changed(
        self, weights: torch.Tensor, values: torch.Tensor, z: torch.Tensor, change: Change
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The new weights, and the change they make to head_z."""
        values = values.repeat_interleave(weights.shape[1] // values.shape[1], 1)
        if values.shape[2] != weights.shape[3] or not _same(weights @ values, z):
            raise ValueError("attn_pattern cannot be edited here: pattern · v is not head_z")
        new = change(weights)
        return new, _by_position((new - weights) @ values)


def _by_position(z: torch.Tensor) -> torch.Tensor:
    """[row, head, position, x] → [row, position, head × x]."""
    return z.transpose(1, 2).flatten(2)


def _same(by_head: torch.Tensor, z: torch.Tensor) -> bool:
    """Whether two tensors of head_z are equal except for rounding."""
    found, expected = _by_position(by_head).float(), z.float()
    half = z.dtype in (torch.float16, torch.bfloat16)
    return bool((found - expected).norm() <= (0.05 if half else 1e-3) * expected.norm())


#: Site → how it is read, edited and differentiated; `vocabulary` describes each.
SITES: dict[str, Any] = {
    "resid_pre": Stream(0),
    "resid_mid": Middle(),
    "resid_post": Stream(1),
    "q": Projection("q", "query"),
    "k": Projection("k", "key"),
    "v": Projection("v", "key"),
    "head_z": Port("self_attn.o_proj", "input", "query"),
    "attn_out": Port("attn_add", "output"),
    "mlp_hidden": Port(
        "down_proj",
        "input",
        why_not="mlp_hidden does not exist here: this MLP is no matrix after another",
    ),
    "mlp_out": Port("mlp_add", "output"),
    "attn_pattern": Pattern(),
}


def row_of(site: str | Stream) -> Any:
    """The row of a site: from the table, or one that a recipe brings along.

    Raises:
        ValueError: for an unknown site.
    """
    if isinstance(site, Stream):
        return site
    if site not in SITES:
        raise ValueError(f"unknown site {site!r}; there are {', '.join(SITES)}")
    return SITES[site]


def part_count(lm: Any, site: str | Stream) -> int:
    """How many heads a site's width divides into; 1 for none."""
    parts = row_of(site).parts
    return 1 if not parts else head_count(lm) if parts == "query" else key_head_count(lm)


def first_of(output: Any) -> torch.Tensor:
    """A module's activation, which may be the first element of its output."""
    return output[0] if isinstance(output, tuple) else output


def edit_output(module: Any, change: Change) -> torch.Tensor:
    """Replace a module's output by `change(output)`; returns the replacement."""
    output = module.output
    changed = change(first_of(output))
    module.output = (changed, *output[1:]) if isinstance(output, tuple) else changed
    return changed


def read_stream(lm: Any, index: int) -> torch.Tensor:
    """The stream before layer `index`, or after the last one, inside a trace.

    Index 0 is what the first layer reads: the token embeddings with whatever a family adds to them
    (positions, a scale, a norm), so not always `lm.embed_tokens.output`.
    Otherwise it is read from the output of the layer before. A layer's input comes with all its
    arguments, including the keys and values of every layer, and if a job runs in a separate process
    they would be copied as well.

    Returns:
        [row, position, d_model].
    """
    if index == 0:
        return lm.layers[0].input
    return first_of(lm.layers[index - 1].output)


def edit_stream(lm: Any, index: int, change: Change) -> torch.Tensor:
    """Replace the stream before layer `index` by `change(stream)`, inside a trace.

    Args:
        change: may change the number of rows.

    Returns:
        The new stream.
    """
    if index == 0:
        stream = change(lm.layers[0].input)
        lm.layers[0].input = stream
        return stream
    return edit_output(lm.layers[index - 1], change)

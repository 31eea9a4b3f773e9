"""What every row of the table of sites is made of: the stream, and inputs and outputs of modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from remote_mi.interventions.model_info import fact

Change = Callable[[torch.Tensor], torch.Tensor]


class Stream:
    """The residual stream before (`after` 0) or after (1) a block.

    Every row of the table has the interface of this class.

    Attributes:
        parts: "query" or "key" heads that the width divides into; "" for none.
        prefix: whether rows of a sweep may share the keys and values of earlier tokens.
        dims: number of dimensions of an activation, including that of rows.
        once: whether it exists once in a model, as its layer 0, instead of once in every layer.
        after: which stream it is; None for a site that is not a stream.
    """

    parts, prefix, dims, once = "", True, 3, False

    def __init__(self, after: int) -> None:
        self.after: int | None = after

    def why_not(self, lm: Any, layer: int) -> str:
        """Why a layer does not have it; "" if it does."""
        return ""

    def tensor(self, lm: Any, layer: int) -> torch.Tensor:
        """The tensor that the model itself goes on with, inside a trace."""
        assert self.after is not None
        return read_stream(lm, layer + self.after)

    def differentiated(self, lm: Any, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The tensor whose gradient is taken, and the one that holds the activation."""
        tensor = self.tensor(lm, layer)
        return tensor, tensor

    def view(self, tensor: torch.Tensor, lm: Any, rows: int) -> torch.Tensor:
        """The site in that tensor (or in its gradient): `rows` rows, in the shapes of `read`."""
        return tensor

    def factor(self, lm: Any, layer: int) -> float:
        """The activation is this times `view` of the tensor; the gradient is divided by it."""
        return 1.0

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
        site: its name in the table, under which a layer says why it lacks it.
    """

    def __init__(self, module: str, side: str, parts: str = "", site: str = "") -> None:
        self.after = None
        self.module, self.side, self.parts, self.site = module, side, parts, site

    def __str__(self) -> str:
        return f"the {self.side} of {self.module}"

    def why_not(self, lm: Any, layer: int) -> str:
        block = lm.layers[layer]
        known = has_name(block, self.module) if self.site else below(block, self.module) is not None
        if known:
            return ""
        reasons = fact(block, "lacks", {})
        return reasons.get(self.site) or f"there is no module {self.module}"

    def _module(self, lm: Any, layer: int) -> Any:
        require(lm, self.site or str(self), self, [layer])
        return below(lm.layers[layer], self.module)

    def factor(self, lm: Any, layer: int) -> float:
        return added_times(lm.layers[layer], self.module)

    def tensor(self, lm: Any, layer: int) -> torch.Tensor:
        module = self._module(lm, layer)
        if self.side == "input":
            return module.input
        return own_output(lm.layers[layer], self.module, module)

    def view(self, tensor: torch.Tensor, lm: Any, rows: int) -> torch.Tensor:
        # Rows and positions may be merged into one dimension (OPT's MLP, routers).
        return tensor.reshape(rows, -1, tensor.shape[-1]) if tensor.dim() == 2 else tensor

    def read(self, lm: Any, layer: int) -> torch.Tensor:
        tensor = self._now(lm, layer)
        rows = first_of(lm.layers[layer].output).shape[0] if tensor.dim() == 2 else 0
        return times(self.view(tensor, lm, rows), self.factor(lm, layer))

    def _now(self, lm: Any, layer: int) -> torch.Tensor:
        """The tensor as it is, to read."""
        return self.tensor(lm, layer)

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        module, factor = self._module(lm, layer), self.factor(lm, layer)
        rows = rows_before(lm.layers[layer]) if self.module in _FLAT else 0

        def change_view(tensor: torch.Tensor) -> torch.Tensor:
            changed = change(times(self.view(tensor, lm, rows), factor))
            return times(changed, 1 / factor).reshape(tensor.shape)

        if self.side == "input":
            module.input = change_view(module.input)
        else:
            edit_output(module, change_view)


#: Modules of an MLP that may run on rows and positions merged into one dimension.
_FLAT = (
    "mlp_add",
    "mlp_in",
    "down_proj",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "router",
    "other_add",
)


def rows_before(block: Any) -> int:
    """The number of rows that a layer's MLP runs on, known before it runs; 0 if it need not be."""
    if has_name(block, "mlp_flat"):
        return first_of(first_added(block).output).shape[0]
    return block.mlp_in.input.shape[0] if has_name(block, "router") else 0


def has_name(block: Any, name: str) -> bool:
    """Whether a layer has a module by a portable name: one that was proven, if any was.

    A model may have modules of its own by such a name: queries and a gate in one "q_proj".
    """
    proven = fact(block, "portable", None)
    return below(block, name) is not None if proven is None else name in proven


def below(block: Any, path: str) -> Any:
    """The module at a path of portable or own names on a layer; None if there is none."""
    module = block
    for name in path.split("."):
        module = getattr(module, name, None)
        if module is None:
            return None
    return module


def require(lm: Any, site: str, row: Stream, layers: Sequence[int]) -> None:
    """Refuse a site that some of the chosen layers do not have.

    Raises:
        ValueError: with the reason, and the layers that have it.
    """
    if row.once:
        if list(layers) != [0]:
            raise ValueError(f"{site} exists once in a model: its only layer is 0")
        reason = row.why_not(lm, 0)
        if reason:
            raise ValueError(f"{site} does not exist here: {reason}")
        return
    reasons = {layer: row.why_not(lm, layer) for layer in layers}
    without = [layer for layer, reason in reasons.items() if reason]
    if not without:
        return
    having = [index for index in range(len(lm.layers)) if not row.why_not(lm, index)]
    where = f" in {name_layers(without)}" if having else ""
    rest = f"; {name_layers(having)} {'has' if len(having) == 1 else 'have'} it" if having else ""
    raise ValueError(f"{site} does not exist here{where}: {reasons[without[0]]}{rest}")


def name_layers(layers: Sequence[int]) -> str:
    """Layers as a text: "layer 3", "layers 0 to 2, 4"."""
    spans: list[list[int]] = []
    for layer in sorted(layers):
        if spans and spans[-1][1] == layer - 1:
            spans[-1][1] = layer
        else:
            spans.append([layer, layer])
    parts = [
        str(low) if low == high else f"{low}{', ' if high == low + 1 else ' to '}{high}"
        for low, high in spans
    ]
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(parts)}"


class Middle(Port):
    """The stream between attention and MLP, which both the MLP and the later stream read.

    It is edited through what is added before it, by attention or another mixer, which becomes
    change(resid_mid) − resid_pre.
    """

    def __init__(self) -> None:
        super().__init__("ln_mlp", "input", site="resid_mid")

    def why_not(self, lm: Any, layer: int) -> str:
        block = lm.layers[layer]
        if has_name(block, "ln_mlp"):
            return ""
        why = "attention and MLP of this model run in parallel"
        if len(adds(block)) < 2:
            return "this layer adds to the stream once; use resid_pre or resid_post"
        if has_name(block, "ln_after_attn"):
            why = "this model normalises the stream after each addition"
        why = fact(block, "lacks", {}).get("resid_mid", why)
        return f"{why}; use resid_pre, attn_out or mlp_out"

    def read(self, lm: Any, layer: int) -> torch.Tensor:
        module, block = self._module(lm, layer), lm.layers[layer]
        rows = rows_before(block) if has_name(block, "mlp_flat") else 0
        return self.view(module.input, lm, rows)

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        self._module(lm, layer)
        block = lm.layers[layer]
        before = read_stream(lm, layer) if stream is None else stream
        factor = added_times(block, adds(block)[0])

        def change_added(added: torch.Tensor) -> torch.Tensor:
            return times(change(before + times(added, factor)) - before, 1 / factor)

        edit_output(first_added(block), change_added)


def adds(block: Any) -> list[str]:
    """The names of the modules whose outputs a layer adds to the stream, as it computes them."""
    return fact(block, "adds", ["attn_add", "mlp_add"])


def first_added(block: Any) -> Any:
    """The module whose output a layer adds to the stream first."""
    return getattr(block, adds(block)[0])


def added_times(block: Any, module: str) -> float:
    """The number by which a layer multiplies a module's output before adding it to the stream."""
    return fact(block, f"{module}_factor", 1.0)


def ends_multiplied(block: Any) -> bool:
    """Whether a layer multiplies its stream by a number of the checkpoint's at its end (Gemma 4).

    What its parts add is taken before that.
    """
    return bool(fact(block, "stream_times", ""))


def times(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    """A tensor times a number: itself, not a copy, if that is 1."""
    return tensor if factor == 1.0 else tensor * factor


def first_of(output: Any) -> torch.Tensor:
    """A module's activation, which may be the first element of its output."""
    return output[0] if isinstance(output, (tuple, list)) else output


def own_output(block: Any, name: str, module: Any) -> torch.Tensor:
    """What a layer's module gives, inside a trace; later code may change it in place (Falcon).

    Then that code gets a copy.
    """
    output = first_of(module.output)
    if name in fact(block, "changed_later", ()):
        edit_output(module, torch.clone)
    return output


def edit_output(module: Any, change: Change) -> torch.Tensor:
    """Replace a module's output by `change(output)`; returns the replacement."""
    output = module.output
    changed = change(first_of(output))
    module.output = (changed, *output[1:]) if isinstance(output, (tuple, list)) else changed
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

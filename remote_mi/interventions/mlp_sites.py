"""Sites of sub-layers that take more than a module's input or output."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi.interventions.model_info import fact
from remote_mi.interventions.ports import Change, Port, edit_output, first_of, has_name, rows_before


class Inlet(Port):
    """A sub-layer's input, as that sub-layer alone takes it.

    The tensor may have other readers: a parallel MLP, the stream itself. Its gradient is that of
    this reader's copy.

    Args:
        prefix: whether the sub-layer's arguments lack the keys and values of earlier tokens. If
            they are among them, none are kept or shared: a sandboxed job would get, and the
            sub-layer continue with, a copy.
    """

    def __init__(self, site: str, prefix: bool = True) -> None:
        super().__init__(site, "input", site=site)
        self.prefix = prefix

    def tensor(self, lm: Any, layer: int) -> torch.Tensor:
        module = self._module(lm, layer)
        own = module.input.clone()
        module.input = own
        return own

    def _now(self, lm: Any, layer: int) -> torch.Tensor:
        return self._module(lm, layer).input


class GateOrUp(Port):
    """The output of an MLP's first matrix, or of its gate's; or their half of one for both."""

    def __init__(self, which: str) -> None:
        super().__init__(f"{which}_proj", "output", site=f"mlp_{which}")
        self.which = which

    def why_not(self, lm: Any, layer: int) -> str:
        return "" if _is_fused(lm.layers[layer]) else Port.why_not(self, lm, layer)

    def _module(self, lm: Any, layer: int) -> Any:
        block = lm.layers[layer]
        return block.gate_up_proj if _is_fused(block) else Port._module(self, lm, layer)

    def view(self, tensor: torch.Tensor, lm: Any, rows: int) -> torch.Tensor:
        whole = Port.view(self, tensor, lm, rows)
        return whole.chunk(2, -1)[self._half(lm)] if any(map(_is_fused, lm.layers)) else whole

    def _half(self, lm: Any) -> int:
        """Which half of a matrix for both it is."""
        orders = {fact(layer, "gate_up_order", "") for layer in lm.layers}
        return int((self.which == "up") == ("gate_up" in orders))

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        if not _is_fused(lm.layers[layer]):
            Port.edit(self, lm, layer, change)
            return

        def change_half(whole: torch.Tensor) -> torch.Tensor:
            halves, mine = list(whole.chunk(2, -1)), self._half(lm)
            halves[mine] = change(halves[mine])
            return torch.cat(halves, -1)

        edit_output(self._module(lm, layer), change_half)


def _is_fused(block: Any) -> bool:
    return has_name(block, "gate_up_proj")


class ExpertWeights(Port):
    """What each expert's output is multiplied by, [row, position, expert]; 0 if it is not chosen.

    The choice is read from what the experts take, never made again. An edit may give a weight to
    experts that the router did not choose.
    """

    def __init__(self) -> None:
        super().__init__("experts", "input", site="expert_weights")

    def tensor(self, lm: Any, layer: int) -> torch.Tensor:
        """Weights of all experts, [token, expert], put in place of those of the chosen ones."""
        taken = self._taken(lm, layer)
        weights = taken[0]
        self._put(lm, layer, taken, weights)
        return weights

    def _now(self, lm: Any, layer: int) -> torch.Tensor:
        return self._taken(lm, layer)[0]

    def _taken(self, lm: Any, layer: int) -> tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]:
        """Weights of all experts, and the arguments that they were among."""
        block = lm.layers[layer]
        args, kwargs = self._module(lm, layer).inputs
        index, weight = (args[place] for place in fact(block, "expert_arguments", []))
        dense = weight.new_zeros(len(weight), fact(block, "expert_count", 0))
        return dense.scatter(1, index, weight), args, kwargs

    def _put(self, lm: Any, layer: int, taken: Any, weights: torch.Tensor) -> None:
        """Let every expert run, with these weights."""
        block, (_, args, kwargs) = lm.layers[layer], taken
        places = fact(block, "expert_arguments", [])
        new = list(args)
        every = torch.arange(weights.shape[1], device=weights.device, dtype=args[places[0]].dtype)
        new[places[0]], new[places[1]] = every.expand(len(weights), -1), weights
        self._module(lm, layer).inputs = (tuple(new), kwargs)

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        rows = rows_before(lm.layers[layer])
        taken = self._taken(lm, layer)
        changed = change(self.view(taken[0], lm, rows))
        self._put(lm, layer, taken, changed.reshape(taken[0].shape))

    def read(self, lm: Any, layer: int) -> torch.Tensor:
        tensor = self._now(lm, layer)
        return self.view(tensor, lm, first_of(lm.layers[layer].output).shape[0])

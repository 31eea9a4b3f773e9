"""Sites that no module gives: the value, or the first argument, of a call in a module's source.

nnsight names such calls (`envoy.source`); which one a site is was found and proven with the
model's structure, and is a fact of each layer.
"""

from __future__ import annotations

from typing import Any

import torch

from remote_mi.interventions.model_info import fact, text_config
from remote_mi.interventions.ports import Change, Port, rows_before


class Operation(Port):
    """What a call in the source of a module gives or takes, [row, position, head × d_head].

    Args:
        site: its name in the table. module: portable name of the module. parts: as for `Port`.
    """

    def __init__(self, site: str, module: str, parts: str = "") -> None:
        super().__init__(module, "output", parts, site)

    def why_not(self, lm: Any, layer: int) -> str:
        block = lm.layers[layer]
        reason = fact(block, "lacks", {}).get(self.site) or Port.why_not(self, lm, layer)
        return reason if reason or self._place(block) else "where it is computed is not known"

    def _place(self, block: Any) -> dict[str, Any]:
        return fact(block, "operations", {}).get(self.site, {})

    def _called(self, lm: Any, layer: int) -> Any:
        found = self._module(lm, layer)
        for name in self._place(lm.layers[layer])["path"]:
            found = getattr(found.source, name)
        return found

    def tensor(self, lm: Any, layer: int) -> torch.Tensor:
        place, called = self._place(lm.layers[layer]), self._called(lm, layer)
        value = called.input if place["side"] == "input" else called.output
        return value[place["item"]] if "item" in place else value

    def view(self, tensor: torch.Tensor, lm: Any, rows: int) -> torch.Tensor:
        if tensor.dim() == 4:  # [row, head, position, d_head]
            return tensor.transpose(1, 2).flatten(2)
        return Port.view(self, tensor, lm, rows)

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        block = lm.layers[layer]
        rows = rows_before(block) if self.module == "router" else 0
        place, called = self._place(block), self._called(lm, layer)

        def change_view(tensor: torch.Tensor) -> torch.Tensor:
            changed = change(self.view(tensor, lm, rows))
            if tensor.dim() == 4 and changed.dim() == 3:
                return changed.unflatten(2, (tensor.shape[1], -1)).transpose(1, 2)
            return changed.reshape(tensor.shape)

        if place["side"] == "input":
            called.input = change_view(called.input)
        elif "item" not in place:
            called.output = change_view(called.output)
        else:
            value = list(called.output)
            value[place["item"]] = change_view(value[place["item"]])
            called.output = tuple(value)


class Scores(Operation):
    """What attention's softmax takes, [row, head, query, key]: after scale, cap and mask."""

    prefix, dims = False, 4

    def __init__(self) -> None:
        super().__init__("attn_scores", "scoring", "query")

    def why_not(self, lm: Any, layer: int) -> str:
        kind = getattr(text_config(lm), "_attn_implementation", None) or "eager"
        within = len(self._place(lm.layers[layer]).get("path", [])) > 1
        if within and kind != "eager":
            return f"the scores of {kind} attention are not given: it needs eager attention"
        return Operation.why_not(self, lm, layer)

    def view(self, tensor: torch.Tensor, lm: Any, rows: int) -> torch.Tensor:
        return tensor

    def read(self, lm: Any, layer: int) -> torch.Tensor:
        return self.tensor(lm, layer)

    def by_position(self, activation: torch.Tensor) -> torch.Tensor:
        return activation.transpose(1, 2).flatten(2)

    def as_it_was(self, swept: torch.Tensor, heads: int) -> torch.Tensor:
        return swept.unflatten(2, (heads, -1)).transpose(1, 2)


class RouterLogits(Operation):
    """The logits that experts are chosen by: a router's output, or a call in its source."""

    def __init__(self) -> None:
        super().__init__("router_logits", "router")

    def why_not(self, lm: Any, layer: int) -> str:
        return Port.why_not(self, lm, layer)

    def tensor(self, lm: Any, layer: int) -> torch.Tensor:
        known = self._place(lm.layers[layer])
        return Operation.tensor(self, lm, layer) if known else Port.tensor(self, lm, layer)

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> None:
        known = self._place(lm.layers[layer])
        (Operation if known else Port).edit(self, lm, layer, change)

"""Sites that exist once in a model, before and after its layers: their only layer is 0."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi.interventions.model_info import has_unembedding
from remote_mi.interventions.ports import Change, Port, edit_output, first_of


class Once(Port):
    """The output of a module of the model itself, [row, position, width].

    Attributes:
        late: whether it comes after all layers, so that none of them runs again for an edit.
    """

    once = True

    def __init__(self, site: str, module: str, late: bool) -> None:
        super().__init__(module, "output", site=site)
        self.late = late

    def why_not(self, lm: Any, layer: int) -> str:
        return "" if hasattr(lm, self.module) else f"this model has no module {self.module}"

    def factor(self, lm: Any, layer: int) -> float:
        return 1.0

    def tensor(self, lm: Any, layer: int) -> torch.Tensor:
        return first_of(getattr(lm, self.module).output)

    def read(self, lm: Any, layer: int) -> torch.Tensor:
        return self.tensor(lm, layer)

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> Any:
        """Returns what the model goes on with."""
        return edit_output(getattr(lm, self.module), change)


class Logits(Once):
    """The model's own logits, [row, position, vocabulary]: after scale and cap.

    They can be read and edited. Nothing follows them: metrics are read from the final norm.
    """

    def __init__(self) -> None:
        super().__init__("logits", "lm_head", late=True)

    def why_not(self, lm: Any, layer: int) -> str:
        return "" if has_unembedding(lm) else "this model has no unembedding"

    def tensor(self, lm: Any, layer: int) -> torch.Tensor:
        return lm.output.logits

    def edit(self, lm: Any, layer: int, change: Change, stream: Any = None) -> Any:
        output = lm.output
        output.logits = change(output.logits)
        lm.output = output
        return output.logits

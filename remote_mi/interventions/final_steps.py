"""What reads the stream after the last layer, where that is several modules one after another."""

from __future__ import annotations

from typing import Any

import torch


class FinalSteps:
    """Several modules used as one: RoBERTa's dense layer, GELU and norm before its unembedding.

    It is bound as `lm.ln_final`, and has what a module has there: an input, an output, and a call.

    Attributes:
        modules: in the order in which they run.
        functions: the name of the elementwise function before each, in transformers' table; "" for
            none, as before the first.
    """

    def __init__(self, modules: list[Any], functions: list[str]) -> None:
        self.modules, self.functions = modules, functions

    @property
    def input(self) -> torch.Tensor:
        """The stream after the last layer, inside a trace."""
        return self.modules[0].input

    @property
    def output(self) -> torch.Tensor:
        """What the unembedding takes, inside a trace."""
        return self.modules[-1].output

    @output.setter
    def output(self, value: torch.Tensor) -> None:
        self.modules[-1].output = value

    def __call__(self, stream: torch.Tensor) -> torch.Tensor:
        """What the unembedding would take if this were the stream; [..., d_model]."""
        from transformers.activations import ACT2FN

        for name, module in zip(self.functions, self.modules, strict=True):
            stream = module(ACT2FN[name](stream) if name else stream)
        return stream

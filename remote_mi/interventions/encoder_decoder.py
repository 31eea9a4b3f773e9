"""Models of two sides: an encoder reads the prompt, a decoder answers.

Layers, positions and stream are the encoder's. The decoder runs in full, on the tokens with which
its answers begin, and logits are read at the last of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from remote_mi.interventions.model_info import fact


def has_decoder(lm: Any) -> bool:
    """Whether the layers are an encoder's, and a decoder follows them."""
    return bool(fact(lm, "answer_prefix", []))


def model_inputs(lm: Any, rows: Sequence[Sequence[int]] | torch.Tensor) -> dict[str, Any]:
    """What a trace of the model takes for prompts of equal length: `lm.trace(**model_inputs(…))`.

    Args:
        rows: token ids, [row, position].

    Returns:
        "input_ids", and for a model with a decoder the tokens with which its answers begin.
    """
    ids = torch.as_tensor(rows)
    if not has_decoder(lm):
        return {"input_ids": ids}
    prefix = torch.tensor([fact(lm, "answer_prefix", [])])
    return {"input_ids": ids, "decoder_input_ids": prefix.expand(len(ids), -1)}


class DecodedAnswer:
    """What the unembedding takes in a model with a decoder, bound as `lm.ln_final`.

    Attributes:
        encoder: the module of the whole encoder. first: the decoder's first layer. last: the module
            that gives what the unembedding takes. begins: number of tokens that answers begin with.
    """

    def __init__(self, encoder: Any, first: Any, last: Any, begins: int) -> None:
        self.encoder, self.first, self.last = encoder, first, last
        self.begins = begins

    @property
    def output(self) -> torch.Tensor:
        """The decoder's state where its answer is read, inside a trace, at each of the prompt's
        positions the same: [row, position, d_model].

        If the encoder has got more rows, so does the decoder.

        Raises:
            ValueError: if the decoder runs on other tokens than `model_inputs` gives it.
        """
        states = self.encoder.output[0]
        rows, length = states.shape[:2]
        start = self.first.input
        if start.shape[1] != self.begins:  # BART makes some up if it is given none
            raise ValueError(
                f"the decoder runs on {start.shape[1]} tokens and not on the {self.begins} that "
                "every answer begins with: open the trace with lm.trace(**model_inputs(lm, rows))"
            )
        if start.shape[0] != rows:  # every row begins with the same tokens
            self.first.input = start[:1].expand(rows, -1, -1)
        return self.last.output[:, -1:].expand(-1, length, -1)

    @property
    def input(self) -> torch.Tensor:
        raise ValueError(_NO_LENS)

    def __call__(self, stream: torch.Tensor) -> torch.Tensor:
        raise ValueError(_NO_LENS)


_NO_LENS = (
    "no logits can be read from the stream of this model's encoder: a decoder stands between; "
    "patch or ablate it instead"
)

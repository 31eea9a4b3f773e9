"""The words recipes share: where in a model, in which direction, measured how. No imports of torch.

A site is a place in the residual stream or beside it, the same on every architecture:

    resid_pre   the stream before a block                          [position, d_model]
    resid_mid   the stream between attention and MLP               [position, d_model]
    attn_out    what attention adds to the stream                  [position, d_model]
    mlp_out     what the MLP adds to the stream                    [position, d_model]
    head_z      the input of attention's output projection         [position, head × d_head]

`attn_out` and `mlp_out` are taken where they are added, so after Gemma 2's post-norms.
`resid_mid` does not exist in parallel blocks (GPT-NeoX, Phi) and is refused there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

Site = Literal["resid_pre", "resid_mid", "attn_out", "mlp_out"]

#: denoise: the corrupt run with clean activations put in; noise: the other way round.
Direction = Literal["denoise", "noise"]

#: How one forward pass becomes one number, where the answer is read, in float32:
#: logit_diff: mean logit of the answers − mean logit of the wrong ones; prob_diff: the same of
#: their summed probabilities; logit, prob, log_prob: of the answers alone.
Metric = Literal["logit_diff", "logit", "prob", "log_prob", "prob_diff"]

#: A parameter that is a text for the user and a tokenized `Prompt` for the recipe's body.
PromptText = Annotated[Any, "prompt"]

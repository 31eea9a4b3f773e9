"""The terms recipes share: sites in a model, directions, metrics. Does not import torch.

A site is a place in a layer, the same in every architecture; `sites.SITES` has a row for each:

    resid_pre    the stream before a block                           [position, d_model]
    resid_mid    the stream between attention and MLP                [position, d_model]
    resid_post   the stream after a block                            [position, d_model]
    q            the output of the query projection                  [position, head × d_head]
    k, v         the outputs of the key and value projections        [position, key head × d_head]
    head_z       the input of attention's output projection          [position, head × d_head]
    attn_out     what attention adds to the stream                   [position, d_model]
    mixer_out    what mixes the positions adds to the stream         [position, d_model]
    mlp_hidden   the MLP's neurons: the input of its last matrix     [position, neuron]
    mlp_out      what the MLP adds to the stream                     [position, d_model]
    attn_pattern how much each query attends to each key             [head, query, key]

`attn_out`, `mixer_out` and `mlp_out` are taken where they are added, so after Gemma 2's post-norms
and times Granite's multiplier. `mixer_out` is `attn_out` in a layer with attention, and exists in
layers with a state space, a convolution or linear attention in its place, too. `resid_mid` does not
exist in parallel blocks (GPT-NeoX, Phi), nor `mlp_hidden` in a mixture of experts; they are refused
there. `q` and `k` are taken before any norm or rotation. `attn_pattern` needs eager
attention (`needs=("attention_weights",)`), and is not a valid value of a recipe's parameter `site`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

Site = Literal[
    "resid_pre",
    "resid_mid",
    "resid_post",
    "q",
    "k",
    "v",
    "head_z",
    "attn_out",
    "mixer_out",
    "mlp_hidden",
    "mlp_out",
]

#: denoise: clean activations are patched into the corrupt run; noise: the other way round.
Direction = Literal["denoise", "noise"]

#: How one forward pass becomes one number, where the answer is read, in float32:
#: logit_diff: mean logit of the answers − mean logit of the wrong ones; prob_diff: the same for
#: their summed probabilities; logit, prob, log_prob: of the answers only.
Metric = Literal["logit_diff", "logit", "prob", "log_prob", "prob_diff"]

#: A parameter that is a text to the user and a tokenized `Prompt` to the recipe's body.
PromptText = Annotated[Any, "prompt"]

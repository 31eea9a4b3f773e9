"""The logit lens."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi import Heatmap, Range, TokenGrid, Tokens, recipe
from remote_mi.interventions import Prompt, rank_of, run, top_tokens, unembed, unembed_each


@recipe(
    over="prompt",
    returns={
        "top_token": Tokens("layer", "position", "top"),
        "top_prob": ("layer", "position", "top"),
        "target_prob": ("layer", "position"),
        "target_rank": ("layer", "position"),
        "kl": ("layer", "position"),
        "entropy": ("layer", "position"),
    },
    evidence="observational",
    figures=[
        TokenGrid("top_token", title="top token", shade="top_prob"),
        Heatmap("target_prob", title="probability of the target"),
        Heatmap("kl", title="KL to the final layer", unit="nats"),
        Heatmap("entropy", unit="nats"),
    ],
    needs=("unembedding", "lens"),
    references=["nostalgebraist2020lens"],
)
def logit_lens(lm: Any, prompt: Prompt, *, top: Annotated[int, Range(1, 50)] = 5) -> dict[str, Any]:
    """What the model would predict if it stopped after each layer.

    The residual stream after layer l is passed through the final norm and the unembedding:

        p_l = softmax(W_U · norm(resid_post_l))
        kl[l] = KL(p_final ‖ p_l) = Σ p_final (log p_final − log p_l)
        entropy[l] = −Σ p_l log p_l

    The last layer is the model's own output, so its KL is 0. Entropy and KL are in nats.
    The target is the given token; without one, the final layer's own top token at each position.
    Rank 0 is the most probable token. Cost: 1 forward pass, and one unembedding per layer.
    What this does not show: that the model has decided in that layer, nor that it uses what can be
    read: the lens is the last layer's basis put on the stream of earlier ones, and a token that
    cannot be read may be there in another basis. Nothing is changed in the run, so that nothing is
    known about causes.
    Not implemented: the tuned lens (a learned translation per layer); the plain lens reads early
    layers in the basis of the last, which they need not use.

    Args:
        top: how many of the most probable tokens to keep at each layer and position.
    """
    stream = [resid_post[0] for resid_post in run(lm, prompt, "resid_post").values]
    final = unembed(lm, stream[-1])  # [position, vocabulary], log-probabilities
    target = prompt.wanted(otherwise=final.argmax(-1, keepdim=True))
    p_final, layers = final.exp(), []
    for log_p in unembed_each(lm, stream):
        log_p = log_p.to(final.device)
        token, log_prob = top_tokens(log_p, top)
        of_target = log_p.gather(-1, target)
        of_layer = {
            "top_token": token,
            "top_prob": log_prob.exp(),
            "target_prob": of_target[:, 0].exp(),
            "target_rank": rank_of(log_p, of_target),
            "kl": (p_final * (final - log_p)).sum(-1),
            "entropy": -(log_p.exp() * log_p).sum(-1),
        }
        layers.append(of_layer)
    return {name: torch.stack([layer[name] for layer in layers]) for name in layers[0]}

"""The logit lens."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi import Heatmap, Range, TokenGrid, Tokens, recipe
from remote_mi.interventions import Prompt, rank_of, run_residuals, top_tokens, unembed


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
    figures=[
        TokenGrid("top_token", title="top token", shade="top_prob"),
        Heatmap("target_prob", title="probability of the target"),
        Heatmap("kl", title="KL to the final layer", unit="nats"),
        Heatmap("entropy", unit="nats"),
    ],
    references=["nostalgebraist2020lens"],
)
def logit_lens(lm: Any, prompt: Prompt, *, top: Annotated[int, Range(1, 50)] = 5) -> dict[str, Any]:
    """What the model would say if it stopped after each layer.

    The residual stream after layer l is put through the final norm and the unembedding:

        p_l = softmax(W_U · norm(resid_post_l))
        kl[l] = KL(p_final ‖ p_l) = Σ p_final (log p_final − log p_l)
        entropy[l] = −Σ p_l log p_l

    The last layer is the model's own output, so its KL is 0. Entropy and KL are in nats.
    The target is the token given; without one, the final layer's own top token at each position.
    Rank 0 is the most probable token. Cost: 1 forward pass, and one unembedding a layer.
    Not implemented: the tuned lens (a learned translation a layer); the plain lens reads early
    layers in the basis of the last, which they need not use.

    Args:
        top: how many of the most probable tokens to keep at each layer and position.
    """
    stream = run_residuals(lm, prompt.ids)[1:]
    final = unembed(lm, stream[-1])  # [position, vocabulary], log-probabilities
    if prompt.target is None:
        target = final.argmax(-1, keepdim=True)
    else:
        target = torch.full_like(final[:, :1], prompt.target, dtype=torch.long)
    rows: dict[str, list[torch.Tensor]] = {
        "top_token": [],
        "top_prob": [],
        "target_prob": [],
        "target_rank": [],
        "kl": [],
        "entropy": [],
    }
    for resid_post in stream:
        log_p = unembed(lm, resid_post).to(final.device)
        token, log_prob = top_tokens(log_p, top)
        of_target = log_p.gather(-1, target)
        rows["top_token"].append(token)
        rows["top_prob"].append(log_prob.exp())
        rows["target_prob"].append(of_target[:, 0].exp())
        rows["target_rank"].append(rank_of(log_p, of_target))
        rows["kl"].append((final.exp() * (final - log_p)).sum(-1))
        rows["entropy"].append(-(log_p.exp() * log_p).sum(-1))
    return {name: torch.stack(values) for name, values in rows.items()}

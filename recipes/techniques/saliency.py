"""Gradient saliency of input tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch

from remote_mi import Bars, Range, Table, Tokens, recipe
from remote_mi.interventions import Prompt, embeddings, logits, measure, random_scores, run


@recipe(
    over="prompt",
    returns={
        "gradient_norm": ("position",),
        "gradient_x_input": ("position",),
        "gradient_norm_control": ("draw", "position"),
        "gradient_x_input_control": ("draw", "position"),
        "value": (),
        "token": Tokens(),
    },
    controls={
        "gradient_norm": "gradient_norm_control",
        "gradient_x_input": "gradient_x_input_control",
    },
    evidence="observational",
    figures=[Bars("gradient_norm"), Bars("gradient_x_input"), Table("value", columns=("token",))],
    needs=("gradients", "unembedding"),
    references=["simonyan2013deep", "shrikumar2016black", "adebayo2018sanity"],
)
def saliency(
    lm: Any,
    prompt: Prompt,
    *,
    score: Literal["logit", "log_prob", "prob"] = "logit",
    control_draws: Annotated[int, Range(0, 1000)] = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """How sensitive the score of a token is to each token of the prompt.

    x[p] is the token embedding at position p, s the score of the target where the answer is
    read, with the gradient taken at the prompt itself:

        gradient_norm[p]    = ‖∂s/∂x[p]‖₂
        gradient_x_input[p] = x[p] · ∂s/∂x[p]
        value               = s

    The target is the given token, else the most probable one; `token` is its id.
    Sign: the norm has none; gradient × input is positive where a longer x[p] raises s. Units:
    gradient × input has that of s; the norm has that of s per unit of the embedding, so norms of
    different models cannot be compared.
    The norm is over d_model (the paper takes the largest absolute value over three colours).
    Both are first-order and local: a token that s depends on strongly but in a saturated way
    gets little. integrated_gradients avoids that.
    The input is the output of the token embedding (Gemma's scale included), before position
    embeddings are added (GPT-2, OPT, BERT).
    Control: the same for random scores, in each prompt: the logit of one random token minus that
    of another, scaled to be as sensitive to the final state as s. A token that does not exceed
    it affects any output as much as this one.
    Cost: 1 forward and 1 + control_draws backward passes.
    What this does not show: what would happen without the token: it is the slope at one point, and
    no token is ever taken away. A saturated score has a small slope everywhere. It shows
    sensitivity to the embedding, not to words that could stand there, and nothing about where
    inside the model it comes about.
    Not implemented: SmoothGrad, guided backpropagation, positions other than the answer's.

    Args:
        score: what is differentiated: logit, log-probability (nats) or probability.
        control_draws: pairs of random tokens of the control.
        seed: of the random tokens.
    """
    x = embeddings(lm, prompt).requires_grad_(True)  # [1, position, d_model]
    hidden = run(lm, prompt, inputs=x).hidden
    most_probable = int(logits(lm, hidden[:, prompt.end].detach()).argmax())
    of_target = measure(lm, score, prompt, otherwise=most_probable)
    measures = [of_target, *random_scores(lm, of_target, hidden, control_draws, seed)]
    slopes = [torch.autograd.grad(m(hidden).sum(), x, retain_graph=True)[0][0] for m in measures]
    gradients = torch.stack(slopes)  # [measure, position, d_model]
    norm = gradients.norm(dim=-1)
    product = (gradients * x.detach()).sum(-1)
    return {
        "gradient_norm": norm[0],
        "gradient_x_input": product[0],
        "gradient_norm_control": norm[1:],
        "gradient_x_input_control": product[1:],
        "value": of_target(hidden)[0],
        "token": torch.tensor(of_target.answers[0]),
    }

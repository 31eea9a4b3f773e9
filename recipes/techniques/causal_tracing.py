"""Causal tracing (noise on the subject, clean states restored)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch

from remote_mi import Bars, Heatmap, Range, Ratio, Table, recipe
from remote_mi.interventions import Prompt, answer_metric
from remote_mi.interventions.sites import require_unembedding
from remote_mi.interventions.tracing import embedding_noise, restore_states


@recipe(
    over="prompt",
    returns={
        "effect": ("draw", "layer", "position"),
        "control": ("draw", "layer", "position"),
        "gap": (),
        "clean": (),
        "corrupt": (),
    },
    summaries={
        "recovery": Ratio("effect", gap="gap"),
        "control_recovery": Ratio("control", gap="gap"),
    },
    controls={"effect": "control", "recovery": "control_recovery"},
    figures=[
        Heatmap("effect", center=0),
        Bars("effect"),
        Table("gap", columns=("clean", "corrupt")),
    ],
    references=["meng2022locating", "zhang2023patching"],
)
def causal_tracing(
    lm: Any,
    prompt: Prompt,
    *,
    site: Literal["resid_post", "mlp_out", "attn_out"] = "resid_post",
    window: Annotated[int, Range(1, 100)] = 1,
    noise: Annotated[float, Range(0, 100)] = 3.0,
    draws: Annotated[int, Range(1, 100)] = 6,
    score: Literal["prob", "log_prob", "logit"] = "prob",
    control: Literal["other_draw", "none"] = "other_draw",
    subject_start: Annotated[int, Range(-1, 1_000_000)] = -1,
    subject_end: Annotated[int, Range(-1, 1_000_000)] = -1,
    seed: int = 0,
) -> dict[str, Any]:
    """Which states, put back into a run with a noised subject, bring the answer back.

    Run the prompt with Gaussian noise added to the token embeddings of its subject. Run it again
    with the state of one site, one layer (or a window of layers) and one position restored to
    that of the clean run, and read p, the probability of the target at the answer's position.

        σ               = noise × standard deviation of the token embeddings
        effect[d, l, p] = p(noise draw d, clean state at l, p) − p(noise draw d)
        gap             = p(clean run) − mean over draws of p(noise draw d) (the total effect)
        recovery        = Σ effect / Σ gap over prompts and draws (a ratio of means)

    The mean of effect over draws is the indirect effect of Meng et al. 2022, over prompts the
    average one. Variants: they take σ from the embeddings of the subjects of their data; here it
    is that of the embedding of the whole vocabulary (2,048 evenly spaced tokens). They restore
    single layers of the stream after a block (resid_post, window 1), and windows of 10 layers of
    mlp_out and attn_out: give window 10 for these. A window of w layers at l is l − ⌊w/2⌋ to
    l − ⌊w/2⌋ + w − 1, cut at the ends of the model.
    Sign: positive where the clean state helps the answer; gap is all there is to restore.
    Positions before the subject are 0 by causality (an encoder has no such zeros).
    Units: those of the score (a probability, or nats).
    Control: the state that is put in is that of another noised run, draw d + 1 (the first one
    for the last draw), instead of the clean one. With one draw there is none.
    Exact. Cost: 1 clean forward pass, and for each draw 1, and one of each cell from its layer
    and position on; as many again for the control.
    Not implemented: restoring a state with the MLPs or the attention of later layers severed;
    noise that replaces the embedding; uniform noise.

    Args:
        site: what is restored: the stream after a block, or what the MLP or attention adds.
        window: how many layers are restored at once, around the one that is named.
        noise: in standard deviations of the token embeddings.
        draws: how many times noise is drawn.
        score: what is measured of the target: probability, log-probability or logit.
        control: the state of another noised run, or none, at half the cost.
        subject_start: position of the subject's first token; −1 takes the label "subject".
        subject_end: position of its last token; −1 takes subject_start.
        seed: of the noise.
    """
    if prompt.target is None:
        raise ValueError("causal tracing follows one answer: give target, the text of its token")
    require_unembedding(lm)
    target, length = prompt.target, len(prompt.ids)
    span = subject_span(prompt, subject_start, subject_end)

    def measure(hidden: torch.Tensor) -> torch.Tensor:
        return answer_metric(lm, hidden[:, prompt.end - length], score, [target], [])

    added = embedding_noise(lm, length, span, noise, draws, seed)
    runs = restore_states(lm, prompt.ids, added, span, site, window, measure, control)
    clean = measure(runs["hidden"])[0]
    corrupt = runs["noised"].mean()
    return {
        "effect": runs["effect"],
        "control": runs["control"],
        "gap": clean - corrupt,
        "clean": clean,
        "corrupt": corrupt,
    }


def subject_span(prompt: Prompt, start: int, end: int) -> tuple[int, int]:
    """First and last position of the subject, both included.

    Raises:
        ValueError: if it is given neither by positions nor by a label, or lies outside the prompt.
    """
    if start < 0 and "subject" in prompt.spans:
        return prompt.spans["subject"]
    if start < 0:
        raise ValueError(
            "causal tracing needs to know the subject: give subject_start and subject_end, the "
            "positions of its first and last token, or a phenomenon that labels it, as {x:subject}"
        )
    last = start if end < 0 else end
    if not start <= last < len(prompt.ids):
        raise ValueError(
            f"the subject's positions {start} to {last} do not lie in a prompt of "
            f"{len(prompt.ids)} tokens"
        )
    return start, last

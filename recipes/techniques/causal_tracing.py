"""Causal tracing (noise on the subject, clean states restored)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch

from remote_mi import Bars, Heatmap, Range, Ratio, Table, recipe
from remote_mi.interventions import Prompt, embedding_noise, measure, run, sweep


@recipe(
    over="prompt",
    returns={
        "effect": ("draw", "layer", "position"),
        "gap": (),
        "clean": (),
        "corrupt": (),
        "answer_prob": (),
    },
    summaries={"recovery": Ratio("effect", gap="gap")},
    controls={"effect": "control"},
    evidence="interventional",
    figures=[
        Heatmap("effect", center=0),
        Bars("effect"),
        Table("gap", columns=("clean", "corrupt")),
    ],
    needs=("unembedding",),
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
    subject_start: Annotated[int, Range(0, 1_000_000)] | None = None,
    subject_end: Annotated[int, Range(0, 1_000_000)] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Which states, restored in a run with a noised subject, bring the answer back.

    Run the prompt with Gaussian noise added to the token embeddings of its subject. Run it again
    with the state of one site, one layer (or a window of layers) and one position restored to
    that of the clean run, and read p, the probability of the target at the answer's position.

        σ               = noise × standard deviation of the token embeddings
        effect[d, l, p] = p(noise draw d, clean state at l, p) − p(noise draw d)
        gap             = p(clean run) − mean over draws of p(noise draw d) (the total effect)
        recovery        = Σ effect / Σ gap over prompts and draws (a ratio of means)

    The mean of effect over draws is the indirect effect of Meng et al. 2022, and its mean over
    prompts the average indirect effect. Variants: they take σ from the embeddings of the subjects
    in their data; here it is that of the embedding of the whole vocabulary (2,048 evenly spaced
    tokens). They restore single layers of the stream after a block (resid_post, window 1), and
    windows of 10 layers of mlp_out and attn_out: use window 10 for these. A window of w layers at l
    is l − ⌊w/2⌋ to l − ⌊w/2⌋ + w − 1, clipped at the ends of the model.
    Sign: positive where the clean state helps the answer; gap is the most that can be restored.
    Positions before the subject are 0 by causality (an encoder has no such zeros).
    Units: those of the score (a probability, or nats).
    Control: the restored state is that of another noised run, draw d + 1 (the first one for the
    last draw), instead of the clean one. With a single draw there is none.
    Exact. Cost: 1 clean forward pass, and for each draw 1, and one of each cell from its layer
    and position on; the same again for the control.
    What this does not show: where a fact is stored, or where editing it would work (Hase et al.
    2023: it does not follow): it shows which states suffice to bring the answer back in a run whose
    subject was noised. Noised embeddings are far from all text, so that effects depend on the size
    of the noise. Windows restore many layers at once, and say nothing about each.
    Not implemented: restoring a state with the MLPs or the attention of later layers severed;
    noise that replaces the embedding; uniform noise.

    Args:
        site: what is restored: the stream after a block, or what the MLP or attention adds.
        window: how many layers are restored at once, around the layer of the cell.
        noise: in standard deviations of the token embeddings.
        draws: how many times noise is drawn.
        score: what is measured of the target: probability, log-probability or logit.
        control: the state of another noised run, or none, at half the cost.
        subject_start: position of the subject's first token; by default from the label "subject".
        subject_end: position of its last token; by default subject_start.
        seed: of the noise.
    """
    of_target, span = measure(lm, score, prompt), prompt.span("subject", subject_start, subject_end)
    added = embedding_noise(lm, span[1] - span[0] + 1, noise, draws, seed)
    clean = run(lm, prompt, site)
    noised = run(lm, prompt, site, noise=added, noised=span)

    def next_draw(layer: int) -> torch.Tensor:
        return noised.values[layer].roll(-1, 0)

    controlled = control == "other_draw" and draws > 1
    other = next_draw if controlled else 0
    found = sweep(lm, noised, site, clean, of_target, window=window, control=other)
    return {
        "effect": found.effect,
        "control": found.control if controlled else found.effect[:0],
        "gap": found.donor - found.base.mean(),
        "clean": found.donor,
        "corrupt": found.base.mean(),
        "answer_prob": of_target.answer_prob(clean.hidden)[0],
    }

"""Path patching: the effect of one head on others, or on the logits, by the direct paths alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch

from remote_mi import Bars, Heatmap, Range, Ratio, recipe
from remote_mi.interventions import (
    Direction,
    Metric,
    Pair,
    changes,
    info,
    measure,
    random_like,
    receive,
    receivers,
    run,
    send,
    stack,
)


@recipe(
    over="pair",
    returns={
        "effect": ("layer", "head"),
        "gap": (),
        "clean": (),
        "corrupt": (),
        "answer_prob": (),
    },
    summaries={"recovery": Ratio("effect", gap="gap")},
    controls={"effect": "control"},
    evidence="counterfactual",
    figures=[Heatmap("recovery", center=0), Bars("recovery")],
    needs=("unembedding",),
    references=["wang2022ioi", "goldowskydill2023path"],
)
def path_patching(
    lm: Any,
    pair: Pair,
    *,
    to: list[str] = ["logits"],  # noqa: B006 - read only
    mlps: Literal["recomputed", "frozen"] = "recomputed",
    direction: Direction = "noise",
    metric: Metric = "logit_diff",
    control_draws: Annotated[int, Range(0, 20)] = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Which heads act on the receivers, or on the logits, directly: not through other heads.

    Three runs for each sender, a head h of layer l (Wang et al. 2023, appendix B):

        1. the base run, and the run of the other prompt, of which head_z is kept
        2. the base prompt, with h's output from the other run, and the outputs of all other heads
           held at those of the base run. What the receivers then read is kept.
        3. the base prompt, with the receivers reading that, and all else free

        effect[l, h] = m(run 3) − m(base run);  to the logits: m(run 2) − m(base run)
        gap          = m(clean run) − m(corrupt run)
        recovery     = Σ effect / Σ gap over the pairs (a ratio of means)

    noise: the base is the clean prompt, the other the corrupt one; denoise: the other way round.
    mlps: recomputed, they pass on what they read in run 2 (Wang et al.); frozen, they are held, too,
    so that only the stream connects sender and receiver (an edge, as in Goldowsky-Dill et al. 2023).
    Sign: when noising, a negative head is one whose direct paths to the receivers the behaviour
    needs, and a positive one works against it; when denoising the other way round.
    Chains: take the strongest heads for the logits, then those for their queries (or keys, or
    values), and so on: --to 9.9.q --to 9.6.q asks which heads act on two heads' queries.
    A head that reaches no receiver (in its layer or later ones) has the effect 0.
    Units: nats for logits and log-probabilities, or a probability.
    Control: h's output z, to be replaced by v, becomes z + r with r a random direction of the length
    of v − z at each position, for each pair and head: as large a change, without the content.
    Exact. Cost: 1 forward pass of each prompt; one of each head and control draw from its layer on;
    with receivers as many again, from the first receiver's layer on.
    What this does not show: what the receivers do with what they get, nor that the model uses these
    paths in the other direction: denoise and noise differ as in activation_patching. Held heads are
    a state that the model never is in. Effects of single senders need not add.
    Not implemented: MLPs and embeddings as senders, receivers at single positions, prompts of
    unequal length.

    Args:
        to: receivers: "logits", or inputs of heads and MLPs: layer.head.q (k, v; of grouped heads
            the key head's number), layer.mlp.
        mlps: whether MLPs between sender and receiver are recomputed, or frozen.
        direction: put corrupt into clean (noise) or clean into corrupt (denoise).
        metric: what is measured where the answer is read, in nats, or a probability.
        control_draws: random directions of the control; 0 for none.
        seed: of the random directions.
    """
    targets = receivers(lm, to)
    held = ["head_z"] if mlps == "recomputed" else ["head_z", "mlp_out"]
    base, other = (run(lm, prompt, "head_z") for prompt in pair.base_and_other(direction))
    put = replacements(lm, base, other, control_draws, seed)
    of_answer = measure(lm, metric, pair)
    arrived = send(lm, base, put, held, targets, of_answer)
    found = receive(lm, base, targets, arrived, of_answer) if targets else arrived[0]
    effects = found.unflatten(0, (-1, 1 + control_draws, info(lm).heads)).transpose(0, 1)
    beyond = len(lm.layers) - effects.shape[1]
    effects = torch.nn.functional.pad(effects, (0, 0, 0, beyond))  # [variant, layer, head]
    ends = pair.ends(direction, of_answer(base.hidden)[0], of_answer(other.hidden)[0])
    return {
        "effect": effects[0],
        "control": effects[1:],
        "answer_prob": of_answer.answer_prob(base.hidden)[0],
        **ends,
    }


def replacements(lm: Any, base: Any, other: Any, draws: int, seed: int) -> list[torch.Tensor]:
    """For each layer the other run's heads, then the control's, [variant, position, width]."""
    generator, found = torch.Generator().manual_seed(seed), []
    for own, change in zip(base.values, changes(lm, base, other), strict=True):
        of_heads = change[0].unflatten(-1, (info(lm).heads, -1))  # [position, head, d_head]
        random = random_like(of_heads, draws, generator)
        steps = stack([of_heads, *random]).flatten(-2)
        found.append(own.float() + steps)
    return found

"""Direct logit attribution."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi import Bars, Heatmap, Range, Table, recipe
from remote_mi.interventions import Pair, direct_logits


@recipe(
    over="pair",
    returns={
        "head": ("layer", "head"),
        "mlp": ("layer",),
        "other": ("layer",),
        "embedding": (),
        "attention_bias": ("layer",),
        "final_norm_bias": (),
        "unembedding_bias": (),
        "sum": (),
        "logit_diff": (),
    },
    behaviour="logit_diff",
    controls={"head": "random_head", "mlp": "random_mlp", "embedding": "random_embedding"},
    evidence="observational",
    figures=[
        Heatmap("head", title="heads", center=0, unit="logits"),
        Bars("head", unit="logits"),
        Bars("mlp", title="largest MLP layers", unit="logits"),
        Table("logit_diff", columns=("sum", "embedding")),
    ],
    needs=("unembedding", "plain_stream"),
    lengths="any",
    references=["elhage2021framework", "wang2022ioi", "nostalgebraist2020lens"],
)
def direct_logit_attribution(
    lm: Any, pair: Pair, *, control_draws: Annotated[int, Range(1, 1000)] = 20, seed: int = 0
) -> dict[str, Any]:
    """How much each component adds directly to the logit difference of the clean prompt.

    The final residual stream is the sum of what the embedding, every attention head and every MLP
    layer added to it. With the final norm's scale fixed to that of this run, norm and unembedding
    are linear, so the logit difference where the answer is read is a sum over components c:

        contribution[c] = (W_U[answer] − W_U[wrong]) · (scale · weight ∘ (x_c − mean(x_c)))
        logit_diff      = Σ_c contribution[c] + the biases' own contributions = sum

    without the mean if the norm does not subtract it (RMS norm). For several answers, the mean
    logit counts. The components do not overlap: the embedding (token and position, in the model's
    scale); each query head (its part of the output projection); each layer's attention bias (the
    projection's); each MLP layer with its bias (all experts together); the rest of each layer,
    `other` (a state space or convolution in the place of attention, an expert beside the others, 0
    if there is nothing else); the final norm's bias; the unembedding's bias. Layers without
    attention have no heads, and those without an MLP none. If a norm follows attention (Gemma 2), its scale is fixed, too. Weights
    are used unchanged: nothing is folded or centred. `sum` equals `logit_diff` up to rounding,
    both before a final soft-cap.

    Sign: positive supports the answer, negative the wrong one. Unit: logits (nats).
    Only direct effects on the output are measured: a component that acts only through later ones
    has a contribution of 0 here.
    Control: the contribution of the same component to the logit difference of two other tokens of
    the pair's prompts, over several draws for each pair, in the same run.
    Cost: 1 forward pass.
    What this does not show: what would happen without the component: nothing is changed in the run.
    A component that acts through later ones has nothing here, and one with a large contribution may
    be undone, or made up for, by others. The scale of the final norm, to which all contribute, is
    taken as given.
    Not implemented: contributions by source position; encoders and models whose stream is
    normalised between layers or projected before the unembedding.

    Args:
        control_draws: how many pairs of other tokens the control takes.
        seed: of the draws.
    """
    of_pair = torch.tensor([*pair.answers, *pair.wrongs])
    tokens = torch.cat([of_pair, random_pairs(pair, control_draws, seed)])
    logits, whole = direct_logits(lm, pair.clean, tokens)
    split = [len(pair.answers), len(pair.wrongs), control_draws, control_draws]

    def differences(of_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Answers minus wrong answers, [...]; the same of random tokens, [draw, ...]."""
        answers, wrongs, one, other = of_tokens.split(split, -1)
        return answers.mean(-1) - wrongs.mean(-1), (one - other).movedim(-1, 0)

    found = {name: differences(of_tokens) for name, of_tokens in logits.items()}
    return {
        **{name: contribution for name, (contribution, _) in found.items()},
        **{f"random_{name}": found[name][1] for name in ("head", "mlp", "embedding")},
        "sum": sum(contribution.nansum() for contribution, _ in found.values()),
        "logit_diff": differences(whole)[0],
    }


def random_pairs(pair: Pair, count: int, seed: int) -> torch.Tensor:
    """Pairs of different tokens of the prompts, none of them an answer.

    Rare tokens of the vocabulary would not work: every component adds a lot to their logits.

    Returns:
        [2 × count]: the first of every pair, then the second of every pair.
    """
    generator = torch.Generator().manual_seed(seed)
    answers = {*pair.answers, *pair.wrongs}
    tokens = sorted({*pair.clean.ids, *pair.corrupt.ids} - answers)
    if len(tokens) < 2:
        tokens = sorted({*tokens, *answers})
    first = torch.randint(len(tokens), (count,), generator=generator)
    apart = torch.randint(1, len(tokens), (count,), generator=generator)
    return torch.tensor(tokens)[torch.cat([first, (first + apart) % len(tokens)])]

"""Previous-token, duplicate-token and induction heads."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi import Bars, Heatmap, Range, recipe
from remote_mi.interventions import Prompt, by_layer, info, rows_that_fit, run, token_losses


@recipe(
    over="none",
    returns={
        "induction": ("layer", "head", "draw"),
        "previous_token": ("layer", "head", "draw"),
        "duplicate_token": ("layer", "head", "draw"),
        "loss_first": ("draw",),
        "loss_second": ("draw",),
        "control_previous_token": (),
        "control_loss_second": ("draw",),
    },
    controls={
        "induction": "control_induction",
        "previous_token": "control_previous_token",
        "duplicate_token": "control_duplicate_token",
    },
    evidence="observational",
    figures=[
        Heatmap("induction"),
        Bars("induction"),
        Bars("previous_token"),
        Bars("duplicate_token"),
    ],
    needs=("attention_weights", "causal", "unembedding"),
    references=["elhage2021framework", "olsson2022induction"],
)
def head_detectors(
    lm: Any,
    *,
    length: Annotated[int, Range(2, 512)] = 25,
    sequences: Annotated[int, Range(1, 1000)] = 20,
    lowest: Annotated[float, Range(0.0, 1.0)] = 0.02,
    highest: Annotated[float, Range(0.0, 1.0)] = 0.8,
    seed: int = 0,
) -> dict[str, Any]:
    """Which heads attend to the previous token, the same token earlier, or the one after that.

    Sequences of random tokens, each repeated once: [BOS] t_1 … t_L t_1 … t_L (BOS where the model
    has one). The mean attention a[q, k] at fixed offsets, of every head and sequence:

        induction       = mean of a[q, q − L + 1]   q in the second half: to the token after the
                                                    earlier occurrence of the same token
        duplicate_token = mean of a[q, q − L]       q in the second half: to the earlier occurrence
        previous_token  = mean of a[q, q − 1]       all q except the first
        loss_first, loss_second = mean −log p of the tokens of each half except its first

    Scores are between 0 and 1, losses in nats per token. The tokens are random, so that only the
    repetition can be predicted: a model with induction heads has a much smaller loss_second.
    The induction score is the prefix matching score of Olsson et al. (2022), who average over
    whole sequences of 25 tokens repeated four times; here the tokens come twice.
    Control: for induction, duplicate token and loss_second, the same at the same offsets in
    sequences whose second half consists of other random tokens. That would not change the previous
    token, so its control is a head that attends equally to all visible tokens, mean of 1/(q + 1).
    Draws are the sequences.
    Cost: 2 · sequences forward passes of 2·length tokens, with eager attention.
    What this does not show: that a head does what its pattern suggests: attending to a token is not
    copying it, and the scores hold for random tokens, on which a head may behave unlike on text. A
    head with a low score may do the same by another route.
    Not implemented: the copying score (whether the head also raises the logit of what it attends
    to); encoders.

    Args:
        length: L, tokens in one half.
        sequences: how many sequences.
        lowest: tokens are drawn from this fraction of the vocabulary upwards (the first ids are
            often special tokens or bytes).
        highest: tokens are drawn up to this fraction of the vocabulary.
        seed: of the random tokens.
    """
    model = info(lm)
    tokens = len(model.begin) + 2 * length
    low, high = int(lowest * model.vocabulary), int(highest * model.vocabulary)
    if tokens > model.context:
        raise ValueError(f"{tokens} tokens are more than the model's {model.context}: lower length")
    if high - low < 2 * length:
        raise ValueError(
            f"between lowest and highest lie {max(0, high - low)} tokens, and {2 * length} "
            "different ones are needed: widen the range or lower length"
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(high - low, generator=generator) for _ in range(sequences)]
    first, second = (torch.stack(drawn)[:, : 2 * length] + low).split(length, 1)
    opening = torch.tensor(model.begin, dtype=torch.long).expand(sequences, -1)
    repeated = scores_of(lm, torch.cat([opening, first, first], 1), length)
    others = scores_of(lm, torch.cat([opening, first, second], 1), length)
    return {
        **repeated,
        **{f"control_{n}": others[n] for n in ("induction", "duplicate_token", "loss_second")},
        "control_previous_token": (1 / torch.arange(2.0, tokens + 1)).mean(),  # queries from 1 on
    }


def scores_of(lm: Any, ids: torch.Tensor, length: int) -> dict[str, torch.Tensor]:
    """Scores [layer, head, sequence] and losses [sequence] for [BOS] and two halves of tokens."""
    tokens = ids.shape[1]
    second = tokens - length  # where the second half begins
    row = 4 * (3 * info(lm).heads * tokens**2 + tokens * info(lm).vocabulary)
    parts = []
    for rows in ids.split(rows_that_fit(lm.embed_tokens.weight.device, 4 * row)):
        found = run(lm, [Prompt(row, {}, None) for row in rows.tolist()], "attn_pattern")
        patterns = found.values
        # Entry i of the losses belongs to the token at i + 1.
        losses = token_losses(lm, found.hidden[:, :-1], rows[:, 1:])
        part = {
            "induction": mean_back(patterns, length - 1, second),
            "duplicate_token": mean_back(patterns, length, second),
            "previous_token": mean_back(patterns, 1, 1),
            "loss_first": losses[:, second - length : second - 1].mean(-1),
            "loss_second": losses[:, second:].mean(-1),
        }
        parts.append(part)
    return {name: torch.cat([part[name].cpu() for part in parts], -1) for name in parts[0]}


def mean_back(patterns: list[torch.Tensor], offset: int, since: int) -> torch.Tensor:
    """Mean attention from q to q − offset, for queries from `since` on; [layer, head, row].

    Args:
        patterns: for each layer, [row, head, query, key].
    """

    def mean(pattern: torch.Tensor) -> torch.Tensor:
        # Entry i of this diagonal belongs to the query i + offset.
        return pattern.float().diagonal(-offset, -2, -1)[..., since - offset :].mean(-1).T

    return by_layer(mean, patterns)

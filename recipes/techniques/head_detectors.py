"""Previous-token, duplicate-token and induction heads."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi import Bars, Heatmap, Range, recipe
from remote_mi.interventions import attention_weights, head_count, is_causal, skip_unembedding
from remote_mi.interventions.heads import linear_logits
from remote_mi.interventions.metrics import log_normalizer, soft_cap
from remote_mi.interventions.sites import text_config

#: What the attention weights and logits of one pass may take, in bytes.
BUDGET = 1 << 28


@recipe(
    over="none",
    returns={
        "induction": ("layer", "head", "draw"),
        "previous_token": ("layer", "head", "draw"),
        "duplicate_token": ("layer", "head", "draw"),
        "loss_first": ("draw",),
        "loss_second": ("draw",),
        "control_induction": ("layer", "head", "draw"),
        "control_previous_token": (),
        "control_duplicate_token": ("layer", "head", "draw"),
        "control_loss_second": ("draw",),
    },
    controls={
        "induction": "control_induction",
        "previous_token": "control_previous_token",
        "duplicate_token": "control_duplicate_token",
    },
    figures=[
        Heatmap("induction"),
        Bars("induction"),
        Bars("previous_token"),
        Bars("duplicate_token"),
    ],
    needs=("attention_weights",),
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
    """Which heads attend to the previous token, to the same token before, or to what followed it.

    Sequences of random tokens, each repeated once: [BOS] t_1 … t_L t_1 … t_L (BOS where the model
    has one). The mean attention a[q, k] at fixed offsets, of every head and sequence:

        induction       = mean of a[q, q − L + 1]   q in the second half: to the token that
                                                    followed the same token before
        duplicate_token = mean of a[q, q − L]       q in the second half: to the same token before
        previous_token  = mean of a[q, q − 1]       all q but the first
        loss_first, loss_second = mean −log p of the tokens of each half but its first

    Scores are between 0 and 1, losses in nats a token. Random tokens, so that nothing but the
    repetition can be predicted: a model with induction heads has a much smaller loss_second.
    The induction score is the prefix matching score of Olsson et al. (2022), who average over
    whole sequences of 25 tokens repeated four times; here the tokens come twice.
    Control: for induction, duplicate token and loss_second the same at the same offsets, of
    sequences whose second half is other random tokens. The previous token is the previous token
    there, too: its control is a head that attends to every visible token alike, mean of 1/(q + 1).
    Draws are the sequences.
    Cost: 2 · sequences forward passes of 2·length tokens, with eager attention.
    Not implemented: the copying score (whether the head also raises the logit of what it attends
    to); encoders.

    Args:
        length: L, tokens in one half.
        sequences: how many sequences.
        lowest: tokens are drawn from this fraction of the vocabulary on (the first ids are often
            special or bytes).
        highest: tokens are drawn up to this fraction of the vocabulary.
        seed: of the random tokens.
    """
    halves = random_halves(lm, length, sequences, lowest, highest, seed)
    begin = bos(lm)
    start = len(begin)
    refuse_unfit(lm, start + 2 * length)
    first, second = halves[:, :length], halves[:, length:]
    bos_column = torch.tensor([begin] * sequences, dtype=torch.long).reshape(sequences, start)
    repeated = torch.cat([bos_column, first, first], 1)
    others = torch.cat([bos_column, first, second], 1)
    scores = measure(lm, repeated, start, length)
    control = measure(lm, others, start, length)
    queries = torch.arange(1, start + 2 * length)
    return {
        **scores,
        "control_induction": control["induction"],
        "control_previous_token": (1 / (queries + 1.0)).mean(),
        "control_duplicate_token": control["duplicate_token"],
        "control_loss_second": control["loss_second"],
    }


def bos(lm: Any) -> list[int]:
    """The beginning-of-sequence token, where the model's configuration has one."""
    token = getattr(text_config(lm), "bos_token_id", None)
    token = token[0] if isinstance(token, list) else token
    return [] if token is None else [int(token)]


def refuse_unfit(lm: Any, tokens: int) -> None:
    """Refuse encoders, and sequences that the model's positions do not reach."""
    if not is_causal(lm):
        raise ValueError("head detectors need a causal model: an encoder sees what follows, too")
    limit = getattr(text_config(lm), "max_position_embeddings", None)
    if limit is not None and tokens > limit:
        raise ValueError(f"{tokens} tokens are more than the model's {limit}: lower length")


def random_halves(
    lm: Any, length: int, sequences: int, lowest: float, highest: float, seed: int
) -> torch.Tensor:
    """Twice `length` random tokens a sequence, none of them twice; [sequence, 2 · length]."""
    size = lm.lm_head.weight.shape[0]
    low, high = int(lowest * size), int(highest * size)
    if high - low < 2 * length:
        raise ValueError(
            f"between lowest and highest lie {max(0, high - low)} tokens, and {2 * length} "
            "different ones are needed: widen the range or lower length"
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        torch.randperm(high - low, generator=generator)[: 2 * length] for _ in range(sequences)
    ]
    return torch.stack(drawn) + low


def measure(lm: Any, ids: torch.Tensor, start: int, length: int) -> dict[str, torch.Tensor]:
    """Scores [layer, head, sequence] and losses [sequence].

    Args:
        ids: [sequence, start + 2 · length]; start: position of the first random token.
    """
    tokens = ids.shape[1]
    of_one = 4 * (3 * head_count(lm) * tokens**2 + tokens * lm.lm_head.weight.shape[0])
    parts = []
    for rows in ids.split(max(1, BUDGET // of_one)):
        with lm.trace(input_ids=rows, use_cache=False):
            layers = [offsets(attention_weights(layer), start, length) for layer in lm.layers]
            losses = loss(lm, lm.ln_final.output, rows)
            skip_unembedding(lm)
        found = {name: torch.stack([one[name].cpu() for one in layers]) for name in layers[0]}
        found["loss_first"] = losses[:, start : start + length - 1].mean(-1)
        found["loss_second"] = losses[:, start + length :].mean(-1)
        parts.append(found)
    return {name: torch.cat([part[name] for part in parts], -1) for name in parts[0]}


def offsets(pattern: torch.Tensor, start: int, length: int) -> dict[str, torch.Tensor]:
    """Mean attention at the offsets of the scores; [row, head, query, key] → [head, row]."""

    def back(offset: int, since: int) -> torch.Tensor:
        """Attention from q to q − offset, from the query `since` on."""
        # Entry i of this diagonal is of the query i + offset.
        diagonal = pattern.float().diagonal(-offset, -2, -1)
        return diagonal[..., since - offset :].mean(-1).T

    second = start + length
    return {
        "induction": back(length - 1, second),
        "duplicate_token": back(length, second),
        "previous_token": back(1, 1),
    }


def loss(lm: Any, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """−log p of each next token in nats, inside a trace.

    Args:
        hidden: output of the final norm, [row, position, d_model]; ids: [row, position].

    Returns:
        [row, position − 1], float32; entry i is of the token at i + 1.
    """
    before = hidden[:, :-1]
    logits = []
    for row, following in zip(before, ids[:, 1:], strict=True):
        own, bias = linear_logits(lm, row, following)
        logits.append(soft_cap(lm, own.diagonal() + bias))
    total = log_normalizer(lm, before.flatten(0, 1))
    return total.reshape(before.shape[:2]) - torch.stack(logits)

"""Ablation: activations replaced by values that do not belong to the prompt, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from remote_mi.interventions.grown_pass import Base, Cell, plain_pass
from remote_mi.interventions.metrics import answer_logits, answer_metric, log_normalizer
from remote_mi.interventions.prompts import Pair
from remote_mi.interventions.sites import (
    head_count,
    is_causal,
    read_site,
    read_stream,
    skip_unembedding,
)
from remote_mi.interventions.sweeps import sweep_cells

#: Positions whose logits over the whole vocabulary are held at a time.
LOSS_POSITIONS = 1024


def site_means(lm: Any, prompts: list[list[int]], site: str) -> list[torch.Tensor]:
    """The mean activation of each layer over all positions of all prompts, [width], float32.

    Args:
        prompts: token ids of each prompt; every position of every prompt counts the same.
        site: one of `read_site`.
    """
    totals: list[torch.Tensor] = []
    for ids in prompts:
        with lm.trace(input_ids=torch.tensor([ids]), use_cache=False):
            if site == "resid_pre":
                found = [
                    read_stream(lm, index)[0].float().sum(0) for index in range(len(lm.layers))
                ]
            else:
                found = [read_site(layer, site)[0].float().sum(0) for layer in lm.layers]
            skip_unembedding(lm)
        totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
    positions = sum(len(ids) for ids in prompts)
    return [total / positions for total in totals]


def ablation_values(
    lm: Any, pair: Pair, site: str, kind: str, means: list[torch.Tensor]
) -> list[torch.Tensor]:
    """What is put in place of the clean run's activations, for each layer.

    Args:
        kind: "mean", "zero" or "resample" (the corrupt prompt's activation, position by position).
        means: of `site_means`; used by "mean" only.

    Returns:
        per layer what broadcasts to [row, position, width].

    Raises:
        ValueError: for an unknown kind.
    """
    if kind == "mean":
        return [mean[None, None] for mean in means]
    if kind == "zero":
        return [torch.zeros(1, 1, 1) for _ in lm.layers]
    if kind == "resample":
        return plain_pass(lm, pair.corrupt.ids, site)["values"]
    raise ValueError(f"unknown kind {kind!r}")


def ablate_positions(
    lm: Any,
    pair: Pair,
    base: Base,
    site: str,
    values: list[torch.Tensor],
    metric: str,
    first: int,
    control_draws: int,
    seed: int,
) -> dict[str, torch.Tensor]:
    """Replace one position of one layer of the clean run at a time.

    Args:
        base: of the clean prompt (`shared_base`).
        first: positions before it are 0, and not run.

    Returns:
        as `sweep_cells`: effect [layer, position], control [draw, layer, position], base [], of
        the metric.
    """
    length = len(base.ids)
    cells: list[Cell] = [(p, p + 1, None) for p in range(first, length)]

    def measure(hidden: torch.Tensor) -> torch.Tensor:
        at_end = hidden[:, pair.end - length]
        return answer_metric(lm, at_end, metric, pair.answers, pair.wrongs)

    found = sweep_cells(lm, base, site, cells, values, measure, control_draws, seed)
    for name in ("effect", "control"):
        found[name] = torch.nn.functional.pad(found[name], (first, 0))
    return found


def ablate_whole(
    lm: Any,
    pair: Pair,
    base: Base,
    site: str,
    values: list[torch.Tensor],
    metric: str,
    first: int,
    control_draws: int,
    seed: int,
) -> dict[str, torch.Tensor]:
    """Replace all positions of a layer of the clean run at a time; of a head, for head_z.

    Args:
        base: of the clean prompt (`shared_base`).
        first: positions before it stay as they are; they are not run.

    Returns:
        as `sweep_cells`, of (metric, loss): effect [layer, 1 or head, 2],
        control [draw, layer, 1 or head, 2].
    """
    length = len(base.ids)
    heads = list(range(head_count(lm))) if site == "head_z" else [None]
    cells: list[Cell] = [(first, length, head) for head in heads] if first < length else []
    measure = metric_and_loss(lm, pair, metric)
    found = sweep_cells(lm, base, site, cells, values, measure, control_draws, seed)
    if not cells:  # the values are the clean ones at every position
        for name in ("effect", "control"):
            found[name] = torch.nn.functional.pad(found[name], (0, 0, len(heads), 0))
    return found


def metric_and_loss(lm: Any, pair: Pair, metric: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """From the final norm's output, [row, position, d_model], to [row, 2]: metric and loss.

    The loss is the mean cross-entropy of the clean prompt's tokens; where only the last positions
    are given, their share of it. An encoder predicts none of its own tokens: its loss is that of
    the answer.
    """
    length = len(pair.clean.ids)

    def measure(hidden: torch.Tensor) -> torch.Tensor:
        at_end = hidden[:, pair.end - length]
        scores = answer_metric(lm, at_end, metric, pair.answers, pair.wrongs)
        if is_causal(lm):
            targets = pair.clean.ids[length - hidden.shape[1] + 1 :]
            losses = token_losses(lm, hidden[:, :-1], targets).sum(-1) / max(1, length - 1)
        else:
            losses = -answer_metric(lm, at_end, "log_prob", pair.answers, pair.wrongs)
        return torch.stack([scores, losses], -1)

    return measure


def token_losses(lm: Any, hidden: torch.Tensor, targets: list[int]) -> torch.Tensor:
    """Cross-entropy of one token at each position.

    Args:
        hidden: output of the final norm, [row, position, d_model].
        targets: the token that each position is to predict.

    Returns:
        [row, position], float32, in nats.
    """
    if not targets:
        return torch.zeros(hidden.shape[:2], device=hidden.device)
    losses = []
    for rows in hidden.split(max(1, LOSS_POSITIONS // len(targets))):
        flat, shape = rows.flatten(0, 1), (rows.shape[0], len(targets))
        own = answer_logits(lm, flat, targets).unflatten(0, shape).diagonal(dim1=1, dim2=2)
        losses.append(log_normalizer(lm, flat).unflatten(0, shape) - own)
    return torch.cat(losses)

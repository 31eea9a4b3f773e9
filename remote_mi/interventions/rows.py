"""Rows of any lengths: which run together, and what they give at their own positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from remote_mi.interventions.forward import run
from remote_mi.interventions.memory import rows_that_fit
from remote_mi.interventions.model_info import (
    context_length,
    hides_padding,
    steady_length,
    text_config,
)
from remote_mi.interventions.prompts import Prompt
from remote_mi.interventions.readout import logits, token_losses


def batches(lm: Any, ids: Sequence[Sequence[int]], steps: int = 0) -> list[list[int]]:
    """The numbers of the rows that run together: as many as fit into memory.

    Args:
        ids: token ids, [row][position]. steps: how many tokens are added to each.
    """
    longest, config = max(len(row) for row in ids) + steps, text_config(lm)
    width, layers = int(config.hidden_size), len(lm.layers)
    size = 4 * (longest * width * (2 * layers + 16) + 4 * int(lm.lm_head.weight.shape[0]))
    most = rows_that_fit(lm.lm_head.weight.device, size)
    mixed = hides_padding(lm) and longest <= steady_length(lm)
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    found: list[list[int]] = []
    for row in order:
        last = found[-1] if found else []
        if last and len(last) < most and (mixed or len(ids[last[0]]) == len(ids[row])):
            last.append(row)
        else:
            found.append([row])
    return found


def end_tokens(lm: Any) -> list[int]:
    """All tokens that end a text: chat models list several in `generation_config.json`."""
    found: list[int] = []
    for config in (text_config(lm), getattr(lm._module, "generation_config", None)):
        ends = getattr(config, "eos_token_id", None)
        found += ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends]
    return found


def _final_states(
    lm: Any, ids: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Batch by batch the numbers of its rows, their token ids, padded on the right, [row, position],
    and the final norm's output, [row, position, d_model].

    What follows a row's own tokens changes nothing at them: for causal models.
    """
    for rows in batches(lm, ids):
        longest = max(len(ids[row]) for row in rows)
        padded = [[*ids[row], *[ids[row][-1]] * (longest - len(ids[row]))] for row in rows]
        prompts = [Prompt(row, {}, None) for row in padded]
        yield rows, torch.tensor(padded), run(lm, prompts).hidden


def prompt_losses(lm: Any, prompts: Sequence[Prompt]) -> torch.Tensor:
    """The mean next-token cross-entropy of each prompt, [prompt], float32, in nats.

    Of a prompt of one token, which predicts nothing, it is 0.
    """
    ids = [prompt.ids[: prompt.own] for prompt in prompts]
    found = torch.zeros(len(ids))
    for rows, tokens, hidden in _final_states(lm, ids):
        if tokens.shape[1] < 2:
            continue
        losses = token_losses(lm, hidden[:, :-1], tokens[:, 1:]).cpu()
        counts = torch.tensor([len(ids[row]) - 1 for row in rows])
        own = torch.arange(losses.shape[1]) < counts[:, None]
        found[rows] = (losses * own).sum(1) / counts.clamp(min=1)
    return found


def yes_probs(
    lm: Any, questions: Sequence[dict[str, list[int]]], texts: torch.Tensor
) -> torch.Tensor:
    """How probable "yes" is after a question about each text, against "no", [row], float32.

    p(yes) / (p(yes) + p(no)), each summed over the tokens with which the answer may begin.

    Args:
        questions: `Prompt.question` of each row. texts: token ids, [row, step]; −1: none.

    Raises:
        ValueError: if a question is longer than the model's context.
    """
    ends, context = set(end_tokens(lm)), context_length(lm)
    ids = []
    for question, text in zip(questions, texts.tolist(), strict=True):
        own = [token for token in text if token >= 0 and token not in ends]
        ids.append([*question["before"], *own, *question["after"]])
        if not 0 < len(ids[-1]) <= context:
            raise ValueError(
                f"the question about a text has {len(ids[-1])} tokens, the model takes {context}"
            )
    found = torch.zeros(len(ids))
    for rows, _, hidden in _final_states(lm, ids):
        for state, row in zip(hidden, rows, strict=True):
            asked = questions[row]
            scores = logits(lm, state[len(ids[row]) - 1][None], asked["yes"] + asked["no"])[0]
            found[row] = scores.softmax(-1)[: len(asked["yes"])].sum().cpu()
    return found

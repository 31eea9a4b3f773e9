"""Runs with an activation changed in several layers at once, each seeing what earlier ones did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from remote_mi.interventions.dealing import rows_of_a_pass
from remote_mi.interventions.encoder_decoder import model_inputs
from remote_mi.interventions.ports import Stream
from remote_mi.interventions.prompts import Prompt
from remote_mi.interventions.readout import skip_unembedding
from remote_mi.interventions.sites import chosen_layers, row_of


def edited(
    lm: Any,
    prompt: Prompt,
    site: str | Stream,
    change: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor],
    rows: int,
    measure: Callable[[torch.Tensor], torch.Tensor],
    *,
    layers: Sequence[int] | None = None,
) -> torch.Tensor:
    """Run copies of a prompt with a site changed in all chosen layers, and measure their ends.

    Unlike in a sweep, a change depends on the activation that it meets, which earlier changes have
    reached.

    Args:
        change: from (layer, activation [row, position, width], the numbers of these rows [row]) to
            the replacement of the same shape.
        rows: how many copies; as many of them as fit are run at once.
        measure: as for `sweep`.
        layers: ascending; None for all.

    Returns:
        what `measure` gives for each row, [row, …].

    Raises:
        ValueError: for a site or layer that does not exist.
    """
    chosen = chosen_layers(lm, site, layers, "measured")
    row, found, length = row_of(site), [], len(prompt.ids)
    for some in torch.arange(rows).split(max(1, rows_of_a_pass(lm, length, length))):
        ids = torch.tensor([prompt.ids] * len(some))
        with lm.trace(**model_inputs(lm, ids), use_cache=False):
            for layer in chosen:
                row.edit(lm, layer, lambda x, at=layer, part=some: change(at, x, part))
            scores = measure(lm.ln_final.output)
            skip_unembedding(lm)
            lm.output = None
        found.append(scores)
    return torch.cat(found)

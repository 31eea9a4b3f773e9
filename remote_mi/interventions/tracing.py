"""Causal tracing: noise in the embeddings of some tokens, and clean states put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from remote_mi.interventions.grown_pass import Base, Cell, plain_pass
from remote_mi.interventions.metrics import has_weights, where_weights_are
from remote_mi.interventions.sites import is_causal, reuses_prefix
from remote_mi.interventions.sweeps import sweep

#: Rows of the embedding that its standard deviation is taken from, evenly spaced.
EMBEDDING_SAMPLE = 2048


def embedding_std(lm: Any) -> torch.Tensor:
    """Standard deviation of the numbers that the token embedding gives, [].

    It is taken from at most `EMBEDDING_SAMPLE` evenly spaced tokens of the vocabulary, asked of
    the module itself: where a job runs without weights in its process there is no other way, and
    with the same sample everywhere the result is the same everywhere.
    """
    size = lm.embed_tokens.weight.shape[0]
    sample = min(size, EMBEDDING_SAMPLE)
    tokens = torch.arange(sample) * size // sample
    if has_weights(lm):
        tokens = tokens.to(lm.embed_tokens.weight.device)
    return where_weights_are(lm, lm.embed_tokens, tokens[None]).float().std()


def embedding_noise(
    lm: Any, length: int, span: tuple[int, int], scale: float, draws: int, seed: int
) -> torch.Tensor:
    """Gaussian noise for the embeddings of a span of tokens, 0 elsewhere.

    Args:
        length: tokens of the prompt. span: first and last of the noised ones, both included.
        scale: in standard deviations of the embeddings (`embedding_std`).

    Returns:
        [draw, position, d_model], float32.
    """
    first, last = span
    width = lm.embed_tokens.weight.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(draws, last - first + 1, width, generator=generator)
    std = embedding_std(lm)
    noise = scale * drawn.to(std.device) * std
    return torch.nn.functional.pad(noise, (0, 0, first, length - 1 - last))


def restore_states(
    lm: Any,
    ids: list[int],
    noise: torch.Tensor,
    span: tuple[int, int],
    site: str,
    window: int,
    measure: Callable[[torch.Tensor], torch.Tensor],
    control: str,
    max_rows: int | None = None,
) -> dict[str, torch.Tensor]:
    """Put the clean state back into noised runs, one layer × position at a time.

    Args:
        ids: of the prompt.
        noise: of `embedding_noise`, [draw, position, d_model]. span: where it is not 0.
        site: one of `read_site`, or "resid_post", the stream after a layer.
        window: how many layers, around its own, a cell restores.
        measure: see `grown_pass`.
        control: "other_draw", or "none".
        max_rows: rows of one pass; by default from free memory.

    Returns:
        effect [draw, layer, position]: what `measure` gives of the restored run − of the noised
        run; control [draw or 0, layer, position]: the same, where the state of the next draw's
        noised run is put in (none with one draw, or where none is asked for); noised [draw]; clean's final norm output
        "hidden" [1, position, d_model].
    """
    length, draws = len(ids), noise.shape[0]
    clean = plain_pass(lm, ids, site)
    noised = plain_pass(lm, ids, keys=reuses_prefix(lm), noise=noise)
    base = Base(ids, noised["keys"], length - 1, noised["stream"])
    # Before the first noised token a causal model's runs are all the same: exactly 0.
    first = span[0] if is_causal(lm) else 0
    cells: list[Cell] = [(p, p + 1, None) for p in range(first, length)]

    controlled = control == "other_draw" and draws > 1

    def replace(layer: int, x: torch.Tensor, start: int) -> torch.Tensor:
        state = clean["values"][layer][:, start:].to(x.device, x.dtype).expand_as(x)
        return torch.stack([state, x.roll(-1, 0)] if controlled else [state])

    variants = 2 if controlled else 1
    found, plain = sweep(lm, base, site, cells, replace, measure, variants, window, max_rows)
    found = torch.nn.functional.pad(found, (0, 0, 0, 0, first, 0))  # [layer, cell, variant, draw]
    return {
        "effect": found[:, :, 0].movedim(-1, 0),
        "control": (found[:, :, 1] if controlled else found[:, :, 0, :0]).movedim(-1, 0),
        "noised": plain,
        "hidden": clean["hidden"],
    }

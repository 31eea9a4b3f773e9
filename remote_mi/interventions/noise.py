"""Noise on the input, for causal tracing."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi.interventions.readout import has_weights, where_weights_are

#: Number of evenly spaced rows of the embedding used to estimate its standard deviation.
EMBEDDING_SAMPLE = 2048


def embedding_noise(lm: Any, tokens: int, scale: float, draws: int, seed: int) -> torch.Tensor:
    """Gaussian noise for the embeddings of some tokens.

    Args:
        scale: in standard deviations of the token embedding's values, over at most 2,048 evenly
            spaced tokens of the vocabulary.

    Returns:
        [draw, token, d_model], float32.
    """
    width = lm.embed_tokens.weight.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(draws, tokens, width, generator=generator)
    std = embedding_std(lm)
    return scale * drawn.to(std.device) * std


def embedding_std(lm: Any) -> torch.Tensor:
    """Standard deviation of the token embedding's values, [].

    It is computed from at most `EMBEDDING_SAMPLE` evenly spaced tokens of the vocabulary, by
    calling the module: a job without weights in its process has no other way, and using the same
    sample everywhere gives the same result everywhere.
    """
    size = lm.embed_tokens.weight.shape[0]
    sample = min(size, EMBEDDING_SAMPLE)
    tokens = torch.arange(sample) * size // sample
    if has_weights(lm):
        tokens = tokens.to(lm.embed_tokens.weight.device)
    return where_weights_are(lm, lm.embed_tokens, tokens[None]).float().std()

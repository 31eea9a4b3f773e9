"""Random directions, as large a change as another without its content: controls of a sweep."""

from __future__ import annotations

import torch


def unit_directions(
    identity: list[int], length: int, width: int, heads: int, draws: int, seed: int
) -> torch.Tensor:
    """Random unit vectors of each head's part, [draw, position, width], float32.

    Args:
        identity: numbers on which they depend besides the seed: the prompt's tokens, so that pairs
            do not share a draw, and the layer.
    """
    mixed = seed
    for number in identity:
        mixed = (mixed * 1_000_003 + number + 1) % (1 << 61)
    generator = torch.Generator().manual_seed(mixed)
    drawn = torch.randn(draws, length, heads, width // heads, generator=generator)
    return (drawn / drawn.norm(dim=-1, keepdim=True)).flatten(-2)


def as_far(x: torch.Tensor, value: torch.Tensor, unit: torch.Tensor, heads: int) -> torch.Tensor:
    """x moved along unit vectors by its distance from `value`, head by head.

    Args:
        x, value: [row, position, width]. unit: [draw, 1, position, width].
    """
    distance = (value.float() - x.float()).unflatten(-1, (heads, -1)).norm(dim=-1, keepdim=True)
    step = distance * unit.to(x.device).unflatten(-1, (heads, -1))
    return (x.float() + step.flatten(-2)).to(x.dtype)

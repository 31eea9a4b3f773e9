"""Sets of parts: heads or neurons that are replaced together, and random sets to compare with.

A part is one head at `head_z`, or one neuron at `mlp_hidden`, of one layer. All sets are rows of the
same passes: each row is a run of the prompt in which every part of its set is replaced.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

#: What parts are called → the site at which they are replaced, in the order of a layer.
PART_SITES = {"head": "head_z", "neuron": "mlp_hidden"}
_PART = re.compile(r"(\d+)\.(\d+)")


class PartSet:
    """Parts that are replaced together.

    Attributes:
        parts: (site, layer) → the numbers of its heads or neurons, ascending.
    """

    def __init__(self, parts: Mapping[tuple[str, int], Sequence[int]]) -> None:
        self.parts = {key: sorted(parts[key]) for key in sorted(parts)}

    def __str__(self) -> str:
        several = len({site for site, _ in self.parts}) > 1
        names = {site: f"{what} " if several else "" for what, site in PART_SITES.items()}
        return ", ".join(
            f"{names[site]}{layer}.{i}" for (site, layer), of in self.parts.items() for i in of
        )


def parse_parts(what: str, texts: Sequence[str] | None) -> list[tuple[int, int]]:
    """Parts written as layer.number, as (layer, number).

    Args:
        what: "head" or "neuron".

    Raises:
        ValueError: for another form, or a part that is given twice.
    """
    found = []
    for text in texts or ():
        match = _PART.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a {what}: write layer.{what}, e.g. 9.6")
        part = (int(match[1]), int(match[2]))
        if part in found:
            raise ValueError(f"{what} {part[0]}.{part[1]} is given twice")
        found.append(part)
    return found


def check_parts(
    what: str, parts: Sequence[tuple[int, int]], layers: int | None, count: int | None
) -> None:
    """Refuse parts that a model does not have.

    Args:
        layers: how many the model has. count: how many heads or neurons each of them has. None if
            it is not known.

    Raises:
        ValueError: naming the first, and what there is.
    """
    for layer, number in parts:
        if layers is not None and layer >= layers:
            raise ValueError(
                f"there is no {what} {layer}.{number}: the model has layers 0 to {layers - 1}"
            )
        if count is not None and number >= count:
            raise ValueError(
                f"there is no {what} {layer}.{number}: each layer has {what}s 0 to {count - 1}"
            )


def grouped_parts(
    heads: Sequence[tuple[int, int]], neurons: Sequence[tuple[int, int]]
) -> dict[tuple[str, int], list[int]]:
    """The parts of each (site, layer)."""
    found: dict[tuple[str, int], list[int]] = {}
    for what, parts in (("head", heads), ("neuron", neurons)):
        for layer, number in parts:
            found.setdefault((PART_SITES[what], layer), []).append(number)
    return found


def count_others(parts: Mapping[tuple[str, int], Sequence[int]], counts: Mapping[str, int]) -> int:
    """How many other sets have as many parts at each site of each layer.

    Args:
        counts: site → how many parts a layer has there.

    Raises:
        ValueError: if there is none.
    """
    every = math.prod(math.comb(counts[key[0]], len(numbers)) for key, numbers in parts.items())
    if every < 2:
        raise ValueError(
            "the set is all that its layers have, so that there is no random set of the same "
            "layers to compare it with: leave a part out"
        )
    return every - 1


def random_sets(own: PartSet, counts: Mapping[str, int], draws: int, seed: int) -> list[PartSet]:
    """Different random sets with as many parts at each site of each layer as a given one.

    Each other set is as likely. If there are no more than `draws` of them, these are all.

    Args:
        counts: site → how many parts a layer has there.

    Raises:
        ValueError: if there is none.
    """
    if count_others(own.parts, counts) <= draws:
        return [one for one in _every_set(own, counts) if one.parts != own.parts]
    # Only `random()` of a seed is the same in every version of Python.
    generator, known, found = random.Random(seed), {str(own)}, []
    while len(found) < draws:
        drawn = PartSet(
            {
                key: _some(counts[key[0]], len(numbers), generator.random)
                for key, numbers in own.parts.items()
            }
        )
        if str(drawn) not in known:
            known.add(str(drawn))
            found.append(drawn)
    return found


def _every_set(own: PartSet, counts: Mapping[str, int]) -> Iterator[PartSet]:
    choices = [
        itertools.combinations(range(counts[site]), len(numbers))
        for (site, _), numbers in own.parts.items()
    ]
    for chosen in itertools.product(*choices):
        yield PartSet(dict(zip(own.parts, chosen, strict=True)))


def _some(count: int, size: int, draw: Callable[[], float]) -> list[int]:
    """`size` different numbers below `count`, each choice as likely."""
    left = list(range(count))
    return [left.pop(int(draw() * len(left))) for _ in range(size)]


def rest_of(chosen: PartSet, counts: Mapping[str, int], layers: Mapping[str, Any]) -> PartSet:
    """All other parts at the sites of a set.

    Args:
        counts: as for `random_sets`. layers: site → the layers that have it.
    """
    every = {}
    for site in dict.fromkeys(key[0] for key in chosen.parts):
        for layer in layers[site]:
            inside = chosen.parts.get((site, layer), [])
            every[site, layer] = [i for i in range(counts[site]) if i not in inside]
    return PartSet(every)

"""Maps of layers × something: from which layer to which it is where, and where it passes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from remote_mi.common.statistics.ordering import told_from_the_start
from remote_mi.common.text import counted
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.report.readings.places import column_name, runs_text
from remote_mi.report.readings.told import Told
from remote_mi.report.wording import place_text

LAYER = "layer"
#: Dimensions without an order, whose cells are listed one by one instead.
_UNORDERED = ("head", "key_head", "neuron", "expert", "feature", "component", "latent", "draw")
#: Columns named; the others are counted.
_MOST = 3
#: Cells smaller than this part of the largest are not named.
_PART = 0.5


@dataclass(frozen=True)
class LayerColumn:
    """The large cells of one sign in a column.

    Attributes:
        index: of the column. layers: indices of their layers, in order.
        sign: 1 or −1. largest: size of the largest.
    """

    index: int
    layers: list[int]
    sign: int
    largest: float


def is_over_layers(told: Told) -> bool:
    """Whether a map is read here: layers × a dimension whose cells have neighbours or names."""
    dims = told.array.dims
    return len(dims) == 2 and LAYER in dims and not any(dim in _UNORDERED for dim in dims)


def other_dim(told: Told) -> str:
    """The dimension of a map over layers that is not the layers."""
    return next(dim for dim in told.array.dims if dim != LAYER)


def large_columns(told: Told) -> list[LayerColumn]:
    """The columns with cells that may be named and are at least half as large as the largest."""
    by_layer = told.array.dims.index(LAYER)
    values = np.moveaxis(told.array.values, by_layer, 0).astype(np.float64)  # [layer, column]
    cells = np.moveaxis(told.cells, by_layer, 0)
    sizes = np.where(cells, np.abs(values), 0.0)
    large = cells & (sizes >= _PART * sizes.max(initial=0.0))
    found = []
    for column in range(values.shape[1]):
        for sign in (1, -1):
            layers = np.flatnonzero(large[:, column] & (np.sign(values[:, column]) == sign))
            if layers.size:
                most = float(sizes[layers, column].max())
                found.append(LayerColumn(column, layers.tolist(), sign, most))
    return sorted(found, key=lambda column: (column.layers[0], column.layers[-1]))


def column_text(told: Told, column: LayerColumn) -> str:
    """A column with its layers: "[s2], layers 0–19"."""
    place = column_name(told.result, told.array, other_dim(told), column.index)
    return f"{place}, {runs_text(LAYER, column.layers, told.array.coords[LAYER])}"


def ranked_places(told: Told, most: int) -> list[tuple[tuple[int, ...], str]]:
    """The cells of largest size, largest first, each with its name.

    Of the layers that a reading names together, only the largest is given, under the name of all:
    "[s2], layers 0–19". The cells are those of the part, [layer, column] or the other way round.
    """
    names: dict[tuple[int, ...], str] = {}
    inside: set[tuple[int, ...]] = set()
    if is_over_layers(told) and told.claims:
        by_layer = told.array.dims.index(LAYER)
        for column in large_columns(told):
            cells = [
                (layer, column.index) if by_layer == 0 else (column.index, layer)
                for layer in column.layers
            ]
            best = max(cells, key=lambda at: abs(float(told.array.values[at])))
            inside.update(cells)
            if len(cells) > 1:
                names[best] = column_text(told, column)
            inside.discard(best)
    every = told.part.largest(most + len(inside))
    kept = [at for at in every if at not in inside][:most]
    return [(at, names.get(at) or place_text(told.array, at)) for at in kept]


def layer_reading(told: Told) -> Iterator[str]:
    """Where the large values of a map over layers are, and where they pass on."""
    for sign in (1, -1):
        columns = [column for column in large_columns(told) if column.sign == sign]
        if not columns:
            continue
        named = sorted(sorted(columns, key=lambda c: -c.largest)[:_MOST], key=columns.index)
        places = "; ".join(column_text(told, column) for column in named)
        more = len(columns) - len(named)
        rest = f"; and in {counted(more, 'more column')}" if more else ""
        yield (
            f"{told.name} {told.verb} {places}{rest}: {told.span(_values(told, columns))}, each "
            f"{told.reason} and at least half as large as the largest."
        )
        if other_dim(told) in POSITIONS:
            for one, next_one in pairwise(named):
                yield from _handover(told, one, next_one)


def _values(told: Told, columns: Sequence[LayerColumn]) -> list[float]:
    """The values of columns."""
    values = np.moveaxis(told.array.values, told.array.dims.index(LAYER), 0)
    return [float(values[layer, column.index]) for column in columns for layer in column.layers]


def _handover(told: Told, one: LayerColumn, other: LayerColumn) -> Iterator[str]:
    """Between which layers the larger value passes from one column to a later one.

    From the first large layer of the one on, layer by layer, as long as it is told to be larger
    than the other; and back from the last of the other, as long as that is told to be the larger.
    Each sequence holds with 97.5%, so both do with 95%.
    """
    samples = told.samples
    first, last = one.layers[0], other.layers[-1]
    if samples is None or not (first < other.layers[0] and one.layers[-1] < last):
        return
    by_layer = 1 + told.array.dims.index(LAYER)
    values = one.sign * np.moveaxis(samples, by_layer, 1)[:, first : last + 1]
    difference = values[:, :, one.index] - values[:, :, other.index]  # [example, layer]
    before = told_from_the_start(difference)
    after = told_from_the_start(-difference[:, ::-1])
    if not before or not after:
        return
    labels, dim = told.array.coords[LAYER], other_dim(told)
    names = [column_name(told.result, told.array, dim, c.index) for c in (one, other)]
    layers = list(range(first, last + 1))
    yield (
        f"It passes from {names[0]} to {names[1]} between layers {labels[layers[before - 1]]} and "
        f"{labels[layers[-after]]}: over the pairs it is larger at {names[0]} in "
        f"{runs_text(LAYER, layers[:before], labels)}, and at {names[1]} in "
        f"{runs_text(LAYER, layers[-after:], labels)} (95% confidence)."
    )

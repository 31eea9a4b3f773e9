"""The reading of a map, by its shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from remote_mi.report.readings.cells import cell_reading
from remote_mi.report.readings.columns import (
    LAYER,
    column_text,
    is_over_layers,
    large_columns,
    layer_reading,
    other_dim,
)
from remote_mi.report.readings.courses import course_reading
from remote_mi.report.readings.places import column_name
from remote_mi.report.readings.told import Told
from remote_mi.report.wording import format_amount, place_text


def map_reading(told: Told) -> Iterator[str]:
    """What a map says, in sentences; nothing if no cell may be named."""
    if not told.array.dims or not told.cells.any():
        return
    if told.claims:
        yield from layer_reading(told) if is_over_layers(told) else cell_reading(told)
    elif is_over_layers(told):
        yield from _strongest_column(told)


def _strongest_column(told: Told) -> Iterator[str]:
    """The course over layers of the column with the largest value, where 0 means nothing."""
    dim = other_dim(told)
    order = (dim, LAYER)
    axes = [told.array.dims.index(name) for name in order]
    part = replace(
        told.part,
        array=told.array.transpose(*order),
        marked=told.part.marked.transpose(axes),
        sized=told.part.sized.transpose(axes),
    )
    along = replace(told, part=part)
    sizes = np.where(along.cells, np.abs(along.array.values), 0.0)
    column = int(sizes.max(1).argmax())
    yield from course_reading(along, column, column_name(told.result, along.array, dim, column))


def nothing_told(told: Told) -> str:
    """That no cell may be named, if that is known; "" if some may, or nothing is known of them."""
    if told.cells.any() or not told.array.dims or not np.isfinite(told.array.values).any():
        return ""
    if not told.array.values.any():
        return f"Every {told.array.name} is {format_amount(0.0)}."
    if not told.sized.any():
        return f"Every {told.name} is 0 up to rounding."
    if told.part.untested:
        return f"Nothing is claimed of {told.name}: {told.part.untested}."
    if told.controlled:
        return f"No {told.name} is told from its control."
    if told.array.low is not None and told.slice_.pair is None:
        return f"No {told.name} has an interval without 0."
    return ""


def best_of(told: Told) -> str:
    """The largest value that may be named, with its place, in a few words."""
    values = told.array.values
    name = told.array.name
    if not told.sized.any():
        return f"{name} 0 up to rounding"
    if nothing_told(told) and told.controlled:
        return f"{name}: none told from its control"
    size = np.where(np.isfinite(values), np.abs(values), -1.0)
    cells = told.cells if told.cells.any() else told.sized
    if not values.ndim or not cells.any():
        return f"{name} {format_amount(values)}" if not values.ndim else ""
    best = np.unravel_index(int(np.where(cells, size, -1.0).argmax()), values.shape)
    place = place_text(told.array, best)
    if told.cells.any() and told.claims and is_over_layers(told):
        place = column_text(told, max(large_columns(told), key=lambda column: column.largest))
    return f"{name} {format_amount(values[best])} at {place}"

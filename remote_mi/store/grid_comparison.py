"""Comparisons that a study asks for: which points, and where each stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: What a comparison shows.
SHOWN = ("lines", "table", "agreement", "differences")


@dataclass(frozen=True)
class PlacedPoint:
    """A point of a study in a comparison.

    Attributes:
        point: its index in the study. name: what tells it from the others.
        output: the output that it is compared in; "" for a table, which has several.
        x: its place on the axis, if that is an axis of the grid. line: its line, or group.
    """

    point: int
    name: str
    output: str = ""
    x: Any = None
    line: str = ""


@dataclass(frozen=True)
class GridComparison:
    """A comparison across points of a study.

    Attributes:
        show: one of `SHOWN`. title: its heading.
        output: names of outputs. at: dimension → selector of coordinates.
        x, lines: names of the axes; "" if there is none. x_is_dim, lines_is_dim: whether they are
            dimensions of the output. across: name of the axis of differences.
        top: number of largest cells compared.
        points: in the study's order.
    """

    show: str
    title: str
    output: list[str] = field(default_factory=list)
    at: Mapping[str, Any] = field(default_factory=dict)
    x: str = ""
    x_is_dim: bool = False
    lines: str = ""
    lines_is_dim: bool = False
    across: str = ""
    top: int = 10
    points: list[PlacedPoint] = field(default_factory=list)

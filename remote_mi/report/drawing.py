"""Shared parts of drawings: colours, the axes of cells, and the legend of marks.

Colours are those of the printed HTML report: cividis for sequential values, blue–orange around a
centre. Matplotlib is imported only when something is drawn, since the import is slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from remote_mi.common.text import line
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.report.colors import LIGHT
from remote_mi.report.slices import FigurePart
from remote_mi.report.text_fitting import Pen
from remote_mi.report.wording import EXPLAINED
from remote_mi.store.named_array import NamedArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: More cells than this are drawn as one picture instead of a shape each.
_MOST_SHAPES = 6000
#: Maximum size of a drawing in inches, and of an axis label in points.
MOST_INCHES, LABEL = 14.0, 64
#: Inches to the side of and below the cells.
_MARGIN = (1.6, 1.1)


def color_map(letter: str) -> Any:
    """The colours of a scale: "s", sequential, or "d", diverging."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = LIGHT.ordered if letter == "s" else LIGHT.centred
    return LinearSegmentedColormap.from_list(letter, [tuple(c / 255 for c in s) for s in stops])


def value_label(figure: Figure, pen: Pen) -> str:
    """The label of a figure's values: the output with its unit."""
    return pen.fit(line(f"{figure.output}{f' [{figure.unit}]' if figure.unit else ''}"), 200, 8)


def note_marks(axes: Axes, sign: str, part: FigurePart) -> None:
    """Explain below the axes what a mark means."""
    short = "nothing is claimed: too few samples or draws" if part.untested else part.mark_legend
    label = f"{axes.get_xlabel()}\n{sign} {short}"
    axes.set_xlabel(label.lstrip("\n"))


def cell_grid_size(
    shape: tuple[int, ...], cell: tuple[float, float] = (0.2, 0.14)
) -> tuple[float, float]:
    """Width and height in inches of a drawing of rows × columns.

    Args:
        shape: rows, columns. cell: width and height of each, in inches.
    """
    wide, high = _MARGIN[0] + cell[0] * shape[1], _MARGIN[1] + cell[1] * shape[0]
    return max(3.2, wide), max(2.0, high)


class CellAxes:
    """Axes of rows × columns, with as many labels as fit.

    Attributes:
        points: approximate width and height of the axes, in points.
    """

    def __init__(
        self,
        axes: Axes,
        array: NamedArray,
        shape: tuple[int, ...],
        pen: Pen,
        size: tuple[float, float],
    ) -> None:
        self.axes, dims = axes, array.dims
        self.points = tuple(
            72 * (min(inches, MOST_INCHES) - beside)
            for inches, beside in zip(size, _MARGIN, strict=True)
        )
        for which, dim, count in (("y", dims[0], shape[0]), ("x", dims[1], shape[1])):
            step = max(1, -(-count // 64))
            at = range(0, count, step)
            labels = [pen.label(str(array.coords[dim][i]), LABEL, 7) for i in at]
            turned = which == "x" and any(len(text) > 2 for text in labels)
            more = {"rotation": 90} if turned else {}
            getattr(axes, f"set_{which}ticks")([i + 0.5 for i in at], labels, **more)
            getattr(axes, f"set_{which}label")(pen.label(dim, 200, 8))
        axes.set_xlim(0, max(1, shape[1]))
        high = max(1, shape[0])
        axes.set_ylim(*((high, 0) if dims[0] in POSITIONS else (0, high)))
        axes.tick_params(length=2)

    def paint(
        self,
        values: np.ndarray,
        marked: np.ndarray,
        colours: Any,
        limits: tuple[float, float],
        label: str = "",
    ) -> None:
        """Colour the cells; those explained by a control are left grey.

        Args:
            label: label of the colour bar; without one, there is no colour bar.
        """
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.patches import Rectangle

        low, high = limits if limits[1] > limits[0] else (limits[0] - 0.5, limits[0] + 0.5)
        norm = Normalize(low, high)
        if values.size > _MOST_SHAPES:
            shown = np.ma.masked_where(marked | ~np.isfinite(values), values)
            self.axes.set_facecolor("#ededf0")
            self.axes.pcolormesh(shown, cmap=colours, norm=norm, rasterized=True)
        else:
            for row, column in np.ndindex(*values.shape):
                value = float(values[row, column])
                plain = marked[row, column] or not np.isfinite(value)
                cell = Rectangle(
                    (column, row),
                    1,
                    1,
                    linewidth=0.3,
                    edgecolor="white",
                    facecolor="#ededf0" if plain else colours(norm(value)),
                )
                cell.set_gid(f"cell:{row}:{column}:{value:.6g}")
                cell.set_in_layout(False)  # it lies within the axes, and measuring it is slow
                self.axes.add_patch(cell)
        if label:
            self.axes.figure.colorbar(
                ScalarMappable(norm, colours), ax=self.axes, label=label, shrink=0.7, pad=0.02
            )

    def mark(self, marked: np.ndarray) -> None:
        """Mark the cells that a control explains."""
        if marked.size > _MOST_SHAPES:
            return
        for row, column in np.argwhere(marked):
            self.write(column + 0.5, row + 0.5, EXPLAINED, ha="center", size=5, color="#6a6a72")

    def write(self, x: float, y: float, text: str, **look: Any) -> None:
        """Write text in a cell."""
        self.axes.text(x, y, text, va="center", clip_on=True, **look).set_in_layout(False)

"""What drawings share: their colours, the axes of cells, and what their marks mean.

Colours are those of the HTML report on paper: cividis for what has an order, blue–orange around a
centre. Matplotlib is imported where something is drawn, for it takes its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from remote_mi.common.text import line
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.report.colors import LIGHT
from remote_mi.report.text_fitting import Pen
from remote_mi.report.wording import EXPLAINED
from remote_mi.store.named_array import NamedArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: More cells than this are one picture instead of a shape each.
_MOST_SHAPES = 6000
#: Inches of a drawing at most, and points of a label beside it.
MOST_INCHES, LABEL = 14.0, 64
#: Inches beside and below the cells.
_MARGIN = (1.6, 1.1)


def color_map(letter: str) -> Any:
    """The colours of a scale: "s", sequential, or "d", diverging."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = LIGHT.ordered if letter == "s" else LIGHT.centred
    return LinearSegmentedColormap.from_list(letter, [tuple(c / 255 for c in s) for s in stops])


def value_label(figure: Figure, pen: Pen) -> str:
    """What the values of a figure are, with their unit."""
    return pen.fit(line(f"{figure.output}{f' [{figure.unit}]' if figure.unit else ''}"), 200, 8)


def note_marks(axes: Axes, sign: str) -> None:
    """Say below the axes what the sign of the control means."""
    label = f"{axes.get_xlabel()}\n{sign} no larger than its control, or not told from 0"
    axes.set_xlabel(label.lstrip("\n"))


def cell_grid_size(
    shape: tuple[int, ...], cell: tuple[float, float] = (0.2, 0.14)
) -> tuple[float, float]:
    """Inches that a drawing of rows × columns needs.

    Args:
        shape: rows, columns. cell: width and height of each, in inches.
    """
    wide, high = _MARGIN[0] + cell[0] * shape[1], _MARGIN[1] + cell[1] * shape[0]
    return max(3.2, wide), max(2.0, high)


class CellAxes:
    """Axes of rows × columns with a label for each, as many as there is room for.

    Attributes:
        points: about how wide and high the axes are, in points.
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
        """Colour the cells; what a control explains is left grey.

        Args:
            label: of the colour bar; there is none without it.
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
                cell.set_in_layout(False)  # it lies within the axes; measuring it takes time
                self.axes.add_patch(cell)
        if label:
            self.axes.figure.colorbar(
                ScalarMappable(norm, colours), ax=self.axes, label=label, shrink=0.7, pad=0.02
            )

    def mark(self, marked: np.ndarray) -> None:
        """Put the sign of the control into the cells that it explains."""
        if marked.size > _MOST_SHAPES:
            return
        for row, column in np.argwhere(marked):
            self.write(column + 0.5, row + 0.5, EXPLAINED, ha="center", size=5, color="#6a6a72")

    def write(self, x: float, y: float, text: str, **look: Any) -> None:
        """Text within a cell."""
        self.axes.text(x, y, text, va="center", clip_on=True, **look).set_in_layout(False)

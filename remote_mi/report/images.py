"""Figures as files for a paper: SVG, PDF and PNG, drawn by matplotlib without a screen.

Colours are those of the HTML report on paper: cividis for what has an order, blue–orange around a
centre. In an SVG every cell, token, bar, line and interval is a group of its own whose id says what
it stands for ("cell:ROW:COLUMN:VALUE"), so that numbers can be read back from the drawing.
"""

from __future__ import annotations

import logging
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remote_mi.common.errors import NotFound, StoreError, UsageError
from remote_mi.common.process_state import Held, Ignored, Setting
from remote_mi.common.text import line
from remote_mi.recipes import figures
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.report.colors import LIGHT, shades
from remote_mi.report.html_figures import example
from remote_mi.report.kinds.lines import LETTERS, curves
from remote_mi.report.slices import shown
from remote_mi.report.text_fitting import FAMILY, Pen
from remote_mi.report.wording import EXPLAINED, Slice, where
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

FORMATS = (".svg", ".pdf", ".png")
DRAWN = (figures.Heatmap, figures.TokenGrid, figures.Bars, figures.Lines)
#: More cells than this are one picture instead of a shape each.
_MOST_SHAPES = 6000
#: Inches of a drawing at most, and points of a label beside it.
_MOST_INCHES, _LABEL = 14.0, 64
#: Okabe & Ito's colours, which colour-blind readers can tell apart; each with a dash of its own.
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7a6a00")
_DASHES = ("-", "--", ":", "-.", (0, (8, 3)), (0, (4, 1)), (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2)))
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": [FAMILY],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.usetex": False,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "remote_mi",
    "pdf.fonttype": 42,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "hatch.linewidth": 0.4,
}
#: Metadata that would differ from one drawing of the same numbers to the next.
_DATES: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


def save(figure: Figure, result: Result, path: Path, slice_: Slice) -> None:
    """Draw a figure of a result into a file; its ending says the format.

    Raises:
        UsageError: for an ending that is not of `FORMATS`, or a figure that is no drawing.
        NotFound: if the figure does not fit what it is to show.
        StoreError: if the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{path.name}: a figure is saved as {', '.join(FORMATS)}", "e.g. -o figure.svg"
        )
    drawers: dict[type[Figure], Callable[..., Canvas]] = {
        figures.Heatmap: _heatmap,
        figures.TokenGrid: _token_grid,
        figures.Bars: _bars,
        figures.Lines: _lines,
    }
    if type(figure) not in drawers:
        words = [
            "remote-mi",
            "export",
            *result.run_id.rsplit("-", 1)[-1:],
            "--table",
            figure.name,
            "-o",
            f"{path.stem}.csv",
        ]
        raise UsageError(
            f"{figure.name!r} is a {figure.kind}, which is not drawn",
            f"as a table: {shlex.join(w for w in words if w)} (or .json, .tex)",
        )
    with _drawing():
        pen = Pen(path)
        canvas = drawers[type(figure)](figure, result, slice_, pen)
        room = canvas.get_figwidth() * 72
        canvas.suptitle(pen.fitting(line(figure.name), room, 9), fontsize=9)
        try:
            canvas.savefig(
                path, bbox_inches="tight", pad_inches=0.05, metadata=_DATES[path.suffix.lower()]
            )
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def _drawing() -> Iterator[None]:
    """Our style, and no word of characters that the font lacks: the reader of an SVG has others."""
    import matplotlib

    # matplotlib's settings are those of the process: one drawing at a time.
    with _one_at_a_time, _quiet.hold(), matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def _words_of_matplotlib() -> list[Setting | Ignored]:
    logger = logging.getLogger("matplotlib")
    return [
        Setting(lambda: logger.level, logger.setLevel, logging.ERROR),
        Ignored(module=r"(matplotlib|remote_mi\.report\.images)"),
    ]


_one_at_a_time = threading.Lock()
_quiet = Held(_words_of_matplotlib)


def _canvas(width: float, height: float) -> tuple[Canvas, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    made = MatplotlibFigure(
        figsize=(min(width, _MOST_INCHES), min(height, _MOST_INCHES)), layout="constrained"
    )
    FigureCanvasAgg(made)
    return made, made.add_subplot()


def _map(letter: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    stops = LIGHT.ordered if letter == "s" else LIGHT.centred
    return LinearSegmentedColormap.from_list(letter, [tuple(c / 255 for c in s) for s in stops])


def _heatmap(figure: figures.Heatmap, result: Result, slice_: Slice, pen: Pen) -> Canvas:
    found = shown(figure, result, slice_)
    values, marked = found.array.values, found.marked
    scale = shades(values, figure.center)
    grid = _Grid(found.array.dims, found.array, values.shape, pen)
    painted = grid.paint(values, marked, _map(scale.letter), (scale.low, scale.high))
    grid.canvas.colorbar(painted, ax=grid.axes, label=_measured(figure, pen), shrink=0.7, pad=0.02)
    grid.mark(marked)
    if found.taken:
        grid.axes.set_title(pen.fitting(f"at {found.taken}", grid.axes_points[0], 8))
    if marked.any():
        _note(grid.axes, EXPLAINED)
    return grid.canvas


def _measured(figure: Figure, pen: Pen) -> str:
    """What the values of a figure are, with their unit."""
    return pen.fitting(line(f"{figure.output}{f' [{figure.unit}]' if figure.unit else ''}"), 200, 8)


class _Grid:
    """Axes of rows × columns with a label for each, as many as there is room for.

    Attributes:
        axes_points: about how wide and high the axes are, in points.
    """

    def __init__(
        self,
        dims: tuple[str, ...],
        array: NamedArray,
        shape: tuple[int, ...],
        pen: Pen,
        cell: tuple[float, float] = (0.2, 0.14),
    ) -> None:
        self.dims, self.shape = dims, shape
        margin = (1.6, 1.1)
        size = (max(3.2, margin[0] + cell[0] * shape[1]), max(2.0, margin[1] + cell[1] * shape[0]))
        self.canvas, self.axes = _canvas(*size)
        self.axes_points = tuple(
            72 * (min(inches, _MOST_INCHES) - beside)
            for inches, beside in zip(size, margin, strict=True)
        )
        for which, dim, count in (("y", dims[0], shape[0]), ("x", dims[1], shape[1])):
            step = max(1, -(-count // 64))
            at = range(0, count, step)
            labels = [pen.label(str(array.coords[dim][i]), _LABEL, 7) for i in at]
            turned = which == "x" and any(len(text) > 2 for text in labels)
            more = {"rotation": 90} if turned else {}
            getattr(self.axes, f"set_{which}ticks")([i + 0.5 for i in at], labels, **more)
            getattr(self.axes, f"set_{which}label")(pen.label(dim, 200, 8))
        self.axes.set_xlim(0, shape[1])
        self.axes.set_ylim(*((shape[0], 0) if dims[0] in POSITIONS else (0, shape[0])))
        self.axes.tick_params(length=2)

    def paint(
        self, values: np.ndarray, marked: np.ndarray, colours: Any, limits: tuple[float, float]
    ) -> Any:
        """Colour the cells; what a control explains is left grey. Gives what a colourbar needs."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.patches import Rectangle

        low, high = limits if limits[1] > limits[0] else (limits[0] - 0.5, limits[0] + 0.5)
        norm = Normalize(low, high)
        if values.size > _MOST_SHAPES:
            shown = np.ma.masked_where(marked | ~np.isfinite(values), values)
            self.axes.set_facecolor("#ededf0")
            self.axes.pcolormesh(shown, cmap=colours, norm=norm, rasterized=True)
            return ScalarMappable(norm, colours)
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
            cell.set_in_layout(False)  # it lies within the axes, and measuring it takes time
            self.axes.add_patch(cell)
        return ScalarMappable(norm, colours)

    def mark(self, marked: np.ndarray) -> None:
        """Put the sign of the control into the cells that it explains."""
        if marked.size > _MOST_SHAPES:
            return
        for row, column in np.argwhere(marked):
            self.write(column + 0.5, row + 0.5, EXPLAINED, ha="center", size=5, color="#6a6a72")

    def write(self, x: float, y: float, text: str, **look: Any) -> None:
        """Text within a cell."""
        self.axes.text(x, y, text, va="center", clip_on=True, **look).set_in_layout(False)


def _token_grid(figure: figures.TokenGrid, result: Result, slice_: Slice, pen: Pen) -> Canvas:
    tokens, prompt = example(figure.output, result, slice_)
    top = tokens.values[..., 0]
    shade = result.each(figure.shade)[slice_.item].values[..., 0] if figure.shade else None
    values = np.zeros(top.shape) if shade is None else shade
    colours = _map("s")
    grid = _Grid((tokens.dims[0], tokens.dims[1]), tokens, top.shape, pen, (0.5, 0.15))
    painted = grid.paint(values, np.zeros(top.shape, bool), colours, (0.0, 1.0))
    if figure.shade:
        label = pen.label(figure.shade, 200, 8)
        grid.canvas.colorbar(painted, ax=grid.axes, label=label, shrink=0.7, pad=0.02)
    room = 0.85 * grid.axes_points[0] / top.shape[1]
    for row, column in np.ndindex(*top.shape):
        red, green, blue, _ = colours(float(values[row, column]))
        front = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.47 else "white"
        token = int(top[row, column])
        grid.write(
            column + 0.06,
            row + 0.5,
            pen.label(result.text(token), room, 5.5),
            size=5.5,
            color=front,
            gid=f"token:{row}:{column}:{token}",
        )
    if prompt:
        grid.axes.set_title(pen.fitting(prompt, grid.axes_points[0], 8))
    return grid.canvas


def _note(axes: Axes, sign: str) -> None:
    """Say below the axes what the sign of the control means."""
    label = f"{axes.get_xlabel()}\n{sign} no larger than its control, or not told from 0"
    axes.set_xlabel(label.lstrip("\n"))


def _bars(figure: figures.Bars, result: Result, slice_: Slice, pen: Pen) -> Canvas:
    part = shown(figure, result, slice_)
    array, at = part.array, part.largest(figure.most)
    if not at:
        raise NotFound(f"{figure.output!r} has no values to rank")
    canvas, axes = _canvas(5.2, 0.9 + 0.24 * len(at))
    for place, index in enumerate(at):
        value = float(array.values[index])
        marked = bool(part.marked[index])
        colour = "#c8c8ce" if marked else "#c25e00" if value > 0 else "#145ac8"
        drawn = axes.barh(
            place,
            value,
            0.7,
            color=colour,
            hatch="////" if marked else None,
            edgecolor="white",
            linewidth=0,
        )
        drawn.patches[0].set_gid(f"bar:{place}:{value:.6g}")
        if array.low is not None and array.high is not None:
            low, high = float(array.low[index]), float(array.high[index])
            whisker = axes.errorbar(
                value,
                place,
                xerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
                color="black",
                linewidth=0.8,
                capsize=2,
            )
            whisker[2][0].set_gid(f"interval:{place}:{low:.6g}:{high:.6g}")
    names = [where(array, index) or line(figure.output) for index in at]
    axes.set_yticks(range(len(at)), [pen.fitting(name, 190, 7) for name in names])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_xlabel(_measured(figure, pen))
    if any(part.marked[index] for index in at):
        _note(axes, "hatched:")
    return canvas


def _lines(figure: figures.Lines, result: Result, slice_: Slice, pen: Pen) -> Canvas:
    found = curves(figure, result, slice_)
    x = found.x
    canvas, axes = _canvas(5.2, 3.0)
    if found.reach is not None:
        axes.fill_between(
            x,
            *found.reach,
            color="#9a9aa2",
            alpha=0.3,
            linewidth=0,
            label="what the control reaches",
        ).set_gid("control:")
    faint = 0.18 if len(found.drawn) <= 3 else 0.07  # bands that lie upon each other
    for index, number in enumerate(found.drawn):
        values, free = found.rows[number], ~found.marked[number]
        name = found.name(number)
        shown = f"{LETTERS[index]} {name}" if name else line(figure.output)
        (drawn,) = axes.plot(
            x,
            values,
            color=_LINES[index],
            linestyle=_DASHES[index],
            linewidth=1.4,
            label=pen.fitting(shown, 150, 7),
        )
        drawn.set_gid(f"line:{index}:" + ",".join(f"{v:.6g}" for v in values))
        for filled, chosen in ((True, free), (False, ~free)):
            axes.plot(
                x[chosen],
                values[chosen],
                "o",
                markersize=3,
                color=_LINES[index],
                markerfacecolor=_LINES[index] if filled else "white",
            )
        ends = found.interval(number)
        if ends is not None:
            axes.fill_between(x, *ends, color=_LINES[index], alpha=faint, linewidth=0).set_gid(
                f"band:{index}:"
            )
    step = max(1, -(-len(x) // 16))
    names = [pen.label(label, _LABEL, 7) for label in found.labels[::step]]
    turned = any(len(text) > 4 for text in names)
    axes.set_xticks(x[::step], names, rotation=90 if turned else 0)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xlabel(pen.label(found.x_name, 200, 8))
    axes.set_ylabel(_measured(figure, pen))
    if found.marked[found.drawn].any():
        _note(axes, "hollow:")
    said = [f"at {found.part.taken}" if found.part.taken else "", found.left_out]
    if any(said):
        axes.set_title(pen.fitting("; ".join(filter(None, said)), 300, 8))
    if len(found.drawn) > 1 or found.reach is not None:  # beside what it would cover
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return canvas

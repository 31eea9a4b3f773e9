"""Figures as files for a paper: SVG, PDF and PNG, drawn by matplotlib without a screen.

In an SVG every cell, token, bar, line and interval is a separate group whose id gives its place and
value ("cell:ROW:COLUMN:VALUE"), so that numbers can be read back from the drawing.
"""

from __future__ import annotations

import logging
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_mi.common.errors import StoreError, UsageError
from remote_mi.common.process_state import IgnoredWarnings, Setting, SharedSettings
from remote_mi.common.text import line
from remote_mi.recipes.figures import Figure
from remote_mi.report.drawing import MOST_INCHES
from remote_mi.report.kinds.registry import kind_of
from remote_mi.report.text_fitting import FAMILY, Pen
from remote_mi.report.wording import Slice
from remote_mi.store.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

FORMATS = (".svg", ".pdf", ".png")
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
#: Metadata that would differ between two drawings of the same numbers.
_DATES: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


def save(figure: Figure, result: Result, path: Path, slice_: Slice) -> None:
    """Draw a figure of a result into a file, in the format given by its extension.

    Raises:
        UsageError: for an extension not in `FORMATS`, or a figure that cannot be drawn.
        NotFound: if the result lacks what the figure shows.
        StoreError: if the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{path.name}: a figure can be saved as {', '.join(FORMATS)}", "e.g. -o figure.svg"
        )
    kind = kind_of(figure)
    if not kind.can_draw:
        words = [
            "remote-mi",
            "export",
            result.id8,
            "--table",
            figure.name,
            "-o",
            f"{path.stem}.csv",
        ]
        raise UsageError(
            f"{figure.name!r} is a {figure.kind}, which has no drawing",
            f"as a table: {shlex.join(w for w in words if w)} (or .json, .tex)",
        )
    layout = kind.layout(figure, result, slice_)
    with _drawing_style():
        pen = Pen(path)
        canvas, axes = _canvas(*kind.size(layout))
        kind.draw(layout, axes, pen)
        room = canvas.get_figwidth() * 72
        canvas.suptitle(pen.fit(line(figure.name), room, 9), fontsize=9)
        try:
            canvas.savefig(
                path, bbox_inches="tight", pad_inches=0.05, metadata=_DATES[path.suffix.lower()]
            )
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def _drawing_style() -> Iterator[None]:
    """Our style, without warnings of missing glyphs: readers of an SVG have other fonts."""
    import matplotlib

    # matplotlib's settings are global to the process: one drawing at a time.
    with _one_at_a_time, _quiet.hold(), matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def _matplotlib_warnings() -> list[Setting | IgnoredWarnings]:
    logger = logging.getLogger("matplotlib")
    return [
        Setting(lambda: logger.level, logger.setLevel, logging.ERROR),
        IgnoredWarnings(module=r"(matplotlib|remote_mi\.report)"),
    ]


_one_at_a_time = threading.Lock()
_quiet = SharedSettings(_matplotlib_warnings)


def _canvas(width: float, height: float) -> tuple[Canvas, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    made = MatplotlibFigure(
        figsize=(min(width, MOST_INCHES), min(height, MOST_INCHES)), layout="constrained"
    )
    FigureCanvasAgg(made)
    return made, made.add_subplot()

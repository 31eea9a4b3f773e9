"""Figures as files for a paper: SVG, PDF and PNG, drawn by matplotlib without a screen.

In an SVG every cell, token, bar, line and interval is a group of its own whose id says what
it stands for ("cell:ROW:COLUMN:VALUE"), so that numbers can be read back from the drawing.
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
from remote_mi.common.process_state import Held, Ignored, Setting
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
            f"{figure.name!r} is a {figure.kind}, which is not drawn",
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
    """Our style, and no word of characters that the font lacks: the reader of an SVG has others."""
    import matplotlib

    # matplotlib's settings are those of the process: one drawing at a time.
    with _one_at_a_time, _quiet.hold(), matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def _matplotlib_warnings() -> list[Setting | Ignored]:
    logger = logging.getLogger("matplotlib")
    return [
        Setting(lambda: logger.level, logger.setLevel, logging.ERROR),
        Ignored(module=r"(matplotlib|remote_mi\.report)"),
    ]


_one_at_a_time = threading.Lock()
_quiet = Held(_matplotlib_warnings)


def _canvas(width: float, height: float) -> tuple[Canvas, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    made = MatplotlibFigure(
        figsize=(min(width, MOST_INCHES), min(height, MOST_INCHES)), layout="constrained"
    )
    FigureCanvasAgg(made)
    return made, made.add_subplot()

"""A figure of lines with a cursor: the plot stays on top, and below it is a line of text for each."""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text

from remote_mi.figures import Lines
from remote_mi.report import plots
from remote_mi.report.plots import LETTERS, Curves
from remote_mi.report.text import fit
from remote_mi.report.viewer.listing import Item, Listing
from remote_mi.report.words import (
    EXPLAINED,
    Slice,
    cell_in_words,
    marked_in_words,
    where,
)
from remote_mi.results import NamedArray, Result

#: Lines of text beside the field of values: axis, its names, band, which are shown, heading.
_BESIDE = 5
_LEAST = 4


def place(found: Curves, at: tuple[int, int] | None) -> tuple[int, int]:
    """(line, point) of the cursor as far as they exist; at first where most is to be seen."""
    if at is None:
        return found.ranked[0] if found.rows.size else (0, 0)
    lines, points = found.rows.shape
    return min(max(0, at[0]), lines - 1), min(max(0, at[1]), points - 1)


def listing(
    figure: Lines, result: Result, slice_: Slice, at: tuple[int, int] | None,
    width: int, height: int,
) -> Listing:  # fmt: skip
    """The plot as a heading that stays, and a line of text for each line of it.

    Args:
        at: (line, point) of the cursor. height: lines of text that there are in all.

    Raises:
        RemoteMIError: if the result has not what the figure shows.
    """
    found = plots.curves(figure, result, slice_)
    line, point = place(found, at)
    many = len(found.rows)
    room = max(_LEAST, min(2 * plots.HEIGHT, height - min(many, len(LETTERS)) - _BESIDE))
    names = [where(NamedArray(found.rows[0, 0], found.array.dims[:-1], found.array.coords),
                   found.index(i, 0)[:-1]) or figure.output for i in range(many)]  # fmt: skip
    left = min(max(map(cell_len, names)), width // 3)
    foot = marked_in_words(result, figure.output, found.marked) if slice_.pair is None else ""

    def index(i: int) -> tuple[int, ...]:
        return found.index(i, point)

    def shown(i: int) -> Text:
        sign = EXPLAINED if found.marked[i, point] else " "
        said = cell_in_words(result, found.array, index(i), slice_, bool(found.taken), figure.unit)
        return Text(f" {LETTERS[i % len(LETTERS)]}{sign}{fit(names[i], left)}  {said}",
                    no_wrap=True)  # fmt: skip

    def item(i: int) -> Item:
        said = cell_in_words(result, found.array, index(i), slice_, bool(found.taken), figure.unit)
        told = f"{where(found.array, index(i))} · {said}"
        return Item((told, foot) if foot else (told,), known=names[i])

    head = list(plots.plot(found, width, slice_, room, (line, point)))
    head.append(Text(f" at {found.array.dims[-1]} {found.labels[point]} (← → choose another):",
                     "bold", no_wrap=True))  # fmt: skip
    return Listing(many, shown, item, head, line)

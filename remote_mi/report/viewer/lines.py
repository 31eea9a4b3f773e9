"""A figure of lines with a cursor: the plot stays on top, and below it is a line of text for each."""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text

from remote_mi.common.text import fit
from remote_mi.recipes.figures import Lines
from remote_mi.report.kinds import lines
from remote_mi.report.kinds.lines import LETTERS, Curves, curves
from remote_mi.report.viewer.listing import Item, Listing
from remote_mi.report.wording import (
    EXPLAINED,
    Slice,
)
from remote_mi.store.result import Result

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
    figure: Lines,
    result: Result,
    slice_: Slice,
    at: tuple[int, int] | None,
    width: int,
    height: int,
) -> Listing:
    """The plot as a heading that stays, and a line of text for each line of it.

    Args:
        at: (line, point) of the cursor. height: lines of text that there are in all.

    Raises:
        RemoteMIError: if the result has not what the figure shows.
    """
    found = curves(figure, result, slice_)
    line, point = place(found, at)
    many = len(found.rows)
    listed = min(many, len(LETTERS), max(_LEAST, height // 4))
    room = max(_LEAST, min(2 * lines.HEIGHT, height - listed - _BESIDE))
    names = [found.name(i) or figure.output for i in range(many)]
    left = min(max(map(cell_len, names)), width // 3)
    foot = found.part.marks

    letters = dict(zip(found.around(line), LETTERS, strict=False))

    def shown(i: int) -> Text:
        sign = EXPLAINED if found.marked[i, point] else " "
        return Text(
            f" {letters.get(i, ' ')}{sign}{fit(names[i], left)}  {found.said(i, point)}",
            no_wrap=True,
        )

    def item(i: int) -> Item:
        told = found.told(i, point)
        return Item((told, foot) if foot else (told,), known=names[i])

    head = list(lines.plot(found, width, slice_, room, (line, point)))
    head.append(
        Text(
            f" at {found.x_name} {found.labels[point]} (← → choose another):", "bold", no_wrap=True
        )
    )
    return Listing(many, shown, item, head, line)

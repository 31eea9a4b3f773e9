"""What a kind of figure is: the same few functions for each, which every medium calls.

A medium (terminal, viewer, page, image file, table) takes the kind of a figure from
`remote_mi.report.kinds.registry`, lets it lay the figure out, and has it written. No medium knows
a kind by its name, so a new kind is one file: a figure class, and a class of `Kind` that is
registered for it (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from markupsafe import Markup
from rich.text import Text

from remote_mi.recipes.figures import Figure
from remote_mi.report import colors
from remote_mi.report.kinds.cells import Row, cell_rows
from remote_mi.report.kinds.grid import Map
from remote_mi.report.listing import Item, Listing, make_listing, wrap
from remote_mi.report.markup import PagePlace
from remote_mi.report.slices import cuts
from remote_mi.report.wording import Slice
from remote_mi.store.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from remote_mi.report.text_fitting import Pen

#: Columns of a figure that a page shows as text.
_PAGE_WIDTH = 100
_AS_TEXT = Markup('<div class="scroll"><pre class="text">{}</pre></div>')


@dataclass(frozen=True)
class Layout:
    """A figure laid out: all its numbers and labels, in no medium.

    Attributes:
        figure: as declared. result: what it shows. slice_: which part of it.
    """

    figure: Figure
    result: Result
    slice_: Slice


class Points(Protocol):
    """What the viewer's cursor goes over where a figure is a list of lines with points.

    Attributes:
        shape: how many lines, and how many points of each.
        ranked: (line, point) from the one that stands out most.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def ranked(self) -> Sequence[tuple[int, int]]: ...

    def matches(self, asked: str, line: int) -> list[tuple[int, int]]:
        """Points that hold a word, those of the line first."""
        ...


F = TypeVar("F", bound=Figure)
L = TypeVar("L", bound=Layout)


class Kind(Generic[F, L]):
    """How figures of one class are laid out, and shown in every medium.

    `layout`, `text` and `sentences` are what a kind must have. A page shows the text where there is
    no `html`; a figure without `draw` is no picture; `rows` are the cells of its output.

    Attributes:
        of: what a figure shows of several prompts: all of them together, one at a time, or each in
            a row of its own.
        noun: what a report calls it: "Figure" or "Table".
        numbers: whether it shows one output of numbers, so that another output of the same
            dimensions, and the difference of two results, can take its place.
        sliced: whether a page lets its reader choose among the slices, if it may carry them.
        joined: whether the viewer shows figures of this kind that follow one another in one panel.
        captioned: whether a report puts `sentences` below it; not where it is words already.
    """

    prompts_shown: ClassVar[Literal["all", "one", "each"]] = "all"
    noun: ClassVar[Literal["Figure", "Table"]] = "Figure"
    numeric: ClassVar[bool] = False
    sliced: ClassVar[bool] = False
    joined: ClassVar[bool] = False
    captioned: ClassVar[bool] = True

    # What every kind has.

    def layout(self, figure: F, result: Result, slice_: Slice) -> L:
        """All numbers and labels of the figure.

        Raises:
            NotFound, UsageError: if the result has not what the figure shows, or not the slice.
        """
        raise NotImplementedError

    def text(self, layout: L, width: int) -> Iterator[Text]:
        """Lines for a terminal, at most `width` cells wide where that is possible."""
        raise NotImplementedError

    def sentences(self, layout: L) -> Iterator[str]:
        """Sentences that say what there is to see; text of the model in them made harmless."""
        raise NotImplementedError

    # Pages.

    def html(self, layout: L, place: PagePlace) -> Markup:
        """The figure in a page; everything that is not ours is escaped.

        A page allows no style and no script but its own: the look comes from `style`.
        """
        lines = [text.plain.rstrip() for text in self.text(layout, _PAGE_WIDTH)]
        return _AS_TEXT.format("\n".join(lines))

    def style(self) -> str:
        """Rules of the style sheet that `html` needs, each below the class `rmi`."""
        return ""

    def fixed_dims(self, layout: L, place: PagePlace) -> list[str]:
        """The dimensions of which a page shows one coordinate, and cannot show another."""
        return cuts(layout.figure, layout.result)

    # Image files.

    @property
    def can_draw(self) -> bool:
        """Whether there is a picture of such a figure."""
        return type(self).draw is not Kind.draw

    def size(self, layout: L) -> tuple[float, float]:
        """Width and height of the picture, in inches."""
        return 5.2, 3.0

    def draw(self, layout: L, axes: Axes, pen: Pen) -> None:
        """Draw onto matplotlib's axes; all text goes through the pen, which makes it fit."""
        raise NotImplementedError

    # Tables.

    def rows(
        self, figure: F, result: Result, each: Sequence[int] | None
    ) -> tuple[list[str], list[Row]]:
        """Heads and rows of the figure's numbers, for other programs.

        Args:
            each: indices of prompts whose own values are wanted; None takes those over all.

        Raises:
            NotFound: if there is no such prompt, or no values of single prompts.
        """
        return cell_rows(result, figure.output, each)

    # The viewer.

    def cell_map(self, layout: L, palette: colors.Palette) -> Map | None:
        """Cells that the cursor goes over in both directions; None for a list of lines."""
        return None

    def points(self, layout: L) -> Points | None:
        """What the cursor goes over where the lines of the list have points; None otherwise."""
        return None

    def listing(
        self, layout: L, width: int, height: int, at: tuple[int, int] | None = None
    ) -> Listing:
        """The figure as lines with a cursor.

        Args:
            height: lines of text that there are in all. at: (line, point) of the cursor, of a kind
                that has `points`.
        """
        return make_listing(
            [piece for text in self.text(layout, width) for piece in pieces(text, width)]
        )

    # Other outputs, other results.

    def with_output(self, figure: F, result: Result, output: str) -> F:
        """The same figure of another output of the same dimensions."""
        return replace(figure, output=output, title="", unit="")

    def for_difference(self, figure: F) -> F:
        """The figure that shows the difference of two results, of a kind that shows numbers."""
        return figure

    def keep_outputs(self, figure: F, outputs: Sequence[str]) -> F:
        """The figure with those of its further outputs that are among some."""
        return figure


def pieces(text: Text, width: int) -> list[tuple[Text, Item]]:
    """A line of text in as many lines as it needs, each with what it stands for."""
    item = Item((text.plain.strip(),))
    whole = text.no_wrap or text.cell_len <= width
    parts: Sequence[Any] = [text] if whole else wrap(text.plain, width, style=str(text.style))
    return [(part, item) for part in parts]

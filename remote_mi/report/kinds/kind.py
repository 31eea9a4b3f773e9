"""The base class of kinds of figures: the methods that every medium calls.

A medium (terminal, viewer, page, image file, table) gets the kind of a figure from
`remote_mi.report.kinds.registry`, which lays the figure out and renders it. No medium refers to
a kind by name, so a new kind is one file: a figure class, and a subclass of `Kind` that is
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
from remote_mi.report.slices import cut_dims
from remote_mi.report.wording import Slice
from remote_mi.store.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from remote_mi.report.text_fitting import Pen

#: Width in characters of a figure that a page shows as text.
_PAGE_WIDTH = 100
_AS_TEXT = Markup('<div class="scroll"><pre class="text">{}</pre></div>')


@dataclass(frozen=True)
class Layout:
    """A figure laid out: all its numbers and labels, independent of the medium.

    Attributes:
        figure: as declared. result: the result it shows. slice_: which part of it.
    """

    figure: Figure
    result: Result
    slice_: Slice


class Points(Protocol):
    """The points that the viewer's cursor moves over if a figure is a list of lines with points.

    Attributes:
        shape: number of lines, and of points on each.
        ranked: (line, point) from the most prominent one.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def ranked(self) -> Sequence[tuple[int, int]]: ...

    def matches(self, query: str, line: int) -> list[tuple[int, int]]:
        """Points that match a query, those on the given line first."""
        ...


F = TypeVar("F", bound=Figure)
L = TypeVar("L", bound=Layout)


class Kind(Generic[F, L]):
    """How figures of one class are laid out and rendered in every medium.

    A kind must implement `layout`, `text` and `sentences`. Without `html`, a page shows the text;
    without `draw`, there is no picture; by default, `rows` are the cells of the figure's output.

    Attributes:
        prompts_shown: how a figure shows several prompts: all of them together, one at a time, or
            each in its own row.
        noun: what a report calls it: "Figure" or "Table".
        numeric: whether it shows one output of numbers, so that it can also show another output of
            the same dimensions, and the difference of two results.
        sliced: whether a page lets its reader choose among the slices, if it may embed them.
        joined: whether the viewer shows consecutive figures of this kind in one panel.
        captioned: whether a report puts `sentences` below it; False if it is text already.
    """

    prompts_shown: ClassVar[Literal["all", "one", "each"]] = "all"
    noun: ClassVar[Literal["Figure", "Table"]] = "Figure"
    numeric: ClassVar[bool] = False
    sliced: ClassVar[bool] = False
    joined: ClassVar[bool] = False
    captioned: ClassVar[bool] = True

    # Required.

    def layout(self, figure: F, result: Result, slice_: Slice) -> L:
        """All numbers and labels of the figure.

        Raises:
            NotFound, UsageError: if the result lacks what the figure shows, or the slice.
        """
        raise NotImplementedError

    def text(self, layout: L, width: int) -> Iterator[Text]:
        """Lines for a terminal, at most `width` cells wide if possible."""
        raise NotImplementedError

    def sentences(self, layout: L) -> Iterator[str]:
        """Sentences that describe the figure; text from the model in them is made harmless."""
        raise NotImplementedError

    def readings(self, layout: L) -> Iterator[str]:
        """What the figure's numbers say, in sentences, which a terminal shows below it.

        Nothing where nothing is told; see `remote_mi.report.readings`.
        """
        return iter(())

    # Pages.

    def html(self, layout: L, place: PagePlace) -> Markup:
        """The figure in a page; all foreign text is escaped.

        A page allows no inline style and no script but its own: the look comes from `style`.
        """
        lines = [text.plain.rstrip() for text in self.text(layout, _PAGE_WIDTH)]
        return _AS_TEXT.format("\n".join(lines))

    def style(self) -> str:
        """CSS rules that `html` needs, each within the class `rmi`."""
        return ""

    def fixed_dims(self, layout: L, place: PagePlace) -> list[str]:
        """The dimensions of which a page shows only one coordinate, without a choice."""
        return cut_dims(layout.figure, layout.result)

    # Image files.

    @property
    def can_draw(self) -> bool:
        """Whether such a figure can be drawn."""
        return type(self).draw is not Kind.draw

    def size(self, layout: L) -> tuple[float, float]:
        """Width and height of the picture, in inches."""
        return 5.2, 3.0

    def draw(self, layout: L, axes: Axes, pen: Pen) -> None:
        """Draw on matplotlib's axes; all text must go through the pen, which makes it fit."""
        raise NotImplementedError

    # Tables.

    def rows(
        self, figure: F, result: Result, each: Sequence[int] | None
    ) -> tuple[list[str], list[Row]]:
        """Heads and rows of the figure's numbers, for other programs.

        Args:
            each: indices of prompts whose own values to take; None takes the values over all.

        Raises:
            NotFound: if there is no such prompt, or no values of single prompts.
        """
        return cell_rows(result, figure.output, each)

    # The viewer.

    def cell_map(self, layout: L, palette: colors.Palette) -> Map | None:
        """Cells that the cursor moves over in two directions; None for a list of lines."""
        return None

    def points(self, layout: L) -> Points | None:
        """The points that the cursor moves over if the list's lines have points; None otherwise."""
        return None

    def listing(
        self, layout: L, width: int, height: int, at: tuple[int, int] | None = None
    ) -> Listing:
        """The figure as lines with a cursor.

        Args:
            height: total number of lines of text. at: (line, point) of the cursor, for a kind
                with `points`.
        """
        return make_listing(
            [piece for text in self.text(layout, width) for piece in pieces(text, width)]
        )

    # Other outputs, other results.

    def with_output(self, figure: F, result: Result, output: str) -> F:
        """The same figure for another output of the same dimensions."""
        return replace(figure, output=output, title="", unit="")

    def for_difference(self, figure: F) -> F:
        """The figure for the difference of two results, if the kind is numeric."""
        return figure

    def keep_outputs(self, figure: F, outputs: Sequence[str]) -> F:
        """The figure with only those of its further outputs that are in `outputs`."""
        return figure


def pieces(text: Text, width: int) -> list[tuple[Text, Item]]:
    """A line of text wrapped into as many lines as it needs, each with the same item."""
    item = Item((text.plain.strip(),))
    whole = text.no_wrap or text.cell_len <= width
    parts: Sequence[Any] = [text] if whole else wrap(text.plain, width, style=str(text.style))
    return [(part, item) for part in parts]

"""The two main widgets: cells with fixed axes, and lines with a cursor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from remote_mi.common.text import pad_or_cut
from remote_mi.report.colors import soften
from remote_mi.report.kinds.grid import Map
from remote_mi.report.listing import NOTHING, Item, Listing

_BOLD, _DIM, _PLAIN = Style(bold=True), Style(dim=True), Style()
_HERE = Style(bold=True, reverse=True)
#: Strips in the cache; a screen has fewer lines.
_MAX_STRIPS = 400
#: More cells than a screen has: centres what was out of view.
_MIDDLE = 10_000


class Pane(ScrollView):
    """A scrolling widget with its own cursor, moved by `move` and by the mouse."""

    can_focus = False
    DEFAULT_CSS = """
    Pane {
        height: 1fr; scrollbar-size: 1 1; scrollbar-color: $primary 45%;
        scrollbar-background: $background; scrollbar-background-hover: $background;
        scrollbar-corner-color: $background;
    }
    """

    class Moved(Message):
        """The cursor has moved, or the content has changed."""

    class Chosen(Message):
        """The item under the cursor was chosen by a double click."""

    @property
    def room(self) -> Size:
        """Size of the content in cells, without scrollbars."""
        return self.scrollable_content_region.size

    def move(self, down: int, right: int) -> None:
        """Move the cursor by so many steps."""
        raise NotImplementedError

    @property
    def screenful(self) -> int:
        """Number of lines to scroll by for a page."""
        return max(1, self.room.height - 2)

    def redraw(self, *lines: int) -> None:
        """Redraw these lines of the widget."""
        width, height = self.size
        for y in {y for y in lines if 0 <= y < height}:
            self.refresh(Region(0, y, width, 1))


class GridPane(Pane):
    """A heatmap or token grid: cells, with row and column names that stay in view."""

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.map: Map | None = None
        self.rows: list[int] = []
        self.row = self.column = 0
        self._cell_width = self._label_width = 1
        self._base = Style()
        self._strips: dict[tuple[int, int, int], Strip] = {}
        self._cells: dict[tuple[int, int], list[Segment]] = {}

    def show(self, cell_map: Map, window: tuple[int, int] | None = None) -> None:
        """Show a map, or a window of its rows; the cursor is kept, clipped to the cells."""
        self.map = cell_map
        low, high = window or (0, len(cell_map.grid.rows) - 1)
        self.rows = [row for row in cell_map.grid.order if low <= row <= high]
        self.row = min(max(self.row, low), high)
        self.column = min(self.column, max(0, len(cell_map.grid.columns) - 1))
        self._measure()
        self._follow()

    def place_cursor(self, row: int, column: int) -> None:
        """Put the cursor on a cell."""
        self.row, self.column = row, column
        self._strips.clear()
        self._follow(around=_MIDDLE)
        self.refresh()

    def move(self, down: int, right: int) -> None:
        if self.map is None or not self.rows:
            return
        before = self.rows.index(self.row) if self.row in self.rows else 0
        at = min(max(before + down, 0), len(self.rows) - 1)
        column = min(max(self.column + right, 0), len(self.map.grid.columns) - 1)
        if (self.rows[at], column) == (self.row, self.column):
            return
        lines = [0, self._line(before), self._line(at)]
        self.row, self.column = self.rows[at], column
        if not self._follow():
            self.redraw(*lines)

    @property
    def _pitch(self) -> int:
        return self._cell_width + 1

    def _line(self, index: int) -> int:
        """Line of the widget on which a displayed row is drawn."""
        return index + 1 - self.scroll_offset.y

    def _measure(self) -> None:
        assert self.map is not None
        grid = self.map.grid
        self._strips.clear()
        self._cells.clear()
        self._base = self.rich_style
        self._label_width = cell_len(grid.row_labels[0]) + 4
        self._cell_width = grid.cell_width(max(8, self.size.width - self._label_width - 1))
        width = self._label_width + len(grid.columns) * self._pitch
        self.virtual_size = Size(width, len(self.rows) + 1)
        self.refresh()

    def _follow(self, around: int = 0) -> bool:
        """Scroll the cursor into view; returns whether anything moved.

        Args:
            around: rows and columns to show around it if it was out of view.
        """
        self.post_message(self.Moved())
        if self.map is None or self.row not in self.rows or not self.room.height:
            return False
        index, (x, y) = self.rows.index(self.row), self.scroll_offset
        high = max(1, self.room.height - 1)
        wide = max(1, (self.room.width - self._label_width) // self._pitch)
        y = _scroll_start(index, y, high, around)
        column = _scroll_start(self.column, self._first, wide, around)
        x = x if column == self._first else column * self._pitch
        if (x, y) == tuple(self.scroll_offset):
            return False
        self.scroll_to(x, y, animate=False)
        return True

    def on_resize(self) -> None:
        if self.map is not None:
            self._measure()
            self._follow(around=_MIDDLE)

    def on_click(self, event: events.Click) -> None:
        at = event.get_content_offset(self)
        if self.map is None or at is None:
            return
        index = at.y - 1 + self.scroll_offset.y
        column = self._first + (at.x - self._label_width) // self._pitch
        inside = at.y >= 1 and at.x >= self._label_width
        if inside and index < len(self.rows) and column < len(self.map.grid.columns):
            self.place_cursor(self.rows[index], column)

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if self.map is None:
            return Strip.blank(width, self.rich_style)
        index = y - 1 + self.scroll_offset.y
        if y > 0 and index >= len(self.rows):
            return Strip.blank(width, self.rich_style)
        row = -1 if y == 0 else self.rows[index]
        key = (row, self.scroll_offset.x, width)
        plain = row not in (-1, self.row)
        if plain and key in self._strips:
            return self._strips[key]
        strip = self._strip(row, width)
        if plain:
            if len(self._strips) > _MAX_STRIPS:
                self._strips.clear()
            self._strips[key] = strip
        return strip

    @property
    def _first(self) -> int:
        """The first column in view: scrolling is by whole columns, so that no number is cut."""
        return -(-self.scroll_offset.x // self._pitch)

    def _strip(self, row: int, width: int) -> Strip:
        """One line: the name of the row, then the cells in view. Row −1 is the axis."""
        assert self.map is not None
        grid, base = self.map.grid, self._base
        label = grid.row_labels[row + 1]
        style = _HERE if row == self.row else _BOLD if row < 0 else _DIM
        bar = "│" if row != self.row else "▸"
        segments = [
            Segment(" ", base),
            Segment(label, base + style),
            Segment(f" {bar} ", base + _DIM),
        ]
        first = self._first
        last = min(len(grid.columns), first + max(0, width - self._label_width) // self._pitch)
        for column in range(first, last):
            segments += self._cell(row, column, base)
        length = self._label_width + (last - first) * self._pitch
        if length <= width:
            segments.append(Segment(" " * (width - length), base))
            return Strip(segments, width)
        return Strip(segments, length).crop(0, width)

    def _cell(self, row: int, column: int, base: Style) -> Sequence[Segment]:
        """A cell and the gap after it, in the same colour so that cells touch."""
        assert self.map is not None
        grid = self.map.grid
        if row < 0:
            name = pad_or_cut(grid.column_labels[column], self._cell_width)
            here = column == self.column
            return [Segment(name, base + (_HERE if here else _BOLD)), Segment(" ", base)]
        if (row, column) == (self.row, self.column):
            text, _ = grid.cell(row, column, self._cell_width)
            return [Segment(text, base + _HERE), Segment("◂", base + _BOLD)]
        segments = self._cells.get((row, column))
        if segments is None:
            text, style = grid.cell(row, column, self._cell_width)
            segments = [
                Segment(text[:1], base + soften(style)),
                Segment(text[1:] + " ", base + style),
            ]
            self._cells[row, column] = segments
        return segments


def _scroll_start(at: int, first: int, count: int, around: int) -> int:
    """The first of `count` places in view, so that `at` is among them."""
    if first <= at < first + count:
        return first
    beside = min(around, (count - 1) // 2)
    return max(0, at - beside if at < first else at - count + 1 + beside)


class ListPane(Pane):
    """Lines with a cursor, below a fixed heading."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"list--here"}
    DEFAULT_CSS = """
    ListPane { overflow-x: hidden; }
    ListPane > .list--here { background: $primary 22%; text-style: bold; }
    """

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.listing = Listing(0, lambda i: Text())
        self.at = 0

    def show(self, listing: Listing, at: int | None = None) -> None:
        """Show a listing, with the cursor on line `at` or its start."""
        self.listing = listing
        self.at = min(max(0, listing.start if at is None else at), max(0, listing.count - 1))
        self.virtual_size = Size(self.size.width, listing.count + len(listing.head))
        self.refresh()
        self._follow()

    def on_resize(self) -> None:
        self._follow()

    @property
    def screenful(self) -> int:
        return max(1, self.room.height - len(self.listing.head) - 1)

    @property
    def item(self) -> Item:
        """The item under the cursor."""
        return self.listing.item(self.at) if self.listing.count else NOTHING

    def place_cursor(self, at: int) -> None:
        """Put the cursor on a line."""
        lines = [self._line(self.at), self._line(at)]
        self.at = at
        if not self._follow():
            self.redraw(*lines)

    def move(self, down: int, right: int) -> None:
        if self.listing.count:
            self.place_cursor(min(max(self.at + down, 0), self.listing.count - 1))

    def _line(self, at: int) -> int:
        return at + len(self.listing.head) - self.scroll_offset.y

    def _follow(self) -> bool:
        self.post_message(self.Moved())
        high = max(1, self.room.height - len(self.listing.head))
        y = _scroll_start(self.at, self.scroll_offset.y, high, 0)
        if not self.room.height or y == self.scroll_offset.y:
            return False
        self.scroll_to(0, y, animate=False)
        return True

    def on_click(self, event: events.Click) -> None:
        at = event.get_content_offset(self)
        if at is None or at.y < len(self.listing.head):
            return
        index = at.y - len(self.listing.head) + self.scroll_offset.y
        if index < self.listing.count:
            self.place_cursor(index)
            if event.chain > 1:
                self.post_message(self.Chosen())

    def render_line(self, y: int) -> Strip:
        width, base, head = self.size.width, self.rich_style, self.listing.head
        if y < len(head):
            text, style, mark = head[y], _PLAIN, " "
        else:
            index = y - len(head) + self.scroll_offset.y
            if index >= self.listing.count:
                message = f"  {self.listing.empty}" if not self.listing.count and index == 0 else ""
                return (
                    Strip([Segment(message, _DIM)])
                    .apply_style(base)
                    .adjust_cell_length(width, base)
                )
            text = self.listing.line(index)
            style, mark = _PLAIN, " "
            if index == self.at:
                base, mark = self.get_component_rich_style("list--here"), "▸"
        return self._strip(text, mark, style).apply_style(base).adjust_cell_length(width, base)

    def _strip(self, text: Text, mark: str, style: Style) -> Strip:
        """A line after the cursor mark; it is cut with … if it does not fit."""
        if text.cell_len > self.room.width - 1:
            text = text.copy()
            text.truncate(self.room.width - 1, overflow="ellipsis")
        console = self.app.console
        drawn = [s for s in text.render(console) if not s.control]
        if not text.spans:  # rich leaves the style of the whole text to the caller
            drawn = list(Segment.apply_style(drawn, console.get_style(text.style)))
        return Strip([Segment(mark), *drawn]).apply_style(style)

"""What a kind of figure gives the viewer to call while it draws.

The kind may be of a project or of another package. An error in such a call, or an answer of another
type, is told in its place: the viewer goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from rich.style import Style
from rich.text import Text

from remote_mi.common.authors_code import contained
from remote_mi.common.text import line, pad_or_cut
from remote_mi.report.kinds.grid import Map
from remote_mi.report.kinds.kind import Kind, Points
from remote_mi.report.kinds.registry import failure, is_registered
from remote_mi.report.listing import Item, Listing

T = TypeVar("T")


class Callbacks:
    """The calls of one kind.

    Args:
        name: of the kind, as in `Figure.kind`.
    """

    def __init__(self, kind: Kind[Any, Any], name: str) -> None:
        self.kind, self.name = kind, name
        self.failed = ""

    def map(self, made: Map) -> Map:
        """A map whose cells are `!` where they cannot be drawn; the explanation says why."""
        if not is_registered(self.kind):
            return made

        def cell(row: int, column: int, width: int) -> tuple[str, Style]:
            def drawn() -> tuple[str, Style]:
                text, style = made.grid.cell(row, column, width)
                return pad_or_cut(text, width), style + Style()

            return self._call("cell_map", drawn) or (pad_or_cut("!", width), Style())

        def explain(row: int, column: int) -> list[str]:
            self.failed = ""
            cell(row, column, 4)
            said = self._call("cell_map", lambda: [str(x) for x in made.explain(row, column)])
            return [self.failed] if self.failed else said or []

        return replace(made, grid=replace(made.grid, cell=cell), explain=explain)

    def listing(self, made: Listing) -> Listing:
        """A listing whose lines say why they cannot be drawn."""
        if not is_registered(self.kind):
            return made

        def text(index: int) -> Text:
            found = self._call("listing", lambda: made.line(index).copy())
            return Text(f" {self.failed}", no_wrap=True) if found is None else found

        def item(index: int) -> Item:
            found = self._call("listing", lambda: replace(made.item(index)))
            return Item((self.failed,)) if found is None else found

        return replace(made, line=text, item=item)

    def matches(self, points: Points, query: str, at: int) -> list[tuple[int, int]]:
        """The points that match a query; none where that fails."""
        if not is_registered(self.kind):
            return points.matches(query, at)
        return self._call("points", lambda: list(points.matches(query, at))) or []

    def _call(self, method: str, call: Callable[[], T]) -> T | None:
        """What a call of the kind gives; None, and why in `failed`, if it fails."""
        try:
            with contained():
                return call()
        except Exception as error:  # somebody's code: anything can happen
            self.failed = line(failure(self.kind, self.name, method, error).message)
            return None

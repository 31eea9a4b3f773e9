"""Finding a word among cells and lines, and rows by what was typed."""

from __future__ import annotations

from collections.abc import Sequence

from remote_mi.common.text import visible
from remote_mi.report.kinds.grid import Map
from remote_mi.report.listing import Listing


def find_in_map(found: Map, asked: str, at: tuple[int, int]) -> list[tuple[int, int]]:
    """Cells whose column, whose row, or whose own text holds what was asked for.

    Args:
        at: the cursor; a column is found in its row, a row in its column.
    """
    wanted = visible(asked).casefold()
    grid = found.grid
    columns = [i for i, name in enumerate(grid.column_labels) if wanted in name.casefold()]
    rows = [i for i, name in enumerate(grid.row_labels[1:]) if wanted == name.strip().casefold()]
    cells = [(at[0], column) for column in columns] + [(row, at[1]) for row in rows]
    if found.texts is not None:
        for row in grid.order:
            cells += [
                (row, c) for c, text in enumerate(found.texts[row]) if wanted in text.casefold()
            ]
    return list(dict.fromkeys(cells))


def find_in_listing(listing: Listing, asked: str) -> list[int]:
    """Lines that hold what was asked for, or whose items are known by it."""
    wanted = asked.strip().casefold() or asked
    marked = visible(asked).casefold()
    found = []
    for index in range(listing.count):
        text = listing.line(index).plain.casefold()
        if wanted in text or marked in text or wanted in listing.item(index).search_text.casefold():
            found.append(index)
    return found


def parse_rows(asked: str, rows: Sequence[object]) -> tuple[int, int] | None:
    """First and last row that "18-24" or "20" names, by label or else by index; None if neither."""
    names = [visible(str(r)) for r in rows]
    asked = asked.strip().replace("–", "-")
    first, _, last = (asked, "", "") if visible(asked) in names else asked.partition("-")

    def index(name: str) -> int | None:
        name = name.strip()
        if visible(name) in names and name:
            return names.index(visible(name))
        return int(name) if name.isdigit() and int(name) < len(names) else None

    low, high = index(first), index(last or first)
    if low is None or high is None:
        return None
    return min(low, high), max(low, high)

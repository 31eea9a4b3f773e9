"""Searching cells and lines for a text, and parsing ranges of rows."""

from __future__ import annotations

from collections.abc import Sequence

from remote_mi.common.text import visible
from remote_mi.report.kinds.grid import Map
from remote_mi.report.listing import Listing


def find_in_map(cell_map: Map, query: str, at: tuple[int, int]) -> list[tuple[int, int]]:
    """Cells whose column name or own text contains the query, or whose row has that name.

    Args:
        at: (row, column) of the cursor; a match of a column is placed in its row, and vice versa.
    """
    wanted = visible(query).casefold()
    grid = cell_map.grid
    columns = [i for i, name in enumerate(grid.column_labels) if wanted in name.casefold()]
    rows = [i for i, name in enumerate(grid.row_labels[1:]) if wanted == name.strip().casefold()]
    cells = [(at[0], column) for column in columns] + [(row, at[1]) for row in rows]
    if cell_map.texts is not None:
        for row in grid.order:
            cells += [
                (row, c) for c, text in enumerate(cell_map.texts[row]) if wanted in text.casefold()
            ]
    return list(dict.fromkeys(cells))


def find_in_listing(listing: Listing, query: str) -> list[int]:
    """Indices of lines whose text or search text contains the query."""
    wanted = query.strip().casefold() or query
    marked = visible(query).casefold()
    matches = []
    for index in range(listing.count):
        text = listing.line(index).plain.casefold()
        if wanted in text or marked in text or wanted in listing.item(index).search_text.casefold():
            matches.append(index)
    return matches


def parse_rows(query: str, rows: Sequence[object]) -> tuple[int, int] | None:
    """First and last row given by "18-24" or "20", as labels or else indices; None if neither."""
    names = [visible(str(r)) for r in rows]
    query = query.strip().replace("–", "-")
    first, _, last = (query, "", "") if visible(query) in names else query.partition("-")

    def index(name: str) -> int | None:
        name = name.strip()
        if visible(name) in names and name:
            return names.index(visible(name))
        return int(name) if name.isdigit() and int(name) < len(names) else None

    low, high = index(first), index(last or first)
    if low is None or high is None:
        return None
    return min(low, high), max(low, high)

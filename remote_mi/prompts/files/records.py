"""What a reader of files gives: records, each with the place that errors about it name."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remote_mi.common.errors import UsageError

#: Longest cell that is read as a list or an object, in characters.
_LONGEST = 1_000_000


@dataclass(frozen=True)
class FileRecord:
    """One record of a file.

    Attributes:
        where: its place, as errors name it: `pairs.csv:3`.
        values: column → value; empty cells are left out.
    """

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class FileRecords:
    """All records of a file or data set.

    Attributes:
        source: the file, as errors name it.
        columns: the names of a table's columns; () for JSON objects, each of which has its own.
    """

    source: str
    records: Sequence[FileRecord]
    columns: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The table's columns, or those that any of the JSON objects has."""
        found = self.columns or tuple(dict.fromkeys(k for r in self.records for k in r.values))
        return tuple(map(str, found))


def filled_cells(where: str, names: Sequence[str], cells: Sequence[Any]) -> dict[str, Any]:
    """Column → cell of a table's row, without empty cells and without the index of a data frame.

    Whole numbers become texts, as in a file of texts; nothing else is converted.

    Args:
        names: of the columns. The first is "" for an index without a name.

    Raises:
        UsageError: if another column has no name, and a cell.
    """
    values = {}
    for number, (name, cell) in enumerate(zip(names, cells, strict=True), 1):
        if cell is None or cell == "" or cell != cell:  # the last: NaN
            continue
        if not name:
            if number > 1:
                raise UsageError(f"{where}: column {number} has no name", "name it in the header")
            continue
        whole = isinstance(cell, int) and not isinstance(cell, bool)
        values[name] = str(cell) if whole else cell
    return values


def unpacked(value: Any) -> Any:
    """The list or object that a cell of text holds, in JSON or as pandas writes it; else the cell.

    Never raises.
    """
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{") or len(value) > _LONGEST:
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    return value

"""CSV and TSV files, as pandas and spreadsheets write them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from remote_mi.common.errors import UsageError
from remote_mi.common.text_files import read_text
from remote_mi.prompts.files.records import FileRecord, FileRecords, filled_cells

#: A first line with which Excel names the delimiter.
_SEP = re.compile(r"sep=(.)\r?\n")
#: How pandas names the column of an index that it wrote without a name, once it is read again.
INDEX = re.compile(r"Unnamed: \d+(_level_\d+)?")
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}


def read_csv(path: Path) -> FileRecords:
    """A table with a header; its cells are separated by commas, semicolons or tabs.

    Raises:
        UsageError: naming file and line.
    """
    return _read(path, ",;\t")


def read_tsv(path: Path) -> FileRecords:
    """A table with a header; its cells are separated by tabs. Errors as `read_csv`."""
    return _read(path, "\t")


def _read(path: Path, delimiters: str) -> FileRecords:
    text = read_text(path)
    named = _SEP.match(text)
    skipped = 0
    if named:
        text, delimiters, skipped = text[named.end() :], named[1], 1
    if not text.strip():
        raise UsageError(f"{path} is empty", "the first line names the columns: prompt,target")
    delimiter = max(delimiters, key=lambda one: _width(text, one))
    rows = _rows(path, text, delimiter, skipped)
    first, header = next(rows)
    names = header_names(f"{path}:{first}", header)
    records = []
    for line, cells in rows:
        where = f"{path}:{line}"
        if len(cells) != len(names):
            separated = _NAMES.get(delimiter, repr(delimiter))
            raise UsageError(
                f"{where}: {len(cells)} cells, and the header has {len(names)}",
                f'cells are separated by {separated}; put a text that contains one in "quotes"',
            )
        records.append(FileRecord(where, filled_cells(where, names, cells)))
    if not records:
        raise UsageError(f"{path} has a header and no rows")
    return FileRecords(str(path), records, tuple(name for name in names if name))


def _width(text: str, delimiter: str) -> int:
    """The number of cells in the first row."""
    try:
        return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)))
    except csv.Error:  # said when the rows are read
        return 0


def _rows(path: Path, text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """The rows with a text in any cell, each with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = skipped + 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield begins, cells
            begins = skipped + reader.line_num + 1
    except csv.Error as error:
        said = str(error)
        if "unexpected end" in said:
            said = 'a text in "quotes" does not end'
        raise UsageError(
            f"{path}:{begins}: not a row: {said}",
            'double a quote inside of a text in quotes: "she said ""yes"""',
        ) from None


def header_names(where: str, header: Sequence[object]) -> list[str]:
    """The columns' names; "" for an index without a name.

    Raises:
        UsageError: if two have the same, or none has one.
    """
    names = [str(name).strip() if name is not None else "" for name in header]
    if names and INDEX.fullmatch(names[0]):
        names[0] = ""
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UsageError(f"{where}: two columns are called {twice[0]!r}", "rename one of them")
    if not any(names):
        raise UsageError(f"{where}: no column has a name", "the first row names the columns")
    return names

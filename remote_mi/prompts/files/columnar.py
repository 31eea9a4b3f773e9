"""Parquet files and Excel workbooks, which need packages of their own."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from remote_mi.common.errors import UsageError, first_line
from remote_mi.prompts.files.delimited import header_names
from remote_mi.prompts.files.records import FileRecord, FileRecords, filled_cells

#: Between a workbook's file and the name of one of its sheets.
SHEET = "#"


def read_parquet(path: Path) -> FileRecords:
    """The rows of a Parquet file.

    Raises:
        UsageError: if `pyarrow` is not installed, or naming the file.
    """
    parquet = _needed(path, "pyarrow.parquet", "Parquet files")
    try:
        table = parquet.read_table(_existing(path))
        rows = table.to_pylist()
    except UsageError:
        raise
    except Exception as error:  # pyarrow's errors have several bases
        raise UsageError(f"{path}: cannot be read as a Parquet file: {first_line(error)}") from None
    names = [name for name in table.column_names if not name.startswith("__index_level_")]
    if len(set(names)) < len(names):
        header_names(str(path), names)
    records = []
    for number, row in enumerate(rows, 1):
        where = f"{path}: row {number}"
        records.append(FileRecord(where, filled_cells(where, names, [row[n] for n in names])))
    return _filled(path, records, names)


def read_excel(path: Path) -> FileRecords:
    """The rows of a workbook's sheet below its first row, which names the columns.

    Args:
        path: `FILE.xlsx`, or `FILE.xlsx#SHEET` if it has several sheets.

    Raises:
        UsageError: if `openpyxl` is not installed, or naming the file and row.
    """
    openpyxl = _needed(path, "openpyxl", "Excel files")
    file, sheet = split_sheet(path)
    try:
        book = openpyxl.load_workbook(_existing(file), read_only=True, data_only=True)
        sheets = {name: list(book[name].iter_rows(values_only=True)) for name in book.sheetnames}
        book.close()
    except UsageError:
        raise
    except Exception as error:  # a zip file, XML, or the package's own
        raise UsageError(f"{file}: cannot be read as an Excel file: {first_line(error)}") from None
    if sheet and sheet not in sheets:
        raise UsageError(f"{file}: there is no sheet {sheet!r}", "sheets: " + ", ".join(sheets))
    filled = [name for name, rows in sheets.items() if rows] or list(sheets)
    if not sheet and len(filled) > 1:
        raise UsageError(
            f"{file}: it has the sheets {', '.join(filled)}", f"name one: {file}{SHEET}{filled[0]}"
        )
    return _from_rows(path, sheets[sheet or filled[0]])


def split_sheet(path: Path) -> tuple[Path, str]:
    """A workbook's file, and the sheet that is named after it ("" if none is)."""
    for ending in (".xlsx", ".xlsm"):
        before, found, sheet = str(path).partition(ending + SHEET)
        if found:
            return Path(before + ending), sheet
    return path, ""


def _from_rows(path: Path, rows: list[tuple[Any, ...]]) -> FileRecords:
    """The records of a sheet's rows, whose places are the sheet's own row numbers."""
    numbered = [(n, row) for n, row in enumerate(rows, 1) if any(c is not None for c in row)]
    if not numbered:
        raise UsageError(f"{path} is empty", "its first row names the columns: prompt, target")
    (first, header), *below = numbered
    width = max(len(row) for _, row in numbered)
    names = header_names(f"{path}: row {first}", [*header, *[None] * (width - len(header))])
    records = []
    for number, row in below:
        where = f"{path}: row {number}"
        cells = [*row, *[None] * (width - len(row))]
        records.append(FileRecord(where, filled_cells(where, names, cells)))
    return _filled(path, records, names)


def _filled(path: Path, records: list[FileRecord], names: list[str]) -> FileRecords:
    if not records:
        raise UsageError(f"{path} has columns and no rows")
    return FileRecords(str(path), records, tuple(name for name in names if name))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"cannot read {path}: there is no such file")
    return path


def _needed(path: Path, module: str, what: str) -> Any:
    """Import a package of the extra `tables`."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(
            f"{path}: {what} need the package `{module.partition('.')[0]}`",
            'pip install "remote_mi[tables]", or save the file as CSV',
        ) from None

"""Numbers of a result as files that other programs read: CSV, JSON and LaTeX.

One row a cell: its coordinates, the value, its interval, how far its control reaches, and whether
the control explains it.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from remote_mi.common.errors import NotFound, UsageError
from remote_mi.common.text import visible
from remote_mi.recipes import figures
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.report.html_figures import table_cell
from remote_mi.report.terminal import picked
from remote_mi.report.wording import row_name, table_columns
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

FORMATS = (".csv", ".json", ".tex")
#: More rows than this make a LaTeX table that goes over pages.
_PAGE = 45
#: A cell that begins so is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\texttt{\char34}",
    "␠": r"\textvisiblespace{}",
    "↵": r"$\hookleftarrow$",
    "·": r"$\cdot$",
    "…": r"\dots{}",
    "−": r"$-$",
    "∅": r"$\emptyset$",
    "×": r"$\times$",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}
#: Characters that are set as one sign when they meet.
_LIGATURE = re.compile(r"(?<=-)(?=-)|(?<=')(?=')|(?<=`)(?=`)|(?<=[?!])(?=`)")
#: Letters and accents that every LaTeX engine and font encoding has.
_PLAIN_LETTERS = "ßæÆœŒøØåÅłŁ"
_PLAIN_ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"
Row = list[Any]


def table(
    result: Result, name: str, each: Sequence[int] | None = None
) -> tuple[list[str], list[Row]]:
    """Heads and rows of a figure, an output or a summary.

    Args:
        name: of a figure, or of what `Result.names` lists.
        each: indices of prompts whose own values are wanted; None takes those over all prompts
            (token ids, which have no mean, are always by prompt).

    Raises:
        NotFound: if there is no such figure or output, or no values of single prompts.
    """
    figure = picked(result, name)[0]
    if isinstance(figure, figures.Table):
        return _by_prompt(figure, result, each)
    output = figure.output
    declared = result.outputs.get(output)
    tokens = declared is not None and declared.kind == "token"
    if tokens and each is None:
        each = range(len(result.each(output)))
    if each is None:
        return _cells(result, result[output])
    every = result.each(output)
    heads: list[str] = []
    rows: list[Row] = []
    for index in _there(each, len(every)):
        heads, some = _plain_cells(result, every[index], tokens)
        rows += [[index + 1, *row] for row in some]
    return ["prompt", *heads], rows


def _there(wanted: Iterable[int], count: int) -> Iterator[int]:
    """The prompts that are wanted; each must be there."""
    for index in wanted:
        if not 0 <= index < count:
            raise NotFound(f"there is no prompt {index + 1}", f"there are {count}")
        yield index


def _by_prompt(
    figure: figures.Table, result: Result, each: Iterable[int] | None
) -> tuple[list[str], list[Row]]:
    """A table's own rows: one a prompt, or those of `each`."""
    names = [figure.output, *figure.columns]
    columns = table_columns(figure, result)
    count, rows = len(columns[0]), []
    for index in _there(range(count) if each is None else each, count):
        cells = []
        for name, column in zip(names, columns, strict=True):
            shown = table_cell(result, column[index])  # refuses what is no single number
            number = result.outputs[name].kind != "token"
            cells.append(_number(column[index].values) if number else shown)
        rows.append([row_name(result, index), *cells])
    return ["prompt", *names], rows


def _axes(array: NamedArray) -> tuple[list[str], Iterator[tuple[tuple[int, ...], Row]]]:
    """Heads of the coordinates, and every index with its coordinates.

    A token may occur twice, so a position has its index beside it.
    """
    heads = []
    for dim in array.dims:
        heads += [dim, f"{dim}_index"] if dim in POSITIONS else [dim]

    def walk() -> Iterator[tuple[tuple[int, ...], Row]]:
        for index in np.ndindex(*array.shape):
            row: Row = []
            for dim, at in zip(array.dims, index, strict=True):
                label = array.coords[dim][at]
                row.append(visible(label) if isinstance(label, str) else label)
                if dim in POSITIONS:
                    row.append(at)
            yield index, row

    return heads, walk()


def _cells(result: Result, array: NamedArray) -> tuple[list[str], list[Row]]:
    """Every cell of an array over all prompts."""
    heads, cells = _axes(array)
    band, explained = result.control_band(array.name), result.explained(array.name)
    more = {
        "value": array.values,
        "low": array.low,
        "high": array.high,
        "control": band,
        "explained": explained,
    }
    shown = {name: values for name, values in more.items() if values is not None}
    rows = [[*row, *(_number(values[index]) for values in shown.values())] for index, row in cells]
    return [*heads, *shown], rows


def _plain_cells(result: Result, array: NamedArray, tokens: bool) -> tuple[list[str], list[Row]]:
    """Every cell of one prompt's array; token ids with their text."""
    heads, cells = _axes(array)
    if not tokens:
        return [*heads, "value"], [[*row, _number(array.values[index])] for index, row in cells]
    return [*heads, "token_id", "token"], [
        [*row, int(array.values[index]), visible(result.text(int(array.values[index])))]
        for index, row in cells
        if array.values[index] >= 0
    ]


def _number(value: Any) -> Any:
    """A number of numpy as Python's, with the digits that its type has."""
    kind = np.asarray(value).dtype
    if kind.kind == "b":
        return bool(value)
    if kind.kind in "iu":
        return int(value)
    return float(str(np.float32(value))) if kind == np.float32 else float(value)


def formatted(heads: Sequence[str], rows: Sequence[Row], ending: str, caption: str = "") -> str:
    """A table as text of a format of `FORMATS`.

    Args:
        caption: for LaTeX and JSON: what the table shows.

    Raises:
        UsageError: for another format.
    """
    writers = {".csv": _csv, ".json": _json, ".tex": _tex}
    if ending.lower() not in writers:
        raise UsageError(
            f"a table is saved as {', '.join(FORMATS)}, not {ending or 'that'!r}",
            "e.g. -o table.csv",
        )
    return writers[ending.lower()](heads, rows, caption)


def _csv(heads: Sequence[str], rows: Sequence[Row], caption: str) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_unspreadable(h) for h in heads])
    writer.writerows([[_csv_cell(cell) for cell in row] for row in rows])
    return out.getvalue()


def _csv_cell(cell: Any) -> Any:
    if isinstance(cell, bool):
        return int(cell)
    if isinstance(cell, float) and not np.isfinite(cell):
        return ""
    return _unspreadable(cell) if isinstance(cell, str) else cell


def _unspreadable(text: str) -> str:
    """Text that no spreadsheet takes for a formula: an apostrophe before what begins like one."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _json(heads: Sequence[str], rows: Sequence[Row], caption: str) -> str:
    plain = [
        {
            h: None if isinstance(c, float) and not np.isfinite(c) else c
            for h, c in zip(heads, row, strict=True)
        }
        for row in rows
    ]
    document = {"schema": 1, "table": caption, "columns": list(heads), "rows": plain}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _tex(heads: Sequence[str], rows: Sequence[Row], caption: str) -> str:
    """A booktabs table; `longtable` where it does not fit on a page."""
    right = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(heads))]
    columns = "".join("r" if r else "l" for r in right)
    head = " & ".join(latex(h.replace("_", " ")) for h in heads) + r" \\"
    body = [" & ".join(_tex_cell(cell) for cell in row) + r" \\" for row in rows]
    title = latex(caption)
    if len(rows) > _PAGE:
        return "\n".join(
            [
                r"% needs \usepackage{booktabs,longtable}",
                rf"\begin{{longtable}}{{{columns}}}",
                rf"\caption{{{title}}} \\",
                r"\toprule",
                head,
                r"\midrule",
                r"\endhead",
                r"\bottomrule",
                r"\endfoot",
                *body,
                r"\end{longtable}",
                "",
            ]
        )
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{title}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _tex_cell(cell: Any) -> str:
    if isinstance(cell, bool):
        return r"$\sim$" if cell else ""
    if isinstance(cell, float):
        if not np.isfinite(cell):
            return "--"
        digits, _, power = f"{cell:.3g}".partition("e")
        if power:
            return rf"${digits}\times10^{{{int(power)}}}$"
        return f"${digits}$" if digits.startswith("-") else digits
    return latex(str(cell))


def latex(text: str) -> str:
    """Text as LaTeX sets it; what is no Latin letter as its code, for any engine compiles that."""
    return "".join(map(_latex_character, _LIGATURE.sub("\0", text)))


def _latex_character(character: str) -> str:
    if character == "\0":
        return "{}"  # keeps two signs apart; no text that is shown has the character itself
    if character in _LATEX:
        return _LATEX[character]
    base, *marks = unicodedata.normalize("NFD", character)
    accented = base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _PLAIN_ACCENTS
    if character.isascii() or accented or character in _PLAIN_LETTERS:
        return character
    return rf"\texttt{{U+{ord(character):04X}}}"

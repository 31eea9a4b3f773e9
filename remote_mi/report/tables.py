"""Numbers of a result as files for other programs: CSV, JSON and LaTeX.

One row per cell: its coordinates, the value, its interval, the size of its control, and whether
the control explains it.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from remote_mi.common.errors import UsageError
from remote_mi.common.text import line
from remote_mi.common.valid_json import to_json
from remote_mi.report.kinds.cells import Row
from remote_mi.report.kinds.registry import kind_of
from remote_mi.report.terminal import select_figures
from remote_mi.store.result import Result

FORMATS = (".csv", ".json", ".tex")
#: LaTeX tables with more rows span several pages.
_PAGE = 45
#: Beginnings of cells that spreadsheets take for formulas.
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
#: Between characters that would form a ligature.
_LIGATURE = re.compile(r"(?<=-)(?=-)|(?<=')(?=')|(?<=`)(?=`)|(?<=[?!])(?=`)")
#: Letters and accents that every LaTeX engine and font encoding has.
_PLAIN_LETTERS = "ßæÆœŒøØåÅłŁ"
_PLAIN_ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"


def table(
    result: Result, name: str, each: Sequence[int] | None = None
) -> tuple[list[str], list[Row]]:
    """Heads and rows of a figure, an output or a summary.

    Args:
        name: name of a figure, or one of `Result.names`.
        each: indices of prompts whose own values to take; None takes the values over all prompts
            (token ids, which have no mean, are always per prompt).

    Raises:
        NotFound: if there is no such figure or output, or no values of single prompts.
    """
    figure = select_figures(result, name)[0]
    return kind_of(figure).rows(figure, result, each)


def format_table(heads: Sequence[str], rows: Sequence[Row], ending: str, caption: str = "") -> str:
    """A table as text in one of `FORMATS`.

    Args:
        caption: what the table shows, for LaTeX and JSON.

    Raises:
        UsageError: for any other format.
    """
    writers = {".csv": _csv, ".json": _json, ".tex": _tex}
    if ending.lower() not in writers:
        raise UsageError(
            f"a table can be saved as {', '.join(FORMATS)}, not {ending or 'that'!r}",
            "e.g. -o table.csv",
        )
    return writers[ending.lower()]([line(head) for head in heads], rows, line(caption))


def _csv(heads: Sequence[str], rows: Sequence[Row], caption: str) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_escape_formula(h) for h in heads])
    writer.writerows([[_csv_cell(cell) for cell in row] for row in rows])
    return out.getvalue()


def _csv_cell(cell: Any) -> Any:
    if isinstance(cell, bool):
        return int(cell)
    if isinstance(cell, float) and not np.isfinite(cell):
        return ""
    return _escape_formula(cell) if isinstance(cell, str) else cell


def _escape_formula(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would take for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _json(heads: Sequence[str], rows: Sequence[Row], caption: str) -> str:
    plain = [dict(zip(heads, row, strict=True)) for row in rows]
    document = {"schema": 1, "table": caption, "columns": list(heads), "rows": plain}
    return to_json(document, indent=1, ensure_ascii=False) + "\n"


def _tex(heads: Sequence[str], rows: Sequence[Row], caption: str) -> str:
    """A booktabs table; a `longtable` if it does not fit on a page."""
    right = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(heads))]
    columns = "".join("r" if r else "l" for r in right)
    head = " & ".join(escape_latex(h.replace("_", " ")) for h in heads) + r" \\"
    body = [" & ".join(_tex_cell(cell) for cell in row) + r" \\" for row in rows]
    title = escape_latex(caption)
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
    return escape_latex(str(cell))


def escape_latex(text: str) -> str:
    """Text escaped for LaTeX; non-Latin characters become codes, which any engine compiles."""
    return "".join(map(_latex_character, _LIGATURE.sub("\0", text)))


def _latex_character(character: str) -> str:
    if character == "\0":
        return "{}"  # breaks a ligature; safe text never contains the NUL itself
    if character in _LATEX:
        return _LATEX[character]
    base, *marks = unicodedata.normalize("NFD", character)
    accented = base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _PLAIN_ACCENTS
    if character.isascii() or accented or character in _PLAIN_LETTERS:
        return character
    return rf"\texttt{{U+{ord(character):04X}}}"

"""A table: prompts down, outputs across."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from remote_mi.common.errors import NotFound
from remote_mi.common.text import fit, line
from remote_mi.recipes import figures
from remote_mi.report.kinds.texts import token_texts
from remote_mi.report.wording import Slice, row_name, table_columns
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

_NUMBER_WIDTH = 12
_NARROWEST = 7
_PROMPT_WIDTH = 20


def table(figure: figures.Table, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """One row an example: its text, numbers and tokens."""
    names = (figure.output, *figure.columns)
    columns = table_columns(figure, result)
    wide = max(_NARROWEST, min(_NUMBER_WIDTH, (width - _PROMPT_WIDTH) // len(names) - 1))
    left = max(_PROMPT_WIDTH, width - (wide + 1) * len(names))
    heads = "".join(
        f" {fit(name, wide)}"
        if result.outputs[name].kind == "token"
        else f" {fit(name, wide).rstrip():>{wide}}"
        for name in names
    )
    yield Text(fit(" prompt", left) + heads, "bold", no_wrap=True)
    for index in range(len(columns[0])):
        text = f" {row_name(result, index)}"
        cells = "".join(f" {_cell(result, column[index], wide)}" for column in columns)
        yield Text(fit(text, left) + cells, no_wrap=True)


def _cell(result: Result, array: NamedArray, wide: int) -> str:
    if result.outputs[array.name].kind == "token":
        return fit(" ".join(line(t) for t in token_texts(result, array.values)), wide)
    if array.values.ndim:
        raise NotFound(f"{array.name!r} is not a single number", "a table shows single numbers")
    value = float(array)
    whole = array.values.dtype.kind in "iub"
    return f"{int(value):{wide}d}" if whole else f"{value:{wide}.3f}"

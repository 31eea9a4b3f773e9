"""Tables: a row per prompt, a column per output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup
from rich.text import Text

from remote_mi.common.errors import NotFound
from remote_mi.common.text import counted, distinguishable, line, pad_or_cut
from remote_mi.recipes.figures import Table
from remote_mi.recipes.figures import Text as TextFigure
from remote_mi.recipes.output_kinds import OutputKind, kind_of_output
from remote_mi.recipes.outputs import DRAW
from remote_mi.report.kinds.cells import Row, existing_prompts, plain_number
from remote_mi.report.kinds.kind import Kind, Layout
from remote_mi.report.kinds.sentences import MOST, shorten
from remote_mi.report.listing import Item, Listing, make_listing
from remote_mi.report.markup import PagePlace, render_figure
from remote_mi.report.values import value_text
from remote_mi.report.wording import Slice, format_amount
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

_NUMBER_WIDTH = 12
_NARROWEST = 7
_SHOWN_OF_PROMPT, _LONGEST_PROMPT = 400, 20_000
_PROMPT_WIDTH = 20
_EMPTY = "∅"


@dataclass(frozen=True)
class Column:
    """One output of a table.

    Attributes:
        name: name of the output. kind: kind of the output. cells: one per row.
        passages: whether its tokens are texts, along their last dimension.
    """

    name: str
    kind: OutputKind
    cells: list[NamedArray]
    passages: bool = False

    @property
    def numeric(self) -> bool:
        return self.kind.averaged


@dataclass(frozen=True)
class TableLayout(Layout):
    """The columns of a table, all of the same length."""

    figure: Table
    columns: list[Column]

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.columns[0].cells)

    def name(self, index: int, most: int = _SHOWN_OF_PROMPT) -> str:
        """The name of a row: its prompt, or its number if there are no prompts.

        Args:
            most: characters of the prompt after which it is cut.
        """
        prompts = self.result.prompts
        return line(prompts[index]["clean"], most) if prompts else str(index + 1)

    def cell(self, column: Column, index: int) -> str:
        """A number, or the tokens or texts of a row, safe to show."""
        array = column.cells[index]
        if not column.numeric:
            return (" | " if column.passages else " ").join(self._texts(column, index))
        whole = array.values.dtype.kind in "iub"
        return str(int(array.values)) if whole else f"{float(array.values):.3f}"

    def _texts(self, column: Column, index: int) -> list[str]:
        values = column.cells[index].values
        if column.passages:
            rows = values.reshape(-1, values.shape[-1])
            return [line(self.result.passage(row)) or _EMPTY for row in rows]
        values = values.reshape(-1)
        tokens = column.kind.name == "token"
        return [
            value_text(self.result, column.kind.name, value)
            for value in values
            if not tokens or value >= 0
        ]

    def terminal_cell(self, column: Column, index: int, wide: int) -> str:
        """A cell of a table in a terminal."""
        if column.numeric:
            return f"{self.cell(column, index):>{wide}}"
        return pad_or_cut(self.cell(column, index).replace("␠", " "), wide)


class TableKind(Kind[Table, TableLayout]):
    """One row per prompt: its text, numbers and tokens."""

    prompts_shown = "each"
    noun = "Table"

    def layout(self, figure: Table, result: Result, slice_: Slice) -> TableLayout:
        names = (figure.output, *figure.columns)
        shown = {one.output for one in result.card.figures if isinstance(one, TextFigure)}
        columns = []
        for name in names:
            kind, cells = kind_of_output(result.outputs[name]), result.each(name)
            passages = kind.name == "token" and name in shown
            cells = _as_counts(_over_draws(cells)) if kind.averaged else cells
            columns.append(Column(name, kind, cells, passages))
        for column in columns:
            if len(column.cells) != len(columns[0].cells):
                raise NotFound(
                    f"{column.name!r} has {len(column.cells)} values, {figure.output!r} "
                    f"{len(columns[0].cells)}: they do not fit into one table"
                )
            if column.numeric and any(cell.values.ndim for cell in column.cells):
                raise NotFound(
                    f"{column.name!r} is not a single number", "a table shows single numbers"
                )
        return TableLayout(figure, result, slice_, columns)

    def text(self, layout: TableLayout, width: int) -> Iterator[Text]:
        columns = layout.columns
        left, widths = _widths(columns, width)
        heads = "".join(
            f" {pad_or_cut(c.name, wide).rstrip():>{wide}}"
            if c.numeric
            else f" {pad_or_cut(c.name, wide)}"
            for c, wide in zip(columns, widths, strict=True)
        )
        yield Text(pad_or_cut(" prompt", left) + heads, "bold", no_wrap=True)
        whole = [layout.name(index, _LONGEST_PROMPT) for index in range(layout.count)]
        names = distinguishable(whole, left - 1)
        for index, name in enumerate(names):
            text = f" {name}"
            cells = "".join(
                f" {layout.terminal_cell(column, index, wide)}"
                for column, wide in zip(columns, widths, strict=True)
            )
            yield Text(pad_or_cut(text, left) + cells, no_wrap=True)

    def sentences(self, layout: TableLayout) -> Iterator[str]:
        yield f"{counted(layout.count, 'row')}, one per prompt."
        for column in layout.columns:
            yield (
                _describe_numbers(layout, column)
                if column.numeric
                else _describe_texts(layout, column)
            )

    def html(self, layout: TableLayout, place: PagePlace) -> Markup:
        rows = [
            [layout.name(i), *(layout.cell(column, i) for column in layout.columns)]
            for i in range(layout.count)
        ]
        return render_figure(
            "table.html.j2",
            layout.figure,
            place,
            heads=["prompt", *(column.name for column in layout.columns)],
            rows=rows,
            numeric=[False, *(column.numeric for column in layout.columns)],
        )

    def rows(
        self, figure: Table, result: Result, each: Sequence[int] | None
    ) -> tuple[list[str], list[Row]]:
        layout = self.layout(figure, result, Slice())
        rows = []
        for index in existing_prompts(range(layout.count) if each is None else each, layout.count):
            cells = [
                plain_number(column.cells[index].values)
                if column.numeric
                else layout.cell(column, index)
                for column in layout.columns
            ]
            rows.append([layout.name(index), *cells])
        return ["prompt", *(column.name for column in layout.columns)], rows

    def listing(
        self, layout: TableLayout, width: int, height: int, at: tuple[int, int] | None = None
    ) -> Listing:
        head, *drawn = self.text(layout, width)
        return make_listing(
            [(text, Item(tuple(_explain_row(layout, i)))) for i, text in enumerate(drawn)], [head]
        )

    def keep_outputs(self, figure: Table, outputs: Sequence[str]) -> Table:
        return replace(figure, columns=tuple(c for c in figure.columns if c in outputs))


def _widths(columns: Sequence[Column], width: int) -> tuple[int, list[int]]:
    """The width of the prompt and of each column; passages share what the others leave."""
    wide = max(_NARROWEST, min(_NUMBER_WIDTH, (width - _PROMPT_WIDTH) // len(columns) - 1))
    passages = sum(column.passages for column in columns)
    if not passages:
        return max(_PROMPT_WIDTH, width - (wide + 1) * len(columns)), [wide] * len(columns)
    wide = _NARROWEST
    left = max(_PROMPT_WIDTH, width // 3)
    rest = width - left - (wide + 1) * (len(columns) - passages)
    of_text = max(_NUMBER_WIDTH, rest // passages - 1)
    return left, [of_text if column.passages else wide for column in columns]


def _over_draws(column: list[NamedArray]) -> list[NamedArray]:
    """Numbers of several draws as their mean."""
    if any(array.dims != (DRAW,) for array in column):
        return column
    return [
        replace(array, values=array.values.mean(0, dtype=np.float64), dims=(), coords={})
        for array in column
    ]


def _as_counts(column: list[NamedArray]) -> list[NamedArray]:
    """Whole numbers as integers: a count is stored as a float if it may be NaN."""
    values = [np.asarray(array.values) for array in column]
    if all(v.dtype.kind == "f" and not v.ndim and float(v).is_integer() for v in values):
        return [replace(array, values=array.values.astype(np.int64)) for array in column]
    return column


def _explain_row(layout: TableLayout, index: int) -> Iterator[str]:
    """The numbers of a row, then its prompt, and its corrupt prompt if it has one."""
    cells = (
        f"{float(c.cells[index]):.4g}" if c.numeric else layout.cell(c, index)
        for c in layout.columns
    )
    values = (f"{c.name} {cell}" for c, cell in zip(layout.columns, cells, strict=True))
    yield f"prompt {index + 1}: {', '.join(values)}"
    if index < len(layout.result.prompts):
        prompt = layout.result.prompts[index]
        yield line(str(prompt["clean"]))
        if prompt.get("corrupt"):
            yield line(str(prompt["corrupt"]))


def _describe_texts(layout: TableLayout, column: Column) -> str:
    """The first token or text of each row, with how often each occurs."""
    if column.passages:
        return f"{column.name}: the text of each row."
    firsts = (np.reshape(cell.values, -1)[0] for cell in column.cells if cell.values.size)
    counts = Counter(shorten(value_text(layout.result, column.kind.name, one)) for one in firsts)
    parts = [
        f"{f'“{text}”' if text != '∅' else 'nothing'} {'once' if times == 1 else f'{times} times'}"
        for text, times in counts.most_common(MOST)
    ]
    more = f", and {len(counts) - MOST} others" if len(counts) > MOST else ""
    return f"{column.name}, the first of each row: {', '.join(parts)}{more}."


def _describe_numbers(layout: TableLayout, column: Column) -> str:
    """The mean of a column with its interval, the smallest and the largest value."""
    figure, name = layout.figure, column.name
    numbers = np.array([float(cell) for cell in column.cells])
    if not np.isfinite(numbers).any():
        return f"{name}: no values."
    unit = f" {figure.unit}" if figure.unit and name == figure.output else ""
    text = f"{name}: mean {format_amount(float(np.nanmean(numbers)))}{unit}"
    over = layout.result[name] if name in layout.result.arrays else None
    if over is not None and over.low is not None and over.high is not None:
        text += f", 95% CI [{format_amount(over.low)}, {format_amount(over.high)}]"
    if len(numbers) > 1:
        low, high = int(np.nanargmin(numbers)), int(np.nanargmax(numbers))
        text += (
            f", from {format_amount(numbers[low])} (prompt {low + 1}) "
            f"to {format_amount(numbers[high])} (prompt {high + 1})"
        )
    return text + "."

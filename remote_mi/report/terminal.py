"""Figures as text for a terminal, a pipe, a notebook or a test: the one renderer."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.rule import Rule
from rich.style import Style
from rich.text import Text

from remote_mi.errors import NotFound
from remote_mi.figures import Bars, Figure, Heatmap, Table, TokenGrid
from remote_mi.report import colors, grid
from remote_mi.report.text import fit, line, visible
from remote_mi.results import NamedArray, Result

PLAIN_WIDTH = 80


def show(result: Result, console: Console, only: str | None = None, item: int = 0) -> None:
    """Print a result: heading, figures, notes, and what to type next.

    Args:
        only: name of the one figure to show. item: which prompt a figure of one prompt shows.

    Raises:
        NotFound: if the recipe declares no figure of that name.
    """
    figures = picked(result.figures, only)
    for text in heading(result):
        console.print(text, soft_wrap=False, overflow="ellipsis", no_wrap=True)
    for figure in figures:
        console.print()
        console.print(Rule(Text(_title(figure, result)), align="left", characters="─"))
        for text in figure_lines(figure, result, console.width, item):
            console.print(text, overflow="crop" if text.no_wrap else "fold")
    for note in result.notes:
        console.print(Text(f"note: {line(note)}", style="yellow"))


def picked(figures: Sequence[Figure], only: str | None) -> Sequence[Figure]:
    """All figures, or the one of a name.

    Raises:
        NotFound: naming those there are.
    """
    if only is None:
        return figures
    found = [f for f in figures if only in (f.name, f.output, f.kind)]
    if not found:
        names = ", ".join(f.name for f in figures)
        raise NotFound(f"there is no figure {only!r}", f"there are: {names}")
    return found


def plain_text(result: Result, width: int = PLAIN_WIDTH) -> str:
    """A result as text without colour."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    show(result, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def heading(result: Result) -> Iterator[Text]:
    """Recipe, run, model, where it was computed, and whether it came from the cache."""
    source = result.provenance
    id8 = result.run_id.rsplit("-", 1)[-1] or "not kept"
    model = source.get("model", {}).get("name", "?")
    environment = source.get("environment", {}).get("kind", "?")
    record = source.get("record", {})
    where = f"{environment}/{record.get('dtype', '?')}" if "dtype" in record else environment
    name = result.recipe["name"]
    parts = [name, f"{id8} ✓", line(str(model)), where]
    yield Text("  ".join(["remote-mi", *parts]), style="bold")
    given = ", ".join(f"{k}={line(str(v))}" for k, v in source.get("parameters", {}).items())
    prompts = source.get("prompts", {})
    count = len(result.prompts)
    unit = "pair" if result.prompts and result.prompts[0].get("corrupt") else "prompt"
    many = f"{count} {unit}{'s' if count != 1 else ''}"
    parts = [f" cache: {source.get('cache', '?')}",
             f"{many} from {line(str(prompts.get('origin')))}"]  # fmt: skip
    yield Text(" · ".join([*parts, given] if given else parts), style="dim")


def _title(figure: Figure, result: Result) -> str:
    unit = f" [{figure.unit}]" if figure.unit else ""
    return f"{figure.name}{unit}"


def figure_lines(figure: Figure, result: Result, width: int, item: int = 0) -> Iterator[Text]:
    """The lines of one figure."""
    renderers: dict[type[Figure], Callable[..., Iterator[Text]]] = {
        Heatmap: _heatmap,
        TokenGrid: _token_grid,
        Bars: _bars,
        Table: _table,
    }
    yield from renderers[type(figure)](figure, result, width, item)


def _matrix(figure: Heatmap, array: NamedArray) -> tuple[NamedArray, str, str]:
    """The array with its rows and columns as the last two dimensions; further ones at index 0."""
    rows = figure.rows or array.dims[-2]
    columns = figure.columns or array.dims[-1]
    for dim in [d for d in array.dims if d not in (rows, columns)]:
        array = array.sel(**{dim: array.coords[dim][0]})
    return array, rows, columns


def _heatmap(figure: Heatmap, result: Result, width: int, item: int) -> Iterator[Text]:
    array, rows, columns = _matrix(figure, result[figure.output])
    values = array.values if array.dims == (rows, columns) else array.values.T
    measure = grid.scale(values, figure.center)

    def cell(row: int, column: int, wide: int) -> tuple[str, Style]:
        strength, style = measure(values[row, column])
        return fit(colors.ramp(strength) + grid.number(values[row, column], wide - 1), wide), style

    yield from grid.draw(rows, array.coords[rows], array.coords[columns], cell, width)
    yield from _largest(figure, array, len(result.prompts))


def _largest(figure: Heatmap, array: NamedArray, n: int) -> Iterator[Text]:
    """One sentence that says where the largest value is, for readers who do not see colours."""
    values = array.values
    if not np.isfinite(values).any():
        return
    distance = np.abs(np.where(np.isfinite(values), values - (figure.center or 0.0), 0.0))
    index = np.unravel_index(int(distance.argmax()), values.shape)
    where = _where(array, index)
    yield Text(f" ▸ largest: {where} · {_with_interval(array, index, n)}")


def _where(array: NamedArray, index: Sequence[Any]) -> str:
    parts = []
    for dim, at in zip(array.dims, index, strict=True):
        label = array.coords[dim][at]
        if dim == "position" and all(str(c).startswith("[") for c in array.coords[dim]):
            parts.append(f"position {visible(str(label))}")  # aligned by label: no index of its own
            continue
        text = f"{dim} {at}" if label == at else f"{dim} {at} {visible(str(label))}"
        parts.append(text)
    return " · ".join(parts)


def _with_interval(array: NamedArray, index: Any, n: int) -> str:
    text = f"{array.name} {array.values[tuple(index)]:.2f}"
    if array.low is not None and array.high is not None:
        low, high = array.low[tuple(index)], array.high[tuple(index)]
        return f"{text}, 95% CI [{low:.2f}, {high:.2f}], n={n}"
    return f"{text}, n={n}"


def _bars(figure: Bars, result: Result, width: int, item: int) -> Iterator[Text]:
    array = result[figure.output]
    flat = np.where(np.isfinite(array.values), array.values, 0.0).reshape(-1)
    if not np.isfinite(array.values).any():
        yield Text(" no values to rank", style="dim")
        return
    order = np.argsort(-np.abs(flat), kind="stable")[: figure.most]
    reach = float(np.abs(flat).max()) or 1.0
    names = [_where(array, np.unravel_index(int(i), array.shape)) for i in order]
    left = min(max(len(n) for n in names), width // 2)
    for name, index in zip(names, order, strict=True):
        at = np.unravel_index(int(index), array.shape)
        value = float(flat[index])
        bar = "█" * round(abs(value) / reach * 16)
        text = Text(f" {fit(name, left)} {value:+7.2f} ")
        text.append(fit(bar, 16), colors.diverging(np.sign(value)).color and _bar_style(value))
        if array.low is not None and array.high is not None:
            text.append(f" [{array.low[at]:+.2f}, {array.high[at]:+.2f}]", "dim")
        yield text


def _bar_style(value: float) -> Style:
    return Style(color="orange1" if value > 0 else "dodger_blue1")


def _token_grid(figure: TokenGrid, result: Result, width: int, item: int) -> Iterator[Text]:
    every = result.each(figure.output)
    if not 0 <= item < len(every):
        raise NotFound(f"there is no prompt {item + 1}", f"there are {len(every)}")
    tokens = every[item]
    shade = result.each(figure.shade)[item] if figure.shade else None
    dims = tokens.dims
    top = tokens.values[..., 0]
    shades = shade.values[..., 0] if shade is not None else np.ones(top.shape)

    def cell(row: int, column: int, wide: int) -> tuple[str, Style]:
        strength = float(shades[row, column])
        text = visible(result.text(top[row, column]))
        return colors.ramp(strength) + fit(text, wide - 1), colors.sequential(strength)

    if len(every) > 1:
        yield Text(f" prompt {item + 1} of {len(every)}: {line(result.prompts[item]['clean'])}")
    yield from grid.draw(dims[0], tokens.coords[dims[0]], tokens.coords[dims[1]], cell, width, 8)
    final = top[-1, -1], float(shades[-1, -1])
    yield Text(f" ▸ after the last layer, at the last position: {visible(result.text(final[0]))}"
               f" · {figure.shade or 'shade'} {final[1]:.2f}")  # fmt: skip


def _table(figure: Table, result: Result, width: int, item: int) -> Iterator[Text]:
    names = (figure.output, *figure.columns)
    columns = {name: result.each(name) for name in names}
    number_width = 12
    left = max(20, width - (number_width + 1) * len(names) - 1)
    yield Text(fit(" prompt", left) + "".join(f" {fit(n, number_width)}" for n in names), "bold")
    for index in range(len(columns[figure.output])):
        text = f" {line(result.prompts[index]['clean'])}"
        numbers = "".join(f" {float(columns[n][index]):{number_width}.3f}" for n in names)
        yield Text(fit(text, left) + numbers)

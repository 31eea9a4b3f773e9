"""A comparison of two results as text: differences in configuration, numbers and figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from remote_mi.common.console import print_heading, printed_text
from remote_mi.common.text import line, pad_or_cut
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.output_kinds import KINDS
from remote_mi.report.contrast import show_contrast
from remote_mi.report.kinds.registry import kind_of
from remote_mi.report.notebook import printed_html
from remote_mi.report.terminal import PLAIN_WIDTH, figure_lines, select_figures
from remote_mi.report.values import value_text
from remote_mi.report.wording import Slice, place_text
from remote_mi.store.comparison import Comparison, Difference
from remote_mi.store.result import Result

_NAME, _OF = 20, 10
#: Maximum cells of a value.
_VALUE = 30
#: Differences below this share of the common scale are invisible as colours and digits.
_SEEN = 0.005


def show(
    comparison: Comparison,
    console: Console,
    only: str | None = None,
    tolerance: float | None = None,
) -> None:
    """Print a comparison: what was compared, configuration, numbers, figures.

    Args:
        only: name of the one output or figure to show. tolerance: outputs beyond it are marked.

    Raises:
        NotFound: if there is no output of that name.
    """
    width = console.width
    for text in _heading(comparison):
        console.print(text, overflow="ellipsis", no_wrap=True)
    for title, texts in (
        ("configuration", _configuration(comparison, width)),
        ("numbers", _numbers(comparison.only(only), width, tolerance)),
    ):
        print_heading(title, console)
        for text in texts:
            console.print(text, overflow="crop" if text.no_wrap else "fold")
    contrast = comparison.only(only).contrast
    if contrast is not None:
        print_heading("paired by prompt", console)
        show_contrast(contrast, console)
    for title, texts in _figures(comparison, only, width):
        print_heading(title, console)
        for text in texts:
            console.print(text, overflow="crop" if text.no_wrap else "fold")


def plain_text(comparison: Comparison, width: int = PLAIN_WIDTH) -> str:
    """A comparison as text without colour."""
    return printed_text(partial(show, comparison), width)


def html(comparison: Comparison) -> str:
    """A comparison as one HTML element, for a notebook."""
    return printed_html(partial(show, comparison))


def _heading(comparison: Comparison) -> Iterator[Text]:
    for letter, result in (("a", comparison.a), ("b", comparison.b)):
        made = result.made
        where = f"{made.kind}/{made.record.dtype or '?'}"
        parts = [result.name, result.id8 or "not kept", made.model.name, where]
        yield Text(f" {letter}  " + "  ".join(line(p) for p in parts), style="bold")


def _configuration(comparison: Comparison, width: int) -> Iterator[Text]:
    """The differing settings, one line each; long values are cut."""
    prompts = comparison.prompts
    if not comparison.configuration and prompts.equal:
        yield Text(" nothing differs")
    left = max((len(s.path) for s in comparison.configuration), default=0)
    left = min(left, width // 3)
    room = max(8, (width - left - 7) // 2)
    for setting in comparison.configuration:
        a, b = (_setting_text(v) for v in (setting.a, setting.b))
        yield Text(
            f" {pad_or_cut(line(setting.path), left)}  {pad_or_cut(a, room)}  → {pad_or_cut(b, room)}".rstrip(),
            no_wrap=True,
        )
    if not prompts.equal:
        yield Text(f" prompts: {prompts.same} in common, of {prompts.a} and {prompts.b}")
    if prompts.first is not None:
        number = prompts.first["index"] + 1
        for name, (a, b) in list(prompts.first["fields"].items())[:3]:
            yield Text(f"   the first difference is in prompt {number}, {name}:")
            for letter, value in (("a", a), ("b", b)):
                yield Text(
                    f"     {letter}  {pad_or_cut(_setting_text(value), width - 9)}".rstrip(),
                    no_wrap=True,
                )


def _setting_text(value: Any) -> str:
    return "–" if value is None else line(str(value)) or "''"


def _numbers(comparison: Comparison, width: int, tolerance: float | None) -> Iterator[Text]:
    """One row per output: how large the difference is, and where."""
    head = f" {pad_or_cut('output', _NAME)} {pad_or_cut('of', _OF)}{'largest':>8} {'mean':>8} {'scale':>8}  where"
    yield Text(head, "bold", no_wrap=True)
    beyond = [] if tolerance is None else comparison.beyond(tolerance)
    for difference in comparison.outputs:
        over = any(difference is other for other in beyond)
        for text in _row(comparison, difference, width):
            yield Text(("!" if over else " ") + text, "bold" if over else "", no_wrap=True)
    if tolerance is not None:
        bad = ", ".join(dict.fromkeys(line(d.name) for d in beyond))
        yield Text(
            f" ! beyond the tolerance of {tolerance:g}: {bad}"
            if beyond
            else f" all within the tolerance of {tolerance:g}"
        )


def _row(comparison: Comparison, difference: Difference, width: int) -> Iterator[str]:
    """The lines of one output: its numbers, and the place, on a second line if it does not fit."""
    count = len(comparison.a.prompts)
    of = f"each of {count}" if difference.each else "all" if count > 1 else ""
    left = f"{pad_or_cut(line(difference.name), _NAME)} {pad_or_cut(of, _OF)}"
    if difference.why_not:
        yield left
        yield f"   not comparable: {line(difference.why_not)}"
        return
    if not difference.cells:
        yield f"{left} no values"
        return
    place = _place_with_values(comparison, difference)
    if not difference.numbers:
        noun = KINDS[difference.kind].plural
        yield f"{left} {difference.differing} of {difference.cells} {noun} differ"
        if difference.differing:
            yield f"   {place}"
        return
    numbers = (difference.largest, difference.mean, difference.scale)
    row = left + " ".join(map(_format_number, numbers))
    if difference.unmatched:
        yield row
        yield (
            f"   {difference.unmatched} of {difference.cells} cells are not finite in one run, or "
            f"not in the same way; the first: {place}"
        )[: width - 1]
    elif difference.largest == 0:
        yield f"{row}  identical"
    elif len(row) + 3 + len(place) < width:
        yield f"{row}  {place}"
    else:
        yield row
        yield f"   {pad_or_cut(place, width - 5).rstrip()}"


def _place_with_values(comparison: Comparison, difference: Difference) -> str:
    """The place of the largest difference, with both values."""
    parts = [f"prompt {difference.prompt + 1}"] if difference.prompt is not None else []
    source = comparison.a
    arrays = source.each(difference.name) if difference.each else [source[difference.name]]
    at = place_text(arrays[difference.prompt or 0], difference.index)
    parts += [at] if at else []
    if difference.values is not None:
        shown = [
            pad_or_cut(value_text(result, difference.kind, value), _VALUE).rstrip()
            for result, value in zip((comparison.a, comparison.b), difference.values, strict=True)
        ]
        parts.append(f"{shown[0]} → {shown[1]}")
    return " · ".join(parts)


def _format_number(value: float) -> str:
    return f"{value:8.2g}" if value and not 0.01 <= abs(value) < 1000 else f"{value:8.3f}"


def _figures(
    comparison: Comparison, only: str | None, width: int
) -> Iterator[tuple[str, Iterator[Text]]]:
    """(title, lines) of the first figure of each output: for a, b, and their difference."""
    a, b = comparison.a, comparison.b
    by_name = {d.name: d for d in comparison.outputs if not d.each}
    for figure in select_figures(a, only) if only is None or only in a.names() else []:
        difference = by_name.pop(figure.output, None)
        if difference is None or figure.output not in b.names():
            continue
        name, kind = figure.name, kind_of(figure)
        # Another recipe may have an output of this name but lack the figure's other outputs.
        figure = kind.keep_outputs(figure, [c for c in a.outputs if c in b.outputs])
        if not difference.why_not and difference.relative == 0:
            yield f"{name}: a and b are identical", figure_lines(figure, a, width)
            continue
        slice_ = Slice(limits=_limits(a, b, figure))
        for letter, result in (("a", a), ("b", b)):
            if figure.output in result.arrays or not kind.numeric:
                yield f"{name}: {letter}", figure_lines(figure, result, width, slice_)
        if not difference.why_not and kind.numeric and difference.numbers:
            yield f"{name}: b − a", _difference(comparison, figure, difference, width, slice_)


def _limits(a: Result, b: Result, figure: Figure) -> tuple[float, float] | None:
    """The common range of the values of both; None if they are not numbers."""
    if not kind_of(figure).numeric:
        return None
    both = [r[figure.output].values.reshape(-1) for r in (a, b) if figure.output in r.arrays]
    values = np.concatenate([v[np.isfinite(v)] for v in both]) if both else np.zeros(0)
    return (float(values.min()), float(values.max())) if values.size else None


def _difference(
    comparison: Comparison, figure: Figure, difference: Difference, width: int, slice_: Slice
) -> Iterator[Text]:
    """b − a on the common scale; a sentence if it is too small to be visible."""
    name = figure.output
    low, high = slice_.limits or (0.0, 0.0)
    center = getattr(figure, "center", None)
    reach = high - low if center is None else max(abs(low - center), abs(high - center))
    if not difference.unmatched and difference.largest < _SEEN * (reach or 1.0):
        share = f", {difference.largest / reach:.1e} of the scale" if reach else ""
        yield Text(f" too small to see on this scale: at most {difference.largest:.2g}{share}")
        return
    a, b = comparison.a, comparison.b
    values = b.arrays[name].astype(np.float64) - a.arrays[name]
    shown = Result({**a.recipe, "controls": {}}, a.document, {name: values}, a.provenance)
    figure = kind_of(figure).for_difference(figure)
    yield from figure_lines(figure, shown, width, replace(slice_, limits=(-reach, reach)))

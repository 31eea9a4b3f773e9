"""Figures as text, for a terminal, a pipe, a notebook or a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from remote_mi.common.authors_code import contained
from remote_mi.common.console import printed_text
from remote_mi.common.errors import NotFound, UsageError
from remote_mi.common.text import counted, line, prose
from remote_mi.recipes import figures
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.report.kinds.registry import lay_out
from remote_mi.report.listing import wrap
from remote_mi.report.slices import check_cut
from remote_mi.report.wording import Slice, verdict_text
from remote_mi.store.result import Result

PLAIN_WIDTH = 80
ALL = Slice()


def show(result: Result, console: Console, only: str | None = None, slice_: Slice = ALL) -> None:
    """Print a result: heading, figures, notes, and what to type next.

    Of several figures, one that cannot be shown does not keep back the others.

    Args:
        only: name of the one figure to show. slice_: which part of the arrays is shown.

    Raises:
        NotFound: if the recipe declares no figure of that name, or a figure lacks what a slice
            names. UsageError: if no figure is cut in a dimension of the slice. Either of them: if
            the only figure cannot be shown.
    """
    chosen = select_figures(result, only)
    check_cut(chosen, result, slice_)
    for text in heading(result):
        console.print(text, soft_wrap=False, overflow="ellipsis", no_wrap=True)
    if verdict := verdict_text(result):
        console.print(Text(f" {verdict}", style="bold"))
    said: set[str] = set()
    for figure in chosen:
        console.print()
        console.print(Rule(Text(_title(figure)), align="left", characters="─"))
        try:
            lines = figure_lines(figure, result, console.width, slice_)
            readings = figure_readings(figure, result, slice_)
        except (NotFound, UsageError) as error:
            if len(chosen) == 1 or slice_ != ALL:
                raise
            lines = iter([Text(f" cannot be shown: {prose(error.message)}", style="yellow")])
            readings = []
        for text in lines:
            console.print(text, overflow="crop" if text.no_wrap else "fold")
        for reading in readings:
            if reading not in said:
                for text in wrap(f"→ {reading}", console.width, indent=" "):
                    console.print(text)
            said.add(reading)
    for note in result.notes:
        console.print(Text(f"note: {line(note)}", style="yellow"))


def select_figures(result: Result, only: str | None) -> Sequence[Figure]:
    """The figures of a result, or the ones with a name; an output without any gets a default one.

    Raises:
        NotFound: if there is no such figure or output, with the names there are.
    """
    every = result.figures or [plain_figure(result, name) for name in result.names()]
    if only is None:
        return every
    found = [f for f in every if only in (f.name, f.output, f.kind)]
    if not found:  # a figure of a ratio that is not given is asked for by its own name
        declared = [f for f in result.card.figures if only in (f.name, f.output)]
        found = list(dict.fromkeys(map(result.shown_figure, declared)))
    if not found and only in result.names():
        found = [plain_figure(result, only)]
    if not found:
        names = ", ".join(dict.fromkeys([*(f.name for f in every), *result.names()]))
        raise NotFound(f"there is no figure {only!r}", f"there are: {names}")
    return found


def plain_figure(result: Result, name: str) -> Figure:
    """A default figure for an output or summary for which the recipe declares none."""
    output = result.outputs.get(name)
    if not kind_of_output(output).averaged:
        return figures.Text(name)
    values = result.arrays.get(name)
    wide = values is not None and values.ndim > 1
    return figures.Heatmap(name) if wide else figures.Bars(name, title=name)


def plain_text(result: Result, width: int = PLAIN_WIDTH) -> str:
    """A result as text without colour."""
    return printed_text(partial(show, result), width)


def heading(result: Result) -> Iterator[Text]:
    """Recipe, run, model, where it was computed, and whether it came from the cache."""
    made, count = result.made, len(result.prompts)
    dtype = made.record.dtype
    where = f"{made.kind}/{dtype}" if dtype else made.kind
    parts = [line(result.name), f"{line(result.id8) or 'not kept'} ✓", line(made.model.name), where]
    yield Text(line("  ".join(["remote-mi", *parts])), style="bold")
    given = ", ".join(f"{line(k)}={line(str(v))}" for k, v in made.shown_parameters.items())
    unit = "pair" if result.prompts and result.prompts[0].get("corrupt") else "prompt"
    many = f"{counted(count, unit)} from {line(str(made.prompts.origin))}"
    parts = [line(f" cache: {made.cache}"), many if count else "no prompts"]
    yield Text(" · ".join([*parts, given] if given else parts), style="dim")


def _title(figure: Figure) -> str:
    return line(f"{figure.name} [{figure.unit}]" if figure.unit else figure.name)


def figure_lines(figure: Figure, result: Result, width: int, slice_: Slice = ALL) -> Iterator[Text]:
    """The lines of one figure."""
    with contained():  # a kind of figure may be the project's own
        kind, layout = lay_out(figure, result, slice_)
        return iter(list(kind.text(layout, width)))


def figure_readings(figure: Figure, result: Result, slice_: Slice = ALL) -> list[str]:
    """What the numbers of one figure say, in sentences."""
    with contained():
        kind, layout = lay_out(figure, result, slice_)
        return list(kind.readings(layout))

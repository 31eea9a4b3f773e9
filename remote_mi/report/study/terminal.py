"""Claims and comparisons of a study in a terminal."""

from __future__ import annotations

from functools import partial

from rich.console import Console
from rich.table import Table
from rich.text import Text

from remote_mi.common.console import print_heading, printed_text
from remote_mi.common.text import line
from remote_mi.report.notebook import printed_html
from remote_mi.report.study.claims import ShownClaims
from remote_mi.report.study.comparisons import shown_comparison
from remote_mi.report.study.shown import ShownComparison, ShownTable
from remote_mi.report.terminal import PLAIN_WIDTH, figure_lines
from remote_mi.store.loaded_study import LoadedStudy

_STYLES = {"holds": "green", "fails": "red", "undecided": "yellow"}


def print_claims(claims: ShownClaims, console: Console) -> None:
    """Print the claims of a study with their verdicts, and notes."""
    print_heading("claims", console)
    console.print(rich_table(claims.table))
    for note in claims.notes:
        console.print(Text(f" {note}", style="dim"), overflow="fold")


def print_comparison(shown: ShownComparison, console: Console) -> None:
    """Print a comparison: its figure, its table, and notes."""
    print_heading(shown.title, console)
    if shown.figure is not None and shown.result is not None:
        for text in figure_lines(shown.figure, shown.result, console.width):
            console.print(text, overflow="crop" if text.no_wrap else "fold")
    if shown.table is not None:
        console.print(rich_table(shown.table))
    for note in shown.notes:
        console.print(Text(f" {note}", style="dim"), overflow="fold")


def print_study(study: LoadedStudy, console: Console) -> None:
    """Print a study's claims and comparisons, or how many of its points are done."""
    done = study.record.counts()["done"]
    title = Text(
        f"{line(study.record.title)}: {done} of {len(study.points)} points are done", "bold"
    )
    console.print(title)
    claims = ShownClaims(study.claims, study.record.withdrawn)
    if claims:
        print_claims(claims, console)
    for found in study.comparisons:
        print_comparison(shown_comparison(found), console)


def plain_text(study: LoadedStudy, width: int = PLAIN_WIDTH) -> str:
    """A study as text without colour."""
    return printed_text(partial(print_study, study), width)


def html(study: LoadedStudy) -> str:
    """A study as one HTML element, for a notebook."""
    return printed_html(partial(print_study, study))


def rich_table(shown: ShownTable) -> Table:
    """A table for a terminal."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for head, numeric in zip(shown.heads, shown.numeric, strict=True):
        table.add_column(Text(head), justify="right" if numeric else "left", overflow="fold")
    for row in shown.rows:
        table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    return table


def _style(cell: str) -> str:
    """The colour of a verdict, in addition to its word."""
    return next((style for word, style in _STYLES.items() if cell.split(";")[0] == word), "")

"""Claims and comparisons of a study in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from remote_mi.report.study.claims import ShownClaims
from remote_mi.report.study.shown import ShownComparison, ShownTable
from remote_mi.report.terminal import figure_lines

_STYLES = {"holds": "green", "fails": "red", "undecided": "yellow"}


def print_claims(claims: ShownClaims, console: Console) -> None:
    """Print the claims of a study with their verdicts, and notes."""
    _print_heading("claims", console)
    console.print(_table(claims.table))
    for note in claims.notes:
        console.print(Text(f" {note}", style="dim"), overflow="fold")


def print_comparison(shown: ShownComparison, console: Console) -> None:
    """Print a comparison: its figure, its table, and notes."""
    _print_heading(shown.title, console)
    if shown.figure is not None and shown.result is not None:
        for text in figure_lines(shown.figure, shown.result, console.width):
            console.print(text, overflow="crop" if text.no_wrap else "fold")
    if shown.table is not None:
        console.print(_table(shown.table))
    for note in shown.notes:
        console.print(Text(f" {note}", style="dim"), overflow="fold")


def _print_heading(title: str, console: Console) -> None:
    console.print()
    console.print(Rule(Text(title), align="left", characters="─"))


def _table(shown: ShownTable) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for head, numeric in zip(shown.heads, shown.numeric, strict=True):
        table.add_column(Text(head), justify="right" if numeric else "left", overflow="fold")
    for row in shown.rows:
        table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    return table


def _style(cell: str) -> str:
    """The colour of a verdict, in addition to its word."""
    return next((style for word, style in _STYLES.items() if cell.split(";")[0] == word), "")

"""Two results side by side: paired differences, and the agreement of maps, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from rich.console import Console
from rich.text import Text

from remote_mi.common.console import printed_text
from remote_mi.common.text import line
from remote_mi.report.notebook import printed_html
from remote_mi.report.study.shown import ShownTable, make_table, place_of_estimate
from remote_mi.report.study.terminal import rich_table
from remote_mi.report.terminal import PLAIN_WIDTH
from remote_mi.store.claims.estimates import Estimate
from remote_mi.store.contrasts.contrast import LEVEL, Contrast
from remote_mi.store.contrasts.paired import smallest_p


def contrast_table(rows: list[Mapping[str, Any]]) -> ShownTable:
    """One row per output: the difference b − a (of a map its largest), p, and how maps agree."""
    found = [_difference(row) for row in rows]
    maps = [row.get("agreement", {}) for row in rows]
    return make_table(
        ["output", "b − a", "at", "p", "cells that differ", "rank correlation", "overlap"],
        [
            [row["output"] for row in rows],
            found,
            ["" if e is None else place_of_estimate(e) for e in found],
            [row.get("p") for row in rows],
            [_differing(row) for row in rows],
            [same.get("correlation") for same in maps],
            [_overlap(same) for same in maps],
        ],
    )


def _difference(row: Mapping[str, Any]) -> Estimate | None:
    if "difference" not in row:
        return None
    return Estimate(row["difference"], row["low"], row["high"], row["n"], row["place"])


def _differing(row: Mapping[str, Any]) -> str:
    differing = row.get("cells_that_differ")
    return "" if differing is None or row["cells"] == 1 else f"{differing} of {row['cells']}"


def _overlap(same: Mapping[str, Any]) -> str:
    if not same:
        return ""
    return (
        f"{round(same['overlap'] * same['top'])} of {same['top']} ({same['chance']:.2g} by chance)"
    )


def show_contrast(contrast: Contrast, console: Console) -> None:
    """Print what two results say together."""
    rows = contrast.rows()
    if not rows:
        console.print(" they have no output of numbers in common")
        return
    console.print(rich_table(contrast_table(rows)))
    for note in _notes(rows):
        console.print(Text(f" {note}", style="dim"), overflow="fold")


def _notes(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    counts = [row["n"] for row in rows if "n" in row]
    if counts:
        yield (
            f"Paired by prompt, n = {min(counts)}; 95% intervals; p of a permutation test, of a map "
            f"corrected for all its cells; cells that differ have p < {LEVEL:g}."
        )
        if smallest_p(min(counts)) > LEVEL:
            yield f"With {min(counts)} prompts p is never below {smallest_p(min(counts)):.2g}."
    for why in dict.fromkeys(row["why_not"] for row in rows if row.get("why_not")):
        names = ", ".join(line(row["output"]) for row in rows if row.get("why_not") == why)
        yield f"Not paired: {names}: {line(why)}."


def plain_text(contrast: Contrast, width: int = PLAIN_WIDTH) -> str:
    """What two results say together, as text without colour."""
    return printed_text(partial(show_contrast, contrast), width)


def html(contrast: Contrast) -> str:
    """What two results say together, as one HTML element for a notebook."""
    return printed_html(partial(show_contrast, contrast))

"""`remote-mi export RUN`: one figure or table of a run as a file for a paper."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from remote_mi.cli.output import in_a_folder, print_json, say
from remote_mi.cli.view import coordinate
from remote_mi.common.errors import StoreError, UsageError
from remote_mi.recipes.outputs import Ratio
from remote_mi.report.wording import Slice
from remote_mi.store.opening import load_run
from remote_mi.store.result import Result


@click.command()
@click.argument("run", required=False)
@click.option("--figure", metavar="NAME", help="A figure, or an output: to .svg, .pdf or .png.")
@click.option(
    "--table", metavar="NAME", help="A figure, an output or a summary: to .csv, .json or .tex."
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where to; its ending says the format. A table goes to stdout as CSV without it.",
)
@click.option(
    "--item",
    type=click.IntRange(1),
    metavar="N",
    help="Which prompt: of a figure of one prompt, or a table's own values of it.",
)
@click.option("--each", is_flag=True, help="A table of the values of every prompt by itself.")
@click.option(
    "--at",
    multiple=True,
    metavar="DIM=VALUE",
    help="Where a figure with too many dimensions is cut, e.g. --at layer=18.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what was written as one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Print the file's name only.")
def export(
    *,
    run: str | None,
    figure: str | None,
    table: str | None,
    output: str | None,
    item: int | None,
    each: bool,
    at: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Save a figure or a table of a run; the newest run by default. A file that is there is
    written over.

    \b
    remote-mi export a1b2 --figure recovery -o recovery.pdf
    remote-mi export a1b2 --table recovery -o recovery.csv
    """
    result = load_run(run)
    if (each and (item or figure)) or (at and table):
        raise UsageError(
            "--each is of a table and without --item; --at is of a figure",
            "remote-mi export --help",
        )
    if (figure is None) == (table is None):
        raise UsageError(
            "choose --figure NAME or --table NAME", f"there are: {', '.join(_names(result))}"
        )
    if figure is not None:
        if output is None:
            raise UsageError("a figure needs a file", f"-o {figure.replace(' ', '-')}.svg")
        _figure(result, figure, Path(output), item, dict(coordinate(text) for text in at))
    else:
        assert table is not None
        every = range(len(result.prompts)) if each else None
        if output is None and as_json:
            raise UsageError("--json says what was written", "-o FILE.csv")
        if output is None:
            sys.stdout.write(_table(result, table, ".csv", [item - 1] if item else every))
            return
        text = _table(result, table, Path(output).suffix, [item - 1] if item else every)
        _keep(Path(output), text)
    if as_json:
        print_json({"run": result.run_id, "file": output, "shows": figure or table})
        return
    print(output)
    if not quiet:
        say("\nnext: remote-mi report   sets all figures, with the method and how to repeat it")


def _names(result: Result) -> list[str]:
    return list(dict.fromkeys([*(f.name for f in result.figures), *result.names()]))


def _figure(result: Result, name: str, path: Path, item: int | None, at: Mapping[str, Any]) -> None:
    """Save a figure; a choice that it has no use for is refused rather than passed over."""
    from remote_mi.report.images import save
    from remote_mi.report.kinds.registry import kind_of
    from remote_mi.report.slices import check_cut
    from remote_mi.report.terminal import select_figures

    figure = select_figures(result, name)[0]
    if item is not None and kind_of(figure).prompts_shown == "all":
        ratio = result.card.summaries.get(figure.output)
        effect = ratio.effect if isinstance(ratio, Ratio) else figure.output
        raise UsageError(
            f"{figure.name!r} is of all prompts together",
            f"the values of one: --table {effect} --item {item}",
        )
    slice_ = Slice((item or 1) - 1, at)
    check_cut([figure], result, slice_)
    in_a_folder(path)
    save(figure, result, path, slice_)


def _table(result: Result, name: str, ending: str, each: range | list[int] | None) -> str:
    from remote_mi.report.tables import format_table, table

    heads, rows = table(result, name, each)
    return format_table(heads, rows, ending, f"{name}, {result.name}")


def _keep(path: Path, text: str) -> None:
    in_a_folder(path)
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None

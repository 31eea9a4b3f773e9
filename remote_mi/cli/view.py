"""`remote-mi view`: the figures of a run."""

from __future__ import annotations

import click

from remote_mi.cli.output import say, stdout_console
from remote_mi.errors import RunFailed
from remote_mi.paths import project_folder
from remote_mi.report.text import line
from remote_mi.store.runs import Runs


@click.command()
@click.argument("run", required=False)
@click.option("--plain", is_flag=True, help="As text (the only way, for now).")
@click.option("--only", metavar="FIGURE", help="Show one figure.")
@click.option("--item", type=click.IntRange(1), default=1, metavar="N",
              help="Which prompt a figure of a single prompt shows.")  # fmt: skip
@click.option("--width", type=click.IntRange(40), metavar="N", help="Columns of the output.")
def view(run: str | None, plain: bool, only: str | None, item: int, width: int | None) -> None:
    """Show a run: full name, id, or the first digits of an id; the newest by default."""
    from remote_mi.report.terminal import show

    runs = Runs(project_folder())
    name = runs.find(run)
    info = runs.read_info(name)
    if info["status"] == "failed":
        raise RunFailed(f"the run {name} failed:\n  {line(str(info['error']))}",
                        "mend the cause and run it again")  # fmt: skip
    show(runs.read(name), stdout_console(width), only, item - 1)
    say("\nnext: remote-mi runs ls   lists the others")

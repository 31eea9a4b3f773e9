"""`remote-mi view`: show the figures of runs, full-screen or as text."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remote_mi.cli.output import COLUMNS, say, stdout_console
from remote_mi.common.errors import Mismatch, NotFound, RunFailed, UsageError
from remote_mi.common.paths import project_folder
from remote_mi.common.text import line
from remote_mi.report.wording import Slice
from remote_mi.store.opening import find_run

if TYPE_CHECKING:
    from remote_mi.report.viewer.opened_run import OpenedRun

#: Stands for the recorded run that comes with the package.
DEMO = "demo"


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--plain", is_flag=True, help="Print text, as into a pipe.")
@click.option("--only", metavar="FIGURE", help="Show one figure; full-screen, start with it.")
@click.option(
    "--item",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Prompt to show in figures of a single prompt.",
)
@click.option(
    "--at",
    multiple=True,
    metavar="DIM=VALUE",
    help="Where to slice a figure that has too many dimensions, e.g. --at layer=18.",
)
@click.option("--width", type=COLUMNS, metavar="N", help="Columns of the text.")
def view(
    runs: tuple[str, ...],
    plain: bool,
    only: str | None,
    item: int,
    at: tuple[str, ...],
    width: int | None,
) -> None:
    """Show runs: full names, ids, first digits of ids, or folders; the newest by default.

    On a terminal, the first opens full-screen and the others are marked in the list of runs; `?`
    explains the keys. Into a pipe, or with --plain, their figures are printed.

    \b
    remote-mi view demo                  a recorded run that comes with the package
    remote-mi runs ls -q | remote-mi view -
    """
    slice_ = Slice(item - 1, dict(parse_coordinate(text) for text in at))
    folders = [_find_folder(run) for run in _expand_names(runs)]
    if plain or width is not None or not _has_terminal():
        _print_figures(folders, only, slice_, width)
    else:
        _open_viewer(folders, only, slice_)


def _expand_names(runs: tuple[str, ...]) -> list[str | None]:
    """The names of the runs to show, with `-` replaced by the names read from stdin."""
    if not runs:
        return [None]
    names: list[str | None] = []
    for run in runs:
        names += sys.stdin.read().split() if run == "-" else [run]
    if not names:
        raise UsageError(
            "there are no ids on stdin", "e.g. remote-mi runs ls -q | remote-mi view -"
        )
    return names


def _find_folder(run: str | None) -> Path:
    if run == DEMO:
        from remote_mi.report.viewer.demo import demo_run

        return demo_run()
    try:
        return find_run(run).path
    except NotFound as error:
        if run is not None:
            raise
        raise NotFound(error.message, "remote-mi view demo   shows a recorded one") from None


def _has_terminal() -> bool:
    """Whether stdout is a terminal that can show the viewer."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _open_viewer(folders: list[Path], only: str | None, slice_: Slice) -> None:
    from remote_mi.report.viewer.app import INTERRUPTED, Viewer
    from remote_mi.store.opening import sibling_runs
    from remote_mi.store.runs import Runs

    if not sys.stdin.isatty():  # it held the run ids: read keys from the terminal instead
        try:
            os.dup2(os.open("/dev/tty", os.O_RDONLY), 0)
        except OSError:
            raise UsageError("there is no terminal to read keys from", "add --plain") from None
    for name in ("COLUMNS", "LINES"):  # if exported by a shell, they would override a resize
        os.environ.pop(name, None)
    project = project_folder()
    runs = Runs(project) if folders[0].parent == project / "runs" else sibling_runs(folders[0])
    app = Viewer(folders[0], project, runs, folders[:2] if len(folders) > 1 else [], only, slice_)
    app.run()
    if app.return_code in (None, 0, INTERRUPTED):  # else Textual has reported a bug of ours
        say(f"next: {_view_command(app.opened)} --plain   prints the same figures")
    if app.return_code:
        raise click.exceptions.Exit(app.return_code)


def _view_command(opened: OpenedRun) -> str:
    """The command that shows a run."""
    from remote_mi.report.viewer.demo import demo_run

    return f"remote-mi view {DEMO if opened.folder == demo_run() else opened.argument}"


def _print_figures(folders: list[Path], only: str | None, slice_: Slice, width: int | None) -> None:
    """Print the figures of every run; afterwards, raise the error of the last failed one, if any."""
    from remote_mi.report.terminal import show
    from remote_mi.report.viewer.opened_run import open_run

    console = stdout_console(width)
    failure: RunFailed | Mismatch | None = None
    for index, folder in enumerate(folders):
        opened = open_run(folder)
        if opened.result is None:
            if failure is not None:
                say(f"error: {failure}")
            failure = (
                _run_error(opened) if opened.failed else Mismatch(opened.problem, opened.advice)
            )
            continue
        if index:
            console.print()
        show(opened.result, console, only, slice_)
    if failure is not None:
        raise failure
    say("\nnext: remote-mi runs ls   lists the others")


def _run_error(opened: OpenedRun) -> RunFailed:
    """Why a run failed: the message, the recipe's lines, the server's message."""
    from remote_mi.report.viewer.opened_run import recipe_excerpt

    parts = [
        f"the run {opened.name} failed:",
        *(f"  {line(x)}" for x in opened.problem.splitlines()),
    ]
    parts += [f"  {text}" for text in recipe_excerpt(opened)]
    if opened.server_message:
        parts += [
            "the server's message:",
            *(f"  {line(x)}" for x in opened.server_message.splitlines()[:40]),
        ]
    return RunFailed("\n".join(parts), opened.advice)


def parse_coordinate(text: str) -> tuple[str, str]:
    """Parse DIM=VALUE into a dimension and the coordinate to slice it at."""
    dim, equals, value = text.partition("=")
    if not equals or not dim or not value:
        raise UsageError(f"--at {text!r} is not DIM=VALUE", "e.g. --at layer=18 --at head=6")
    return dim, value

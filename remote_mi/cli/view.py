"""`remote-mi view`: the figures of a run, full-screen or as text."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remote_mi.cli.output import say, stdout_console
from remote_mi.common.errors import Mismatch, NotFound, RunFailed, UsageError
from remote_mi.common.paths import project_folder
from remote_mi.common.text import line
from remote_mi.report.wording import Slice
from remote_mi.store.opening import find_run

if TYPE_CHECKING:
    from remote_mi.report.viewer.opened_run import Opened

#: A recorded run that comes with the package.
DEMO = "demo"


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--plain", is_flag=True, help="As text, as into a pipe.")
@click.option("--only", metavar="FIGURE", help="Show one figure; full-screen: start with it.")
@click.option(
    "--item",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Which prompt a figure of a single prompt shows.",
)
@click.option(
    "--at",
    multiple=True,
    metavar="DIM=VALUE",
    help="Where a figure with too many dimensions is cut, e.g. --at layer=18.",
)
@click.option("--width", type=click.IntRange(40), metavar="N", help="Columns of the text.")
def view(
    runs: tuple[str, ...],
    plain: bool,
    only: str | None,
    item: int,
    at: tuple[str, ...],
    width: int | None,
) -> None:
    """Show runs: full names, ids, first digits of ids, or folders; the newest by default.

    On a terminal the first opens full-screen, and the others are marked in the list of runs; `?`
    explains the keys. Into a pipe, and with --plain, their figures are printed.

    \b
    remote-mi view demo                  a recorded run that comes with the package
    remote-mi runs ls -q | remote-mi view -
    """
    slice_ = Slice(item - 1, dict(coordinate(text) for text in at))
    folders = [_folder(run) for run in _named(runs)]
    if plain or width is not None or not _terminal():
        _print(folders, only, slice_, width)
    else:
        _open(folders, only, slice_)


def _named(runs: tuple[str, ...]) -> list[str | None]:
    """The runs that were asked for; `-` stands for the words on stdin."""
    if not runs:
        return [None]
    named: list[str | None] = []
    for run in runs:
        named += sys.stdin.read().split() if run == "-" else [run]
    if not named:
        raise UsageError(
            "there are no ids on stdin", "e.g. remote-mi runs ls -q | remote-mi view -"
        )
    return named


def _folder(run: str | None) -> Path:
    if run == DEMO:
        from remote_mi.report.viewer.demo import demo_run

        return demo_run()
    try:
        return find_run(run).path
    except NotFound as error:
        if run is not None:
            raise
        raise NotFound(error.message, "remote-mi view demo   shows a recorded one") from None


def _terminal() -> bool:
    """Whether there is a screen to open the viewer on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _open(folders: list[Path], only: str | None, slice_: Slice) -> None:
    from remote_mi.report.viewer.app import INTERRUPTED, Viewer
    from remote_mi.store.opening import sibling_runs
    from remote_mi.store.runs import Runs

    if not sys.stdin.isatty():  # the ids came on it; the keys come from the terminal
        try:
            os.dup2(os.open("/dev/tty", os.O_RDONLY), 0)
        except OSError:
            raise UsageError("there is no terminal to read keys from", "add --plain") from None
    for name in ("COLUMNS", "LINES"):  # exported by a shell, they would outlast a change of size
        os.environ.pop(name, None)
    project = project_folder()
    room = Runs(project) if folders[0].parent == project / "runs" else sibling_runs(folders[0])
    app = Viewer(folders[0], project, room, folders[:2] if len(folders) > 1 else [], only, slice_)
    app.run()
    if app.return_code in (None, 0, INTERRUPTED):  # else a mistake of ours that Textual has told
        say(f"next: {_again(app.opened)} --plain   prints the same figures")
    if app.return_code:
        raise click.exceptions.Exit(app.return_code)


def _again(opened: Opened) -> str:
    """The command that shows a run."""
    from remote_mi.report.viewer.demo import demo_run

    return f"remote-mi view {DEMO if opened.folder == demo_run() else opened.named}"


def _print(folders: list[Path], only: str | None, slice_: Slice, width: int | None) -> None:
    """The figures of every run; the first that failed decides the exit code, after the others."""
    from remote_mi.report.terminal import show
    from remote_mi.report.viewer.opened_run import open_run

    console = stdout_console(width)
    wrong: RunFailed | Mismatch | None = None
    for index, folder in enumerate(folders):
        opened = open_run(folder)
        if opened.result is None:
            error = _failure(opened) if opened.failed else Mismatch(opened.problem, opened.advice)
            if wrong is not None:
                say(f"error: {wrong}")
            wrong = error
            continue
        if index:
            console.print()
        show(opened.result, console, only, slice_)
    if wrong is not None:
        raise wrong
    say("\nnext: remote-mi runs ls   lists the others")


def _failure(opened: Opened) -> RunFailed:
    """Why a run failed: the message, the recipe's lines, the server's words."""
    from remote_mi.report.viewer.opened_run import excerpt

    parts = [
        f"the run {opened.name} failed:",
        *(f"  {line(x)}" for x in opened.problem.splitlines()),
    ]
    parts += [f"  {text}" for text in excerpt(opened)]
    if opened.said:
        parts += ["the server's words:", *(f"  {line(x)}" for x in opened.said.splitlines()[:40])]
    return RunFailed("\n".join(parts), opened.advice)


def coordinate(text: str) -> tuple[str, str]:
    """A dimension and the coordinate at which it is cut."""
    dim, equals, value = text.partition("=")
    if not equals or not dim or not value:
        raise UsageError(f"--at {text!r} is not DIM=VALUE", "e.g. --at layer=18 --at head=6")
    return dim, value

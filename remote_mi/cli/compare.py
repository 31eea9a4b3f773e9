"""`remote-mi compare A B`: two runs held against each other, or a run against another backend."""

from __future__ import annotations

from pathlib import Path

import click

from remote_mi.backends.registry import is_backend
from remote_mi.cli.output import print_json, say, stdout_console, watching
from remote_mi.common.errors import Mismatch
from remote_mi.common.paths import project_folder
from remote_mi.store.comparison import Comparison
from remote_mi.store.run_folder import RunFolder


@click.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    metavar="T",
    help="Exit with 7 if an output differs by more than T × max(1, its largest value).",
)
@click.option("--only", metavar="OUTPUT", help="Compare one output or summary.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Longest wait, where B is a server.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("--width", type=click.IntRange(40), metavar="N", help="Columns of the output.")
def compare(
    *,
    a: str,
    b: str,
    tolerance: float | None,
    only: str | None,
    timeout: float | None,
    as_json: bool,
    width: int | None,
) -> None:
    """Hold two runs against each other: first how they were made, then their numbers.

    A and B are runs: name, id, first digits of an id, or the path of a run's folder. B may be a
    backend (local, ndif, ndif:here, ndif:URL …): then A's job is run there, or its result taken
    where it is there already.

    \b
    remote-mi compare a1b2 c3d4
    remote-mi compare a1b2 ndif --tolerance 1e-3
    """
    found = make_comparison(a, b, timeout, as_json)
    held = found.only(only)
    if as_json:
        within = None if tolerance is None else held.within(tolerance)
        print_json({**held.to_json(), "tolerance": tolerance, "within": within})
    else:
        from remote_mi.report.comparison import show

        show(found, stdout_console(width), only, tolerance)
    if tolerance is not None and not held.within(tolerance):
        names = dict.fromkeys(d.name for d in held.beyond(tolerance))
        raise Mismatch(
            f"beyond the tolerance of {tolerance:g}: {', '.join(names)}",
            "remote-mi compare A B --only OUTPUT   shows one of them",
        )
    if tolerance is None and not as_json:
        say("\nnext: --tolerance T   exits with 7 where they are further apart")


def make_comparison(a: str, b: str, timeout: float | None, quiet: bool) -> Comparison:
    """The comparison of two runs, or of a run with what another backend gives."""
    from remote_mi.store import comparison
    from remote_mi.store.opening import find_run, load_run

    project = project_folder()
    folder = find_run(a, project).path
    first = load_run(folder)
    if not is_backend(b) or RunFolder(Path(b)).is_run:
        return comparison.compare(first, b, project=project)
    from remote_mi.jobs.reproduction.reproduce import run_on_backend

    with watching(quiet) as watch:
        return comparison.compare(first, run_on_backend(folder, b, project, timeout, watch))

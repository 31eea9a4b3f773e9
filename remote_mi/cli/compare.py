"""`remote-mi compare A B`: compare two runs, or a run with the same job on another backend."""

from __future__ import annotations

from pathlib import Path

import click

from remote_mi.backends.registry import is_backend
from remote_mi.cli.output import COLUMNS, print_json, say, show_progress, stdout_console
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
    help="Exit with code 7 if an output differs by more than T × max(1, its largest value).",
)
@click.option("--only", metavar="OUTPUT", help="Compare one output or summary.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Longest wait, if B is a server.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("--width", type=COLUMNS, metavar="N", help="Columns of the output.")
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
    """Compare two runs: first how they were made, then their numbers.

    A and B are runs: a name, an id, the first digits of an id, or the path of a run's folder. B
    may be a backend (local, ndif, ndif:here, ndif:URL …): A's job is then run there, unless its
    result already exists.

    \b
    remote-mi compare a1b2 c3d4
    remote-mi compare a1b2 ndif --tolerance 1e-3
    """
    comparison = make_comparison(a, b, timeout, as_json)
    selected = comparison.only(only)
    if as_json:
        within = None if tolerance is None else selected.within(tolerance)
        print_json({**selected.to_json(), "tolerance": tolerance, "within": within})
    else:
        from remote_mi.report.comparison import show

        show(comparison, stdout_console(width), only, tolerance)
    if tolerance is not None and not selected.within(tolerance):
        names = dict.fromkeys(d.name for d in selected.beyond(tolerance))
        raise Mismatch(
            f"beyond the tolerance of {tolerance:g}: {', '.join(names)}",
            "remote-mi compare A B --only OUTPUT   shows one of them",
        )
    if tolerance is None and not as_json:
        say("\nnext: --tolerance T   exits with code 7 if they differ by more")


def make_comparison(a: str, b: str, timeout: float | None, quiet: bool) -> Comparison:
    """Compare two runs, or a run with the same job on another backend."""
    from remote_mi.store import comparison
    from remote_mi.store.opening import find_run, load_run

    project = project_folder()
    folder = find_run(a, project).path
    first = load_run(folder)
    if not is_backend(b) or RunFolder(Path(b)).is_run:
        return comparison.compare(first, b, project=project)
    from remote_mi.jobs.reproduction.reproduce import run_on_backend

    with show_progress(quiet) as watch:
        return comparison.compare(first, run_on_backend(folder, b, project, timeout, watch))

"""`remote-mi reproduce RUN|STUDY`: recompute runs from their folders, or verify the folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from remote_mi.cli.numbers import AMOUNT, SECONDS, WIDTH
from remote_mi.cli.output import print_json, say, show_progress, stdout_console
from remote_mi.common.errors import Mismatch, RemoteMIError
from remote_mi.common.paths import project_folder
from remote_mi.common.text import line
from remote_mi.store.comparison import TOLERANCE
from remote_mi.store.opening import find_run_or_study, runs_of_study
from remote_mi.store.run_folder import RunFolder


@click.command()
@click.argument("run", metavar="RUN|STUDY")
@click.option(
    "--verify-only",
    is_flag=True,
    help="Check hashes, key and provenance; run nothing. Needs no key and no GPU.",
)
@click.option(
    "--tolerance",
    type=AMOUNT,
    default=TOLERANCE,
    show_default=True,
    metavar="T",
    help="Largest allowed difference of an output: T × max(1, its largest value).",
)
@click.option(
    "--backend", metavar="NAME", help="local, ndif, ndif:here, ndif:URL; by default where it ran."
)
@click.option(
    "--model", metavar="FOLDER", help="New location of a model that was given by its folder."
)
@click.option("--keep", metavar="FOLDER", help="Folder to keep the new runs in.")
@click.option(
    "--chain", is_flag=True, help="Make the artifacts that it took again, too, and take those."
)
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="Longest wait for a remote job.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; one line per run.")
@click.option("--width", type=WIDTH, metavar="N", help="Columns of the output.")
def reproduce(run: str, verify_only: bool, **options: Any) -> None:
    """Recompute a run, or the runs of a study, from the folder alone, and compare.

    RUN is a name, an id, its first digits, or the path of a run's folder, wherever it was copied
    to; STUDY is a study's name, folder or file, and stands for all its finished runs. Only the
    folder is used: its lock, its copy of the source, the recorded revision of the model. Earlier
    runs and the cache are ignored. The recipe in the folder is executed; --verify-only executes
    nothing.

    \b
    remote-mi reproduce a1b2
    remote-mi reproduce handed-in/20261124T101500Z-logit_lens-a1b2c3d4 --verify-only
    """
    folders = find_folders(run)
    if verify_only:
        verify_folders(folders, options)
    else:
        reproduce_folders(folders, options)


def find_folders(wanted: str) -> dict[Path, str]:
    """The folder of a run, or of each finished run of a study, with the key the study records."""
    project = project_folder()
    study = find_run_or_study(wanted, project)
    if isinstance(study, RunFolder):
        return {study.path: ""}
    left = len(study.points) - study.counts()["done"]
    if left:
        say(f"{left} of {len(study.points)} points are not finished and are left out")
    return {run.path: key for run, key in runs_of_study(study).items()}


def verify_folders(folders: Mapping[Path, str], options: dict[str, Any]) -> None:
    """Report whether the folders are unchanged since they were written."""
    from remote_mi.jobs.reproduction.verify import verify

    reports = [verify(folder, key) for folder, key in folders.items()]
    if options["as_json"]:
        print_json({"runs": [report.to_json() for report in reports]})
    elif options["quiet"] or len(reports) > 1:
        for report in reports:
            problems = "; ".join(f"{line(f.part)}: {line(f.said)}" for f in report.problems)
            print(f"{report.run}  {'verified' if report.holds else f'CHANGED: {problems}'}")
    else:
        for finding in reports[0].findings:
            sign = {"ok": "✓", "problem": "✗", "note": "·"}[finding.state]
            print(f" {sign} {line(finding.part)}: {line(finding.said)}")
    failures = [(report.run, finding) for report in reports for finding in report.problems]
    if failures:
        run, first = failures[0]
        more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        raise Mismatch(
            f"{run}: {first.part} {first.said}{more}",
            "get the original folder again, or rerun the job",
        )
    if not options["as_json"]:
        say(
            f"\n{'the folder is' if len(reports) == 1 else f'{len(reports)} folders are'} "
            "unchanged; next: the same without --verify-only recomputes the numbers"
        )


def reproduce_folders(folders: Iterable[Path], options: dict[str, Any]) -> None:
    """Recompute runs and report whether their numbers are reproduced."""
    from remote_mi.jobs.reproduction.reproduce import ReproductionOptions, reproduce_all

    model, keep = (Path(options[n]) if options[n] else None for n in ("model", "keep"))
    request = ReproductionOptions(
        options["backend"], model, options["tolerance"], options["timeout"], keep, options["chain"]
    )
    with show_progress(options["quiet"] or options["as_json"]) as watch:
        outcomes = reproduce_all(list(folders), request, watch)
    if len(outcomes) == 1 and isinstance(outcomes[0][1], RemoteMIError):
        raise outcomes[0][1]
    if options["as_json"]:
        print_json({"runs": [_outcome_to_json(name, outcome) for name, outcome in outcomes]})
    else:
        _print_outcomes(outcomes, options)
    errors = [outcome for _, outcome in outcomes if isinstance(outcome, RemoteMIError)]
    mismatched = [
        name
        for name, outcome in outcomes
        if not isinstance(outcome, RemoteMIError) and not outcome.matches
    ]
    changed = [error for error in errors if isinstance(error, Mismatch)]
    if mismatched:
        raise Mismatch(
            f"{len(mismatched)} of {len(outcomes)} not reproduced: {', '.join(mismatched)}",
            "--tolerance T allows more; differences in the configuration may explain it",
        )
    if errors:
        first = (changed or errors)[0]
        raise type(first)(
            f"{len(errors)} of {len(outcomes)} could not be rerun; the first: {first.message}",
            first.hint,
        )
    if not options["as_json"] and not options["quiet"]:
        say(
            "\nnext: --keep FOLDER   keeps the new run"
            if request.keep is None
            else f"\nkept in {request.keep}"
        )


def _print_outcomes(outcomes: Sequence[tuple[str, Any]], options: dict[str, Any]) -> None:
    if len(outcomes) == 1 and not options["quiet"]:
        from remote_mi.report.comparison import show

        show(
            outcomes[0][1].comparison, stdout_console(options["width"]), None, options["tolerance"]
        )
        print()
    for name, outcome in outcomes:
        if isinstance(outcome, RemoteMIError):
            print(f"{name}  not run: {line(outcome.message)}")
            continue
        print(f"{name}  {line(outcome.verdict)}")
        for note in outcome.notes:
            say(f"  note: {note}")


def _outcome_to_json(name: str, outcome: Any) -> dict[str, Any]:
    if isinstance(outcome, RemoteMIError):
        return {"run": name, "matches": None, "error": outcome.message}
    return outcome.to_json()

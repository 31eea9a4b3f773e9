"""`remote-mi reproduce RUN|STUDY`: compute runs again from their folders, or check the folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from remote_mi.cli.output import print_json, say, stdout_console, watching
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
    type=click.FloatRange(0),
    default=TOLERANCE,
    show_default=True,
    metavar="T",
    help="How far an output may be off: T × max(1, its largest value).",
)
@click.option(
    "--backend", metavar="NAME", help="local, ndif, ndif:here, ndif:URL; by default where it ran."
)
@click.option(
    "--model", metavar="FOLDER", help="New place of a model that was named by its folder."
)
@click.option("--keep", metavar="FOLDER", help="Keep the new runs there.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Longest wait for a remote job.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; one line a run.")
@click.option("--width", type=click.IntRange(40), metavar="N", help="Columns of the output.")
def reproduce(run: str, verify_only: bool, **options: Any) -> None:
    """Compute a run, or the runs of a study, again from the folder alone, and compare.

    RUN is a name, an id, its first digits, or the path of a run's folder, wherever it was copied
    to; STUDY is a study's name, folder or file, and every finished run of it is taken. Nothing but the folder is used: its lock, its copy of the source, the recorded revision of
    the model. Neither earlier runs nor the cache answer. The recipe in the folder is executed;
    --verify-only executes nothing.

    \b
    remote-mi reproduce a1b2
    remote-mi reproduce handed-in/20261124T101500Z-logit_lens-a1b2c3d4 --verify-only
    """
    folders = folders_of(run)
    if verify_only:
        check(folders, options)
    else:
        again(folders, options)


def folders_of(wanted: str) -> dict[Path, str]:
    """The folder of a run, or of each finished run of a study with the key that it says."""
    project = project_folder()
    study = find_run_or_study(wanted, project)
    if isinstance(study, RunFolder):
        return {study.path: ""}
    left = len(study.points) - study.counts()["done"]
    if left:
        say(f"{left} of {len(study.points)} points are not finished and are left out")
    return {run.path: key for run, key in runs_of_study(study).items()}


def check(folders: Mapping[Path, str], options: dict[str, Any]) -> None:
    """Say whether the folders are as they were made."""
    from remote_mi.jobs.reproduction.verify import verify

    found = [verify(folder, key) for folder, key in folders.items()]
    if options["as_json"]:
        print_json({"runs": [v.to_json() for v in found]})
    elif options["quiet"] or len(found) > 1:
        for one in found:
            said = "; ".join(f"{line(f.part)}: {line(f.said)}" for f in one.problems)
            print(f"{one.run}  {'verified' if one.holds else f'CHANGED: {said}'}")
    else:
        for finding in found[0].findings:
            sign = {"ok": "✓", "problem": "✗", "note": "·"}[finding.state]
            print(f" {sign} {line(finding.part)}: {line(finding.said)}")
    bad = [(v.run, f) for v in found for f in v.problems]
    if bad:
        run, first = bad[0]
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise Mismatch(
            f"{run}: {first.part} {first.said}{more}",
            "take the folder from where it was made, or run the job again",
        )
    if not options["as_json"]:
        say(
            f"\n{'the folder is' if len(found) == 1 else f'{len(found)} folders are'} as made; "
            "next: the same without --verify-only computes the numbers again"
        )


def again(folders: Iterable[Path], options: dict[str, Any]) -> None:
    """Compute runs again and say whether they give the same."""
    from remote_mi.jobs.reproduction.reproduce import ReproductionOptions, reproduce_all

    model, keep = (Path(options[n]) if options[n] else None for n in ("model", "keep"))
    asked = ReproductionOptions(
        options["backend"], model, options["tolerance"], options["timeout"], keep
    )
    with watching(options["quiet"] or options["as_json"]) as watch:
        outcomes = reproduce_all(list(folders), asked, watch)
    if len(outcomes) == 1 and isinstance(outcomes[0][1], RemoteMIError):
        raise outcomes[0][1]
    if options["as_json"]:
        print_json({"runs": [_as_json(name, found) for name, found in outcomes]})
    else:
        _show(outcomes, options)
    errors = [found for _, found in outcomes if isinstance(found, RemoteMIError)]
    missed = [
        name
        for name, found in outcomes
        if not isinstance(found, RemoteMIError) and not found.matches
    ]
    changed = [error for error in errors if isinstance(error, Mismatch)]
    if missed:
        raise Mismatch(
            f"{len(missed)} of {len(outcomes)} not reproduced: {', '.join(missed)}",
            "--tolerance T allows more; what differs in the configuration may say why",
        )
    if errors:
        first = (changed or errors)[0]
        raise type(first)(
            f"{len(errors)} of {len(outcomes)} could not be run again; the first: {first.message}",
            first.hint,
        )
    if not options["as_json"] and not options["quiet"]:
        say(
            "\nnext: --keep FOLDER   keeps the new run"
            if asked.keep is None
            else f"\nkept in {asked.keep}"
        )


def _show(outcomes: Sequence[tuple[str, Any]], options: dict[str, Any]) -> None:
    if len(outcomes) == 1 and not options["quiet"]:
        from remote_mi.report.comparison import show

        show(
            outcomes[0][1].comparison, stdout_console(options["width"]), None, options["tolerance"]
        )
        print()
    for name, found in outcomes:
        if isinstance(found, RemoteMIError):
            print(f"{name}  not run: {line(found.message)}")
            continue
        print(f"{name}  {line(found.verdict)}")
        for note in found.notes:
            say(f"  note: {note}")


def _as_json(name: str, found: Any) -> dict[str, Any]:
    if isinstance(found, RemoteMIError):
        return {"run": name, "matches": None, "error": found.message}
    return found.to_json()

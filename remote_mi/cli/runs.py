"""`remote-mi runs`: list, tag or remove the runs of this project."""

from __future__ import annotations

import sys
from typing import Any

import click

from remote_mi.cli.numbers import COUNT
from remote_mi.cli.output import print_json, say
from remote_mi.common.errors import RemoteMIError, UsageError
from remote_mi.common.paths import project_folder
from remote_mi.common.valid_json import to_json
from remote_mi.report.run_list import row_text
from remote_mi.store.run_folder import RunFolder
from remote_mi.store.run_index import DAMAGED, RunRow
from remote_mi.store.runs import Runs


@click.group()
def runs() -> None:
    """List, tag or remove the runs of this project."""


@runs.command("ls")
@click.option("-n", "--last", type=COUNT, metavar="N", help="Only the newest N runs.")
@click.option("--tag", metavar="TAG", help="Only runs with this tag.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
def list_runs(last: int | None, tag: str | None, as_json: bool, quiet: bool) -> None:
    """List runs, newest last."""
    rows = [row for row in Runs(project_folder()).rows() if tag is None or tag in row.tags]
    rows = rows[-last:] if last else rows
    if as_json:
        print_json({"runs": [_row_to_json(row) for row in rows]})
        return
    for row in rows:
        print(row.id8 if quiet else row_text(row))
    if not quiet:
        say(
            "\nnext: remote-mi view ID"
            if rows
            else "no runs yet; next: remote-mi demo"
            if tag is None
            else f"no run has the tag {tag!r}; next: remote-mi runs ls"
        )


def _row_to_json(row: RunRow) -> dict[str, Any]:
    if row.status == DAMAGED:
        return {"run": row.name, "status": row.status, "problem": row.problem}
    return {
        "run": row.name,
        "status": row.status,
        "recipe": row.recipe,
        "model": row.model,
        "prompts": row.prompts,
        "parameters": row.parameters,
        "time": row.time,
        "scalars": row.scalars,
        "tags": row.tags,
    }


@runs.command()
@click.argument("run", required=False)
def show(run: str | None) -> None:
    """Show everything recorded about a run, except its numbers, as JSON.

    `readings` has, for each figure, the sentences that are read from its numbers.
    """
    project_runs = Runs(project_folder())
    name = project_runs.find(run)
    folder, tags = project_runs.run(name), project_runs.tags(name)
    document = {
        "run": name,
        "folder": str(folder.path),
        "tags": tags,
        **folder.data,
        "readings": _readings(folder),
    }
    print(to_json(document, indent=1))


def _readings(folder: RunFolder) -> dict[str, list[str]]:
    """The readings of a run; {} without a result, and if its numbers are damaged."""
    from remote_mi.report.summary import all_readings

    try:
        return {} if folder.info.failed else all_readings(folder.result())
    except RemoteMIError:
        return {}


@runs.command()
@click.argument("run")
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
@click.option("--remove", "removing", is_flag=True, help="Remove the tags.")
def tag(run: str, tags: tuple[str, ...], removing: bool) -> None:
    """Tag a run, to find it again."""
    project_runs = Runs(project_folder())
    name = project_runs.find(run)
    old = project_runs.tags(name)
    new = [t for t in old if t not in tags] if removing else [*old, *tags]
    project_runs.set_tags(name, new)
    say(
        f"{name}: {' '.join('#' + t for t in project_runs.tags(name)) or 'no tags'}\n"
        "next: remote-mi runs ls"
    )


@runs.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(runs: tuple[str, ...], yes: bool) -> None:
    """Delete runs permanently.

    RUN is an id, at least its first four letters, or the full name of a run.
    Their numbers stay in the cache until its space is needed.
    """
    project_runs = Runs(project_folder())
    names = list(dict.fromkeys(project_runs.find_to_remove(run) for run in runs))
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(f"{len(names)} runs would be deleted permanently", "add --yes")
        for name in names:
            say(name)
        click.confirm(f"Delete {len(names)} runs permanently?", abort=True, err=True)
    for name in names:
        project_runs.remove(name)
        print(name)
    say(f"deleted {len(names)} runs; next: remote-mi runs ls")

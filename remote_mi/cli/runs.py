"""`remote-mi runs`: what this project has run."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from remote_mi.cli.output import print_json, say
from remote_mi.common.errors import UsageError
from remote_mi.common.paths import project_folder
from remote_mi.report.run_list import row_text
from remote_mi.store.run_index import DAMAGED, RunRow
from remote_mi.store.runs import Runs


@click.group()
def runs() -> None:
    """List, tag and remove the runs of this project."""


@runs.command("ls")
@click.option("-n", "--last", type=click.IntRange(1), metavar="N", help="The newest N only.")
@click.option("--tag", metavar="TAG", help="Those with this tag only.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
def list_runs(last: int | None, tag: str | None, as_json: bool, quiet: bool) -> None:
    """All runs, newest last."""
    room = Runs(project_folder())
    found = [row for row in room.rows() if tag is None or tag in row.tags]
    found = found[-last:] if last else found
    if as_json:
        print_json({"runs": [_row_json(row) for row in found]})
        return
    for row in found:
        print(row.id8 if quiet else row_text(row))
    if not quiet:
        say(
            "\nnext: remote-mi view ID"
            if found
            else "no runs yet; next: remote-mi demo"
            if tag is None
            else f"no run has the tag {tag!r}; next: remote-mi runs ls"
        )


def _row_json(row: RunRow) -> dict[str, Any]:
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
    """Everything known about a run, as JSON, without its numbers."""
    room = Runs(project_folder())
    name = room.find(run)
    folder = room.run(name)
    print(
        json.dumps(
            {"run": name, "folder": str(folder.path), "tags": room.tags(name), **folder.data},
            indent=1,
        )
    )


@runs.command()
@click.argument("run")
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
@click.option("--remove", "removing", is_flag=True, help="Take the tags off.")
def tag(run: str, tags: tuple[str, ...], removing: bool) -> None:
    """Call a run something, to find it again."""
    room = Runs(project_folder())
    name = room.find(run)
    now = room.tags(name)
    room.set_tags(name, [t for t in now if t not in tags] if removing else [*now, *tags])
    say(
        f"{name}: {' '.join('#' + t for t in room.tags(name)) or 'no tags'}\n"
        "next: remote-mi runs ls"
    )


@runs.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(runs: tuple[str, ...], yes: bool) -> None:
    """Delete runs for good. The cache keeps their numbers, as long as there is room."""
    room = Runs(project_folder())
    names = list(dict.fromkeys(room.find(wanted) for wanted in runs))
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(f"{len(names)} runs would be deleted for good", "add --yes")
        for name in names:
            say(name)
        click.confirm(f"Delete {len(names)} runs for good?", abort=True, err=True)
    for name in names:
        room.remove(name)
        print(name)
    say(f"{len(names)} runs are deleted; next: remote-mi runs ls")

"""`remote-mi runs`: what this project has run."""

from __future__ import annotations

import json

import click

from remote_mi.cli.output import print_json, say
from remote_mi.errors import Mismatch
from remote_mi.paths import project_folder
from remote_mi.store.runs import Runs


@click.group()
def runs() -> None:
    """List the runs of this project."""


@runs.command("ls")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
def list_runs(as_json: bool, quiet: bool) -> None:
    """All runs, newest last."""
    room = Runs(project_folder())
    rows = []
    for name in room.ids():
        if quiet:
            print(name.rsplit("-", 1)[-1])
            continue
        try:
            info = room.read_info(name)
        except Mismatch as error:
            rows.append({"run": name, "status": "damaged", "problem": str(error)})
            continue
        source = info["provenance"]
        rows.append({"run": name, "status": info["status"], "recipe": info["recipe"]["name"],
                     "model": source["model"]["name"], "prompts": source["prompts"].get("origin"),
                     "parameters": source["parameters"]})  # fmt: skip
    if quiet:
        return
    if as_json:
        print_json({"runs": rows})
        return
    for row in rows:
        given = ", ".join(f"{k}={v}" for k, v in row.get("parameters", {}).items())
        name = row["run"]
        print(f"{name.rsplit('-', 1)[-1]}  {name[:16]}  {row['status']:7}  {row.get('recipe', '?')}"
              f"  {row.get('model', '?')}  {row.get('prompts', '?')}  {given}".rstrip())  # fmt: skip
    say("\nnext: remote-mi view ID --plain" if rows else "no runs yet; next: remote-mi demo")


@runs.command()
@click.argument("run", required=False)
def show(run: str | None) -> None:
    """Everything known about a run, as JSON, without its numbers."""
    room = Runs(project_folder())
    name = room.find(run)
    info = room.read_info(name)
    print(json.dumps({"run": name, "folder": str(room.folder / name), **info}, indent=1))

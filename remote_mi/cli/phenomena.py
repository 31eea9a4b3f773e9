"""`remote-mi phenomena`: the prompts that can be run on."""

from __future__ import annotations

import click

from remote_mi.cli.output import print_json, say
from remote_mi.common.paths import project_folder
from remote_mi.common.text import line
from remote_mi.prompts import phenomena as room


@click.group()
def phenomena() -> None:
    """List, show and begin sets of prompts."""


@phenomena.command("ls")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Names only.")
def list_phenomena(as_json: bool, quiet: bool) -> None:
    """All phenomena: the project's own and the built-in ones."""
    found = [room.load(path) for path in room.phenomenon_files(project_folder()).values()]
    if as_json:
        print_json(
            {
                "phenomena": [
                    {
                        "name": p.name,
                        "title": p.title,
                        "source": p.source,
                        "templates": list(p.templates),
                        "size": p.size,
                        "metric": p.metric,
                        "path": str(p.path),
                    }
                    for p in found
                ]
            }
        )
        return
    width = max(len(item.name) for item in found)
    for item in found:
        print(item.name if quiet else f"{item.name:{width}} {item.size:3} pairs  {item.title}")
    if not quiet:
        say("\nnext: remote-mi phenomena show NAME")


@phenomena.command()
@click.argument("name")
@click.option("-n", "size", type=int, metavar="N", help="How many pairs.")
@click.option("--seed", type=int, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def show(name: str, size: int | None, seed: int | None, as_json: bool) -> None:
    """A phenomenon and its pairs; NAME, NAME:TEMPLATE or a file."""
    file, _, template = name.partition(":")
    found = room.find(file, project_folder())
    prompts = found.prompts(size, seed, template or None)
    if as_json:
        pairs = [
            {**e.to_json(), "template": e.template, "label": e.label, "group": e.group}
            for e in prompts.examples
        ]
        print_json({"name": found.name, **prompts.details, "pairs": pairs})
        return
    print(f"{found.name}: {found.title}\n{found.description.strip()}\nsource: {found.source}")
    print(f"templates: {', '.join(found.templates)}   metric: {found.metric}")
    labels = sorted({label for example in prompts.examples for label in example.labels})
    print(f"labels: {', '.join([*labels, 'end'])}")
    if found.baseline:
        print("baseline: " + ", ".join(f"{k} {v}" for k, v in found.baseline.items()))
    for number, example in enumerate(prompts.examples, 1):
        print(f"\n{number:3} clean    {line(example.clean)} →{line('|'.join(example.answers))}")
        print(f"    corrupt  {line(example.corrupt or '')} →{line('|'.join(example.wrongs))}")
        if found.label:
            print(f"    label    {line(example.label)}")
    say(f"\nnext: remote-mi run activation_patching --phenomenon {name}")


@phenomena.command("new")
@click.argument("name")
def new_phenomenon(name: str) -> None:
    """Begin a phenomenon of your own: a working file, with comments, to change."""
    from remote_mi.prompts.scaffold import new_phenomenon as write

    print(write(name, project_folder()))
    say(f"\nnext: remote-mi phenomena show {name}")

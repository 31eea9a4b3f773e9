"""`remote-mi phenomena`: the sets of prompts to run recipes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from remote_mi.cli.output import print_json, say
from remote_mi.common.errors import sanitize
from remote_mi.common.paths import project_folder
from remote_mi.common.text import line
from remote_mi.prompts import phenomena as phenomenon_files


@click.group()
def phenomena() -> None:
    """List, show and create sets of prompts."""


@phenomena.command("ls")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Names only.")
def list_phenomena(as_json: bool, quiet: bool) -> None:
    """List the phenomena of the project and the built-in ones."""
    paths = phenomenon_files.phenomenon_files(project_folder()).values()
    items = [phenomenon_files.load(path) for path in paths]
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
                    for p in items
                ]
            }
        )
        return
    width = max(len(item.name) for item in items)
    for item in items:
        name = line(item.name)
        print(name if quiet else f"{name:{width}} {item.size:3} pairs  {line(item.title)}")
    if not quiet:
        say("\nnext: remote-mi phenomena show NAME")


@phenomena.command()
@click.argument("name")
@click.option("-n", "size", type=int, metavar="N", help="Number of pairs.")
@click.option("--seed", type=int, metavar="N", help="Seed that pairs are drawn with.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def show(name: str, size: int | None, seed: int | None, as_json: bool) -> None:
    """Show a phenomenon and its pairs.

    NAME may also be NAME:TEMPLATE or a file.
    """
    file, _, template = name.partition(":")
    phenomenon = phenomenon_files.find(file, project_folder())
    prompts = phenomenon.prompts(size, seed, template or None)
    if as_json:
        pairs = [
            {**e.to_json(), "template": e.template, "label": e.label, "group": e.group}
            for e in prompts.examples
        ]
        print_json({"name": phenomenon.name, **prompts.details, "pairs": pairs})
        return
    labels = sorted({label for example in prompts.examples for label in example.labels})
    print(sanitize(f"{phenomenon.name}: {phenomenon.title}\n{phenomenon.description.strip()}"))
    for head, text in (
        ("source", phenomenon.source),
        ("templates", f"{', '.join(phenomenon.templates)}   {_asks_for(phenomenon)}"),
        ("labels", ", ".join([*labels, "end"])),
        ("prompts of unequal length", phenomenon.align and f"aligned by {phenomenon.align}"),
        ("baseline", _baseline(phenomenon.baseline)),
    ):
        if text:
            print(f"{head}: {sanitize(text)}")
    for number, example in enumerate(prompts.examples, 1):
        side = "prompt" if example.corrupt is None else "clean"
        answers, wrongs = (
            f" →{line('|'.join(texts))}" if texts else ""
            for texts in (example.answers, example.wrongs)
        )
        print(f"\n{number:3} {side:8} {line(example.clean)}{answers}")
        if example.corrupt is not None:
            print(f"    corrupt  {line(example.corrupt)}{wrongs}")
        if phenomenon.label:
            print(f"    label    {line(example.label)}")
    recipe = "activation_patching" if phenomenon.behaviour is None else "behaviour"
    say(f"\nnext: remote-mi run {recipe} --phenomenon {name}")


def _asks_for(phenomenon: phenomenon_files.Phenomenon) -> str:
    """Its metric, or the behaviour that it asks for."""
    if phenomenon.behaviour is None:
        return f"metric: {phenomenon.metric}"
    return f"behaviour: {phenomenon.behaviour}"


def _baseline(stated: Mapping[str, Any]) -> str:
    """What a model was measured to do, in words; "" if nothing is stated."""
    figures = {key: value for key, value in stated.items() if key != "at_chance"}
    words = [f"{key} {value}" for key, value in figures.items()]
    if stated.get("at_chance"):
        words.append("not told from chance, 0.5")
    return ", ".join(words)


@phenomena.command("new")
@click.argument("name")
def new_phenomenon(name: str) -> None:
    """Create a phenomenon of your own.

    Writes a working file with comments, to edit.
    """
    from remote_mi.prompts.scaffold import new_phenomenon as write

    print(write(name, project_folder()))
    say(f"\nnext: remote-mi phenomena show {name}")

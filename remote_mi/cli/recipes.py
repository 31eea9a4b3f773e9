"""`remote-mi recipes`: list, explain and create recipes."""

from __future__ import annotations

from typing import Literal

import click

from remote_mi.cli.check import check
from remote_mi.cli.output import print_json, say
from remote_mi.common.errors import sanitize
from remote_mi.common.paths import project_folder
from remote_mi.common.text import line
from remote_mi.recipes import catalog
from remote_mi.recipes.card import Card
from remote_mi.recipes.outputs import Ratio
from remote_mi.report.document.bibliography import cite
from remote_mi.report.document.method import not_shown

#: Contents of outputs that are not numbers.
_CONTENTS = {"token": "token ids", "text": "texts", "json": "JSON values"}
#: What a recipe is called with.
_CALLED_WITH = {
    "prompt": "one prompt at a time",
    "pair": "one pair at a time",
    "prompts": "all prompts together",
    "pairs": "all pairs together",
    "none": "no prompts",
}
#: Arguments of an example command.
_EXAMPLE_ARGUMENTS = {
    "prompt": "-p prompt='…'",
    "pair": "--phenomenon ioi",
    "prompts": "--phenomenon ioi",
    "pairs": "--phenomenon ioi",
    "none": "",
}


def _lengths(card: Card) -> str:
    """Whether a recipe takes aligned pairs of unequal length, and with which parameters."""
    if isinstance(card.lengths, str):
        return "taken, if they are aligned" if card.lengths == "any" else "refused"
    given = ", ".join(f"{name} {value}" for name, value in card.lengths.items())
    return f"taken with {given}, if they are aligned; else refused"


@click.group()
def recipes() -> None:
    """List, explain, create and check recipes."""


recipes.add_command(check)


@recipes.command("ls")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Names only.")
def list_recipes(as_json: bool, quiet: bool) -> None:
    """List the recipes of the project, of plug-ins, and the built-in ones."""
    cards = catalog.all_cards(project_folder())
    if as_json:
        print_json(
            {"recipes": [{**c.to_json(), "origin": c.origin, "path": str(c.path)} for c in cards]}
        )
        return
    width = max(len(card.name) for card in cards)
    for card in cards:
        print(card.name if quiet else f"{card.name:{width}}  {card.origin:8}  {card.summary}")
    if not quiet:
        say(f"\nnext: remote-mi recipes show {cards[0].name}")


@recipes.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def show(name: str, as_json: bool) -> None:
    """Show what a recipe measures, its parameters, outputs and references."""
    card = catalog.find(name, project_folder())
    if as_json:
        parameters = [vars(p) for p in card.parameters]
        more = {"not_shown": not_shown(card.doc), "path": str(card.path)}
        print_json({**card.to_json(), "parameters": parameters, **more})
        return
    _print(f"{card.name}  ({card.origin}, {card.path})\n")
    _print(card.doc.split("\nArgs:")[0].rstrip() + "\n")
    _print(f"Works on: {_CALLED_WITH[card.over]}\n")
    _print("Parameters:" if card.parameters else "Parameters: none")
    for param in card.parameters:
        default = "required" if param.required else f"default {param.default_text}"
        _print(f"  --{param.name.replace('_', '-'):12} {param.expected}; {default}")
        _print(f"  {'':14} {param.help}")
    _print("\nOutputs:")
    for output, declared in card.returns.items():
        contents = _CONTENTS.get(declared.kind, "")
        _print(f"  {output:14} ({', '.join(declared.dims)}) {contents}".rstrip())
    for summary, declared in card.summaries.items():
        if isinstance(declared, Ratio):
            how = f"mean {declared.effect} / mean {declared.gap}, over all pairs, with interval"
        else:
            how = f"({', '.join(declared.dims)}) of {card.analysis}, from all examples"
        _print(f"  {summary:14} {how}")
    for effect, control in card.controls.items():
        _print(f"  {effect:14} is compared with its control, {control}")
    _print(f"\nEvidence: {card.evidence or 'not declared'}")
    _print(f"Needs: {', '.join(card.needs) or 'nothing beyond a forward pass'}")
    if card.takes_pairs:
        _print(f"Pairs of unequal length: {_lengths(card)}")
    if card.references:
        _print("References:")
    for entry in cite(card.references, project_folder()):
        print(f"  {line(str(entry))}")
    say(f"\nnext: remote-mi run {card.name} {_EXAMPLE_ARGUMENTS[card.over]}".rstrip())


@recipes.command("new")
@click.argument("name")
@click.option(
    "--over",
    type=click.Choice(["pair", "prompt"]),
    default="pair",
    show_default=True,
    help="What the recipe is called with.",
)
def new_recipe(name: str, over: Literal["pair", "prompt"]) -> None:
    """Create a recipe of your own, and its test.

    Writes working files with comments, to edit.
    """
    from remote_mi.recipes.scaffold import new_recipe as write

    recipe, test = write(name, over, project_folder())
    print(recipe)
    print(test)
    say(
        f"\nnext: remote-mi run {name} {_EXAMPLE_ARGUMENTS[over]}\n"
        f"then: remote-mi recipes check {name}\n"
        f"      python -m pytest {test.relative_to(project_folder())}"
    )


def _print(text: str) -> None:
    """Print a text of a recipe's author, without what a terminal would act on."""
    print(sanitize(text))

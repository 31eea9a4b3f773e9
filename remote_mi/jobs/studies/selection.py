"""Choosing points of a study's grid by what they are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.common.yaml_file import name_hint
from remote_mi.jobs.studies.entries import (
    Block,
    ModelEntry,
    PromptsEntry,
    RecipeEntry,
    SelectionEntry,
)
from remote_mi.jobs.studies.entry_reader import is_axis
from remote_mi.recipes.card import Card


@dataclass(frozen=True)
class Origin:
    """The entries that a point was made from.

    Attributes:
        parameters: of the recipe, with defaults.
    """

    model: ModelEntry
    recipe: RecipeEntry
    prompts: PromptsEntry
    seed: int | None
    parameters: Mapping[str, Any]


class PointFilter:
    """A selection of points, checked in steps, so that most points need no check of their own."""

    def __init__(self, entry: SelectionEntry) -> None:
        self.entry = entry
        self.used = False
        self._wanted: dict[str, list[Any]] | None = {}

    def may_match(self, model: ModelEntry, recipe: RecipeEntry) -> bool:
        """Whether it may match points of this model and recipe."""
        entry = self.entry
        if entry.recipe and not {recipe.word, recipe.card.name} & set(entry.recipe):
            return False
        if entry.model and not set(model.names) & set(entry.model):
            return False
        self._wanted = _wanted(recipe.card, entry.parameters)
        return self._wanted is not None

    def matches_prompts(self, prompts: PromptsEntry, seed: int | None) -> bool:
        """Whether it may match points of these prompts."""
        entry = self.entry
        if entry.phenomenon and not set(_names(prompts)) & set(entry.phenomenon):
            return False
        return not entry.seed or seed in entry.seed

    def matches(self, parameters: Mapping[str, Any]) -> bool:
        """Whether it matches a point with these parameters."""
        wanted = self._wanted or {}
        if any(parameters[name] not in values for name, values in wanted.items()):
            return False
        self.used = True
        return True

    def selects(self, origin: Origin) -> bool:
        """Whether it matches a point made from these entries."""
        return (
            self.may_match(origin.model, origin.recipe)
            and self.matches_prompts(origin.prompts, origin.seed)
            and self.matches(origin.parameters)
        )


def _wanted(card: Card, given: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """Parameter → selected values; None if the recipe cannot have them."""
    known = {param.name: param for param in card.parameters}
    wanted = {}
    for name, value in given.items():
        if name not in known:
            return None
        try:
            several = value if is_axis(known[name], value) else [value]
            wanted[name] = [known[name].parse(item) for item in several]
        except UsageError:
            return None
    return wanted


def _names(prompts: PromptsEntry) -> list[str]:
    """The names that a selection may use for prompts: with and without the template."""
    phenomenon = prompts.choice.phenomenon is not None
    return [prompts.word, *([prompts.word.partition(":")[0]] if phenomenon else [])]


def what_is_unknown(entry: SelectionEntry, blocks: Iterable[Block]) -> str:
    """The first thing that a selection names and the grid does not contain."""
    blocks = list(blocks)
    recipes = [r for block in blocks for r in block.recipes]
    known = {
        "recipe": [n for r in recipes for n in (r.card.name, r.word)],
        "model": [n for block in blocks for m in block.models for n in m.names],
        "phenomenon": [n for block in blocks for p in block.prompts for n in _names(p)],
        "seed": [str(seed) for block in blocks for seed in block.seeds],
    }
    for part, words in known.items():
        for word in getattr(entry, part):
            if str(word) not in words:
                message = f"{part} {word!r} is not in the grid"
                return "; ".join([message, *filter(None, [name_hint(word, words)])])
    names = {param.name for recipe in recipes for param in recipe.card.parameters}
    for name in entry.parameters:
        if name not in names:
            return f"no recipe has the parameter {name!r}; {name_hint(name, sorted(names))}"
    return "no point matches all of it"

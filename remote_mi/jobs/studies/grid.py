"""From the entries of a study file to its points."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from remote_mi.jobs.studies.entries import (
    NO_PROMPTS,
    Block,
    ModelEntry,
    PromptsEntry,
    RecipeEntry,
    SelectionEntry,
)
from remote_mi.jobs.studies.entry_reader import Reader
from remote_mi.jobs.studies.points import Point
from remote_mi.jobs.studies.selection import Origin, PointFilter, what_is_unknown
from remote_mi.prompts.choice import PromptChoice
from remote_mi.recipes.card import Card

MOST_POINTS = 100_000


class StudyGrid:
    """Expands blocks into points, in a fixed order: by model, then as the file lists the rest.

    Args:
        reader: collects the problems.
        blocks: the study's own grid first, then its inclusions.
        backend: for points whose recipe and model do not specify one.
    """

    def __init__(self, reader: Reader, blocks: list[Block], backend: str) -> None:
        self.reader, self.blocks, self.backend = reader, blocks, backend
        self.exclusions = [PointFilter(entry) for entry in reader.exclusions()]
        #: The entries of every point, once `points` has made them.
        self.origins: list[Origin] = []
        self._choices: dict[tuple[int, int | None], tuple[PromptChoice, str]] = {}
        self._refused: set[tuple[Any, ...]] = set()

    def points(self) -> tuple[Point, ...]:
        """All points, without duplicates."""
        if not self._check_size():
            return ()
        seen: set[tuple[Any, ...]] = set()
        points: list[Point] = []
        for spec_key, model, block, recipe in self._lanes():
            backend = recipe.backend or model.backend or self.backend
            effective = _DefaultFiller(recipe.card)
            excluded = (
                [] if block.where else [x for x in self.exclusions if x.may_match(model, recipe)]
            )
            values = _product(recipe.axes)
            for prompts, seed in self._prompts(block, recipe):
                choice, choice_key = self._choice(prompts, seed)
                here = [x for x in excluded if x.matches_prompts(prompts, seed)]
                for parameters in values:
                    full = effective.of(parameters, prompts.metric)
                    taken = [x for x in here if x.matches(full)]  # all, to mark each as used
                    if taken or not self._check_compatible(block, model, recipe, prompts):
                        continue
                    key = (spec_key, recipe.path, choice_key, backend, _hashable(full))
                    if key not in seen:
                        seen.add(key)
                        self.origins.append(Origin(model, recipe, prompts, seed, full))
                        point = Point(
                            len(points),
                            recipe.path,
                            model.spec,
                            choice,
                            parameters,
                            backend,
                            recipe.card,
                        )
                        points.append(point)
        self._check(points)
        return tuple(points)

    def _lanes(self) -> Iterator[tuple[str, ModelEntry, Block, RecipeEntry]]:
        """(identity of the model, model, block, recipe), grouped by model."""
        identities: dict[str, None] = {}
        keyed = []
        for block in self.blocks:
            for model in block.models:
                key = json.dumps(asdict(model.spec), sort_keys=True)
                identities.setdefault(key)
                keyed.append((key, model, block))
        for identity in identities:
            for key, model, block in keyed:
                if key == identity:
                    yield from ((key, model, block, recipe) for recipe in block.recipes)

    def _prompts(
        self, block: Block, recipe: RecipeEntry
    ) -> Iterator[tuple[PromptsEntry, int | None]]:
        """The prompts of a recipe, each with every seed that affects it."""
        if recipe.card.over == "none":
            yield NO_PROMPTS, None
            return
        for prompts in block.prompts:
            for seed in (block.seeds if prompts.drawn else ()) or (None,):
                yield prompts, seed

    def _choice(self, prompts: PromptsEntry, seed: int | None) -> tuple[PromptChoice, str]:
        """The prompts with a seed, and a string that identifies them."""
        name = (id(prompts), seed)
        if name not in self._choices:
            choice = replace(prompts.choice, seed=seed) if seed is not None else prompts.choice
            self._choices[name] = choice, json.dumps(asdict(choice), sort_keys=True, default=str)
        return self._choices[name]

    def selected(self, entry: SelectionEntry) -> list[int]:
        """The indices of the points that a selection matches; none is reported as a mistake."""
        chosen = PointFilter(entry)
        found = [index for index, origin in enumerate(self.origins) if chosen.selects(origin)]
        if not found:
            hint = what_is_unknown(entry, self.blocks)
            self.reader.add_problem(entry.where, "this matches no point of the study", hint)
        return found

    # -- checks ---------------------------------------------------------------------------------

    def _check_size(self) -> bool:
        """Whether the grid is small enough, determined without building it."""
        count = sum(
            len(block.models)
            * math.prod(map(len, recipe.axes.values()))
            * sum(1 for _ in self._prompts(block, recipe))
            for block in self.blocks
            for recipe in block.recipes
        )
        if count > MOST_POINTS:
            self.reader.add_problem(
                (),
                f"the grid has {count:,} points, more than {MOST_POINTS:,}",
                "split it into several studies",
            )
        return count <= MOST_POINTS

    def _check_compatible(
        self, block: Block, model: ModelEntry, recipe: RecipeEntry, prompts: PromptsEntry
    ) -> bool:
        """Whether a recipe works with these prompts and this model; if not, reported once."""
        card, hint = recipe.card, ""
        if card.takes_pairs and prompts.pairs is False:
            message = (
                f"recipe {card.name!r} works on clean/corrupt pairs, and "
                f"{prompts.word[:40]!r} is not a pair"
            )
            hint = f"{{recipe: {recipe.word}, phenomenon: {json.dumps(prompts.word)}}}"
            name = (recipe.where, prompts.where)
        elif "attention_weights" in card.needs and model.spec.attention not in ("auto", "eager"):
            message = (
                f"recipe {card.name!r} reads attention weights, which attention "
                f"{model.spec.attention!r} of {model.word!r} does not provide"
            )
            hint = f"{{recipe: {recipe.word}, model: {model.word}}}"
            name = (recipe.where, model.where)
        else:
            return True
        if name not in self._refused:
            self._refused.add(name)
            advice = "choose others" if block.where else f"add to 'exclude': - {hint}"
            self.reader.add_problem(recipe.where, message, advice)
        return False

    def _check(self, points: list[Point]) -> None:
        """Report exclusions that exclude nothing, and a study without points."""
        for exclusion in self.exclusions:
            if not exclusion.used:
                self.reader.add_problem(
                    exclusion.entry.where,
                    "this excludes no point of the grid",
                    what_is_unknown(exclusion.entry, self.blocks[:1]),
                )
        if not points and not self.reader.problems:
            self.reader.add_problem((), "the study has no points", "everything is excluded")


class _DefaultFiller:
    """Fills in the defaults of the parameters that a study does not give."""

    def __init__(self, card: Card) -> None:
        self.defaults = {param.name: param.default for param in card.parameters}

    def of(self, given: Mapping[str, Any], metric: str | None) -> dict[str, Any]:
        full = {**self.defaults, **given}
        if metric is not None and "metric" in full and "metric" not in given:
            full["metric"] = metric  # as `building.make_job` takes it from the phenomenon
        return full


def _product(axes: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values, the last parameter varying fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _hashable(parameters: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(tuple(v) if isinstance(v, list) else v for v in parameters.values())

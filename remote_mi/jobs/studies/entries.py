"""The entries of a study file: models, prompts, recipes, exclusions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from remote_mi.common.yaml_file import KeyPath
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.choice import PromptChoice
from remote_mi.recipes.card import Card


@dataclass(frozen=True)
class ModelEntry:
    """A model.

    Attributes:
        word: its name as written in the file. backend: "" if none is given.
        series, step: as `remote_mi.jobs.studies.checkpoints.FoundModel`.
    """

    where: KeyPath
    word: str
    spec: ModelSpec
    backend: str
    series: str = ""
    step: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What a selection may call it: itself, its revision, all checkpoints of its training."""
        revision = self.spec.revision
        own = [self.word, f"{self.word}@{revision}"] if revision else [self.word]
        return tuple(dict.fromkeys([*own, *filter(None, [self.series])]))


@dataclass(frozen=True)
class PromptsEntry:
    """Prompts.

    Attributes:
        word: their name as written in the file.
        choice: the prompts, without a seed.
        drawn: whether they depend on a seed.
        pairs: whether all are clean/corrupt pairs; None if that is not known yet.
        metric: the phenomenon's.
    """

    where: KeyPath
    word: str
    choice: PromptChoice
    drawn: bool = False
    pairs: bool | None = None
    metric: str | None = None


#: For recipes that take no prompts.
NO_PROMPTS = PromptsEntry((), "", PromptChoice())


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe. `axes`: parameter → its values; `word`: its name as written in the file."""

    where: KeyPath
    word: str
    path: str
    card: Card
    axes: Mapping[str, list[Any]]
    backend: str


@dataclass(frozen=True)
class SelectionEntry:
    """Points of the grid: the ones that match every non-empty field."""

    where: KeyPath
    recipe: tuple[str, ...]
    model: tuple[str, ...]
    phenomenon: tuple[str, ...]
    seed: tuple[int, ...]
    parameters: Mapping[str, Any]


@dataclass
class Block:
    """A grid: models × recipes × prompts × seeds. `where`: () for the study's own grid."""

    where: KeyPath = ()
    models: list[ModelEntry] = field(default_factory=list)
    recipes: list[RecipeEntry] = field(default_factory=list)
    prompts: list[PromptsEntry] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

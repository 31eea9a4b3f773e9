"""What a study file says: its points, each the description of one job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.choice import PromptChoice
from remote_mi.recipes.declaration import Card


@dataclass(frozen=True, slots=True)
class Point:
    """One job of a study, as `remote_mi.jobs.building.make_job` takes it.

    Attributes:
        index: its place in the study, from 0.
        recipe: name, or absolute file (`/…/mine.py:name`).
        model, choice: the model and the prompts; an empty choice for a recipe that takes none.
        parameters: those that the study gives, as the recipe gets them.
        backend: as `--backend` takes it. card: of the recipe, as it was found.
    """

    index: int
    recipe: str
    model: ModelSpec
    choice: PromptChoice
    parameters: Mapping[str, Any]
    backend: str
    card: Card


@dataclass(frozen=True)
class Study:
    """A study file, checked as far as that is possible without a tokenizer.

    Attributes:
        name, title, question: as in the file; the title is the name, and the question empty, where
            it has none.
        path: the file.
        points: every job once; those of one model stand together.
        figures: recipe's own name → the figures chosen for the report; recipes that are not
            named show all of theirs.
    """

    name: str
    title: str
    question: str
    path: Path
    points: tuple[Point, ...]
    figures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

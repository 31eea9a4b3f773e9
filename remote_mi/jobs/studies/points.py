"""The content of a study file: its points, each of which describes one job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.choice import PromptChoice
from remote_mi.recipes.declaration import Card
from remote_mi.store.claims.claim import Claim
from remote_mi.store.grid_comparison import GridComparison


@dataclass(frozen=True, slots=True)
class Point:
    """One job of a study, as arguments of `remote_mi.jobs.building.make_job`.

    Attributes:
        index: its position in the study, from 0.
        recipe: name, or absolute file (`/…/mine.py:name`).
        model, choice: the model and the prompts; an empty choice for a recipe that takes none.
        parameters: given by the study, parsed.
        backend: as for `--backend`. card: of the recipe.
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
    """A study file, checked as far as possible without a tokenizer.

    Attributes:
        name, title, question: from the file; the title defaults to the name, the question to "".
        path: the file.
        points: every job once, grouped by model.
        figures: recipe → names of the figures chosen for the report; recipes without an entry
            show all of theirs.
        claims: what it expects of its points. compare: comparisons across them.
    """

    name: str
    title: str
    question: str
    path: Path
    points: tuple[Point, ...]
    figures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    compare: tuple[GridComparison, ...] = ()

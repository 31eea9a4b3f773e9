"""Creating jobs from arguments, a command line or a study's point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.jobs.job import Job, Memo
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.choice import PromptChoice
from remote_mi.prompts.examples import PromptSet
from remote_mi.recipes import catalog
from remote_mi.recipes.card import Card
from remote_mi.recipes.declaration import card_of


def make_job(
    recipe: str | Callable[..., Any] | Card,
    spec: ModelSpec,
    choice: PromptChoice,
    parameters: Mapping[str, Any],
    project: Path,
    drop_invalid: bool = False,
) -> Job:
    """Create a validated job; errors as `remote_mi.run`, if detectable without a tokenizer.

    Args:
        recipe: a name, a file, a decorated function, or a card.
    """
    card, function = resolve_recipe(recipe, project)
    card.resolve(parameters)  # report a mistyped parameter before missing prompts
    prompts = choice.check_none(card.name) if card.over == "none" else choice.resolve(project)
    return job_on(
        card, spec, prompts, parameters, project, function=function, drop_invalid=drop_invalid
    )


def resolve_recipe(
    recipe: str | Callable[..., Any] | Card, project: Path
) -> tuple[Card, Callable[..., Any] | None]:
    """A recipe's card, and its function if it is not in a file."""
    if isinstance(recipe, Card):
        return recipe, None
    if isinstance(recipe, str):
        return catalog.find(recipe, project), None
    return card_of(recipe), recipe


def job_on(
    card: Card,
    spec: ModelSpec,
    prompts: PromptSet,
    parameters: Mapping[str, Any],
    project: Path,
    *,
    function: Callable[..., Any] | None = None,
    drop_invalid: bool = False,
    memo: Memo | None = None,
) -> Job:
    """A validated job from a card and resolved prompts; errors as `make_job`."""
    if "attention_weights" in card.needs:
        if spec.attention not in ("auto", "eager"):
            raise UsageError(
                f"recipe {card.name!r} reads attention weights, which attention "
                f"{spec.attention!r} does not provide",
                "leave --attention out",
            )
        spec = replace(spec, attention="eager")
    if (card.analysis or card.setup) and card.path is None:
        what = "an analysis" if card.analysis else "a setup"
        raise UsageError(
            f"recipe {card.name!r} has {what} but no file",
            "write it to a file, and name the file",
        )
    if card.takes_pairs:
        for index, example in enumerate(prompts.examples):
            if example.corrupt is None:
                raise UsageError(
                    f"recipe {card.name!r} works on clean/corrupt pairs; prompt {index + 1} has "
                    "no corrupt prompt",
                    "give -p clean=… -p corrupt=… -p answer=… -p wrong=…, or --phenomenon NAME",
                )
    names = {p.name for p in card.parameters}
    given = dict(parameters)
    if prompts.metric is not None and "metric" in names:
        given.setdefault("metric", prompts.metric)
    return Job(
        card,
        spec,
        prompts,
        card.resolve(given),
        project,
        function,
        drop_invalid,
        memo=memo or Memo(),
    )

"""Creating jobs from arguments, a command line or a study's point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from remote_mi.common.annotated_types import argument_problem, shown
from remote_mi.common.errors import UsageError, first_line
from remote_mi.common.paths import project_folder
from remote_mi.jobs.artifacts import take_artifacts
from remote_mi.jobs.behaviour_prompts import with_behaviours
from remote_mi.jobs.early_checks import check_own_metrics
from remote_mi.jobs.job import Job, Memo
from remote_mi.models import in_hand
from remote_mi.models.spec import ModelSpec
from remote_mi.models.tokenizer_files import IDS
from remote_mi.prompts.choice import PromptChoice
from remote_mi.prompts.examples import PromptSet
from remote_mi.prompts.parameter import resolve_prompts
from remote_mi.prompts.reading import LEFT_OUT
from remote_mi.recipes import catalog
from remote_mi.recipes.card import INPUTS, Card
from remote_mi.recipes.declaration import card_of

#: Argument → what to pass instead of a value of the wrong type.
_TYPE_HINTS = {
    "model": "give its hub id, its folder, a ModelSpec, or a transformers model in memory",
    "tokenizer": "give its hub id, its folder, 'ids', or a tokenizer of transformers in memory",
    "phenomenon": 'its name or file, e.g. "ioi"; prompts of your own are pairs=…',
}
#: The prompts of a recipe whose user chose none.
Otherwise = Callable[[Card], PromptSet]


def check_types(function: Callable[..., Any], **given: Any) -> None:
    """Refuse arguments that do not fit the annotations of a function.

    Raises:
        UsageError: naming the argument and what is expected.
    """
    name, problem = argument_problem(function, given)
    if problem:
        raise UsageError(problem, _TYPE_HINTS.get(name))


def project_of(given: str | Path | None) -> Path:
    """The project folder, which need not exist yet.

    Raises:
        UsageError: if there can be none of that name.
    """
    folder = Path(given).absolute() if given else project_folder()
    try:
        folder.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UsageError(f"project {shown(str(folder))} cannot be used: {reason}") from None
    return folder


def job_from_python(
    recipe: str | Callable[..., Any] | Card,
    inputs: Mapping[str, Any],
    *,
    model: str | Path | ModelSpec | Any,
    tokenizer: str | Path | Any | None,
    phenomenon: str | None,
    pairs: str | Path | Iterable[Mapping[str, Any]] | None,
    n: int | None,
    seed: int | None,
    project: str | Path | None,
    parameters: Mapping[str, Any] | None,
    columns: Mapping[str, str] | None = None,
    format: str = "",
    thinking: bool | None = None,
    align: str = "",
    drop_invalid: bool = False,
    otherwise: Otherwise | None = None,
) -> Job:
    """The job that arguments of the Python API describe; they are as for `remote_mi.job`.

    Args:
        inputs: parameters and prompt texts by name. otherwise: as for `make_job`.
    """
    spec = _spec(model, tokenizer)
    check_types(
        job_from_python,
        phenomenon=phenomenon,
        n=n,
        seed=seed,
        columns=columns,
        format=format,
        thinking=thinking,
        align=align,
        drop_invalid=drop_invalid,
        project=project,
        parameters=parameters,
    )
    texts = {k: v for k, v in inputs.items() if k in INPUTS and v is not None}
    choice = PromptChoice(phenomenon, pairs, texts, n, seed, columns or {}, format, thinking, align)
    given = {**(parameters or {}), **{k: v for k, v in inputs.items() if k not in INPUTS}}
    made = make_job(
        recipe, spec, choice, given, project_of(project), drop_invalid, otherwise=otherwise
    )
    # Objects are found by name as long as they live, and they live as long as the job does.
    made.memo.get_or_compute("objects", lambda: (model, tokenizer))
    return made


def _spec(model: Any, tokenizer: Any) -> ModelSpec:
    """The model that arguments describe: by name, or objects in memory.

    Raises:
        UsageError: if they are neither.
    """
    given = model
    if in_hand.is_model(model):
        given = ModelSpec(in_hand.name_model(model), tokenizer=None if tokenizer else IDS)
    check_types(_named_spec, model=given)
    spec = given if isinstance(given, ModelSpec) else ModelSpec(str(given))
    if tokenizer is None:
        return spec
    if not isinstance(tokenizer, (str, Path)):
        tokenizer = in_hand.name_tokenizer(tokenizer)
    return replace(spec, tokenizer=str(tokenizer))


def _named_spec(model: str | Path | ModelSpec) -> None:
    """For its annotation: what names a model."""


def make_job(
    recipe: str | Callable[..., Any] | Card,
    spec: ModelSpec,
    choice: PromptChoice,
    parameters: Mapping[str, Any],
    project: Path,
    drop_invalid: bool = False,
    *,
    otherwise: Otherwise | None = None,
) -> Job:
    """Create a validated job; errors as `remote_mi.run`, if detectable without a tokenizer.

    Args:
        recipe: a name, a file, a decorated function, or a card.
        otherwise: makes the prompts if none are chosen; without it, that is an error.
    """
    card, function = resolve_recipe(recipe, project)
    card.resolve(parameters)  # report a mistyped parameter before missing prompts
    _check_seed(card, choice)
    if card.over == "none":
        prompts = choice.check_none(card.name)
    elif otherwise is not None and choice == PromptChoice():
        prompts = otherwise(card)
    else:
        prompts = choice.resolve(project, drop_invalid)
    return job_on(
        card, spec, prompts, parameters, project, function=function, drop_invalid=drop_invalid
    )


def _check_seed(card: Card, choice: PromptChoice) -> None:
    """Refuse a seed where no prompts are drawn with one, and say where the recipe knows the word.

    Raises:
        UsageError: unless the prompts are a phenomenon's.
    """
    if choice.seed is None or (choice.phenomenon is not None and card.over != "none"):
        return
    own = any(param.name == "seed" for param in card.parameters)
    raise UsageError(
        "--seed belongs to a phenomenon, whose prompts are drawn with it"
        + (f"; recipe {card.name!r} takes no prompts" if card.over == "none" else ""),
        f"the seed of recipe {card.name!r} is -p seed={choice.seed} (in Python "
        f"parameters={{'seed': {choice.seed}}})"
        if own
        else "leave it out",
    )


def _only_pairs(card: Card, prompts: PromptSet, drop: bool) -> PromptSet:
    """The prompts of a recipe that takes pairs; `drop`: without those that are none, if some are.

    Raises:
        UsageError: naming the first that is none.
    """
    single = [i for i, example in enumerate(prompts.examples) if example.corrupt is None]
    if not single:
        return prompts
    if not drop or len(single) == len(prompts.examples):
        some = len(single) < len(prompts.examples)
        raise UsageError(
            f"recipe {card.name!r} works on clean/corrupt pairs; prompt {single[0] + 1} has "
            "no corrupt prompt" + (f" ({len(single) - 1} more like it)" if len(single) > 1 else ""),
            "run the pairs alone with --drop-invalid"
            if some
            else "give -p clean=… -p corrupt=… -p answer=… -p wrong=…, or --phenomenon NAME",
        )
    why = [f"prompt {i + 1} ({prompts.examples[i].clean!r:.60}): no pair" for i in single]
    pairs = tuple(example for example in prompts.examples if example.corrupt is not None)
    left_out = [*prompts.details.get(LEFT_OUT, ()), *why]
    return replace(prompts, examples=pairs, details={**prompts.details, LEFT_OUT: left_out})


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
    if any(e.ids for e in prompts.examples) and spec.tokenizer != IDS:
        raise UsageError(
            f"the prompts are token ids, and {spec.name} has a tokenizer",
            "write texts, or say that ids are meant: tokenizer='ids' (--tokenizer ids)",
        )
    if card.takes_pairs:
        prompts = _only_pairs(card, prompts, drop_invalid)
    prompts = with_behaviours(card, prompts)
    names = {p.name for p in card.parameters}
    given = dict(parameters)
    if prompts.metric is not None and "metric" in names:
        given.setdefault("metric", prompts.metric)
    resolved, memo = card.resolve(given), memo or Memo()
    for param in card.parameters:
        if param.kind == "prompts" and resolved[param.name] is not None:
            resolved[param.name] = resolve_prompts(param.name, resolved[param.name], project)
    values, artifacts = take_artifacts(card, resolved, spec, project, memo)
    made = Job(
        card,
        spec,
        prompts,
        values,
        project,
        function,
        drop_invalid,
        memo=memo,
        artifacts=artifacts,
    )
    check_own_metrics(made)
    return made

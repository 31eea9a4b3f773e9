"""Checking a recipe on tiny models of every family, and on a model and a server of your own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from remote_mi.common.errors import RunFailed
from remote_mi.common.progress import Silent, Watch
from remote_mi.jobs.building import check_types, job_from_python
from remote_mi.jobs.job import Job
from remote_mi.jobs.recipe_check.examples import built_in_prompts
from remote_mi.jobs.recipe_check.report import PropertyFinding, RecipeCheck
from remote_mi.jobs.runner import execute
from remote_mi.models.spec import ModelSpec
from remote_mi.models.tiny_models import ENCODERS, FAMILIES
from remote_mi.recipes.card import Card
from remote_mi.store.comparison import compare

#: How far apart the numbers of a server and of this machine may be.
PLACE_TOLERANCE = 1e-5


def check_recipe(
    recipe: str | Callable[..., Any] | Card,
    *,
    model: str | Path | ModelSpec | None = None,
    backend: str | None = None,
    phenomenon: str | None = None,
    pairs: str | Path | Iterable[Mapping[str, Any]] | None = None,
    n: int | None = None,
    seed: int | None = None,
    project: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    **inputs: Any,
) -> RecipeCheck:
    """Check that a recipe is a function of its inputs, on tiny random models of every family.

        found = mi.check_recipe("my_recipe")
        assert found.passed, found

    Args:
        recipe: a name, a file, or a function decorated with @recipe.
        model: one more model to check it on.
        backend: a server; its numbers are compared with this machine's, on `model` or else on
            the embedded one. Both runs are saved, like any other.
        phenomenon, pairs, n, seed: prompts as for `remote_mi.job`; by default built-in ones.
        project, parameters: as for `remote_mi.job`.
        watch: shows progress.
        **inputs: the recipe's parameters, and prompt/target or clean/corrupt/answer/wrong.

    Raises:
        RemoteMIError: if the recipe, a parameter or the prompts are invalid, or the server cannot
            run it.
    """
    check_types(check_recipe, backend=backend, watch=watch)
    job = job_from_python(
        recipe,
        inputs,
        model=ModelSpec() if model is None else model,
        tokenizer=None,
        phenomenon=phenomenon,
        pairs=pairs,
        n=n,
        seed=seed,
        project=project,
        parameters=parameters,
        otherwise=built_in_prompts,
    )
    return run_checks(job, model is not None, backend, watch or Silent())


def run_checks(job: Job, own_model: bool, backend: str | None, watch: Watch) -> RecipeCheck:
    """Check the recipe of a job with its prompts and parameters.

    Args:
        own_model: on the job's model, too. backend: a server to compare with on that model.
    """
    started = time.perf_counter()
    findings = list(_findings(job, own_model, watch))
    if backend is None:
        findings.append(PropertyFinding("place", "not applicable", "", "no server is given"))
    else:
        findings.append(_place(job, backend, watch))
    return RecipeCheck(job.card.name, tuple(findings), round(time.perf_counter() - started, 1))


def _findings(job: Job, own_model: bool, watch: Watch) -> Iterator[PropertyFinding]:
    from remote_mi.jobs.recipe_check.properties import check_on_model
    from remote_mi.models.isolation import default_torch_settings, quiet_libraries
    from remote_mi.models.load import unload
    from remote_mi.models.tiny_models import save_tiny_model

    texts = [*_texts(job)]
    families = (*FAMILIES, *ENCODERS)
    ran = False
    try:
        with tempfile.TemporaryDirectory(prefix="remote-mi-check-") as home:
            for index, family in enumerate(families):
                watch.stage(f"checking {job.card.name} on a tiny {family}")
                watch.advance(index, len(families), "models")
                folder = Path(home) / family
                with default_torch_settings(), quiet_libraries():
                    save_tiny_model(family, folder, texts)
                spec = ModelSpec(str(folder), attention=job.model.attention, bos=job.model.bos)
                found = check_on_model(_job_on(job, spec, ran), family, Silent(), not ran)
                ran |= len(found) > 1
                yield from found
        if own_model:
            watch.stage(f"checking {job.card.name} on {job.model.name}")
            found = check_on_model(_job_on(job, job.model, ran), job.model.name, watch, not ran)
            ran |= len(found) > 1
            yield from found
        if not ran:
            yield PropertyFinding("families", "fails", "", "it runs on none of them")
    finally:
        unload()  # a recipe may have changed its weights


def _job_on(job: Job, spec: ModelSpec, analyzed: bool) -> Job:
    """The job on a model; with fewer prompts if they were for the analysis, and that is done."""
    prompts = job.prompts
    if analyzed and job.card.analysis:
        prompts = replace(prompts, examples=prompts.examples[:3])
    return replace(job, model=spec, prompts=prompts)


def _texts(job: Job) -> Iterator[str]:
    """Every text that a tokenizer has to know: of the prompts and parameters, and some words more.

    Recipes without prompts draw their tokens from the vocabulary.
    """
    yield from (f" {one}{other}" for one in "bcdfghjklmnprstvwz" for other in "aeiouy")
    for example in job.prompts.examples:
        yield from (example.clean, example.corrupt or "", *example.answers, *example.wrongs)
        yield from (text for text in (example.answer, example.wrong) if text)
    for value in job.parameters.values():
        yield from (
            text
            for text in (value if isinstance(value, list) else [value])
            if isinstance(text, str)
        )


def _place(job: Job, backend: str, watch: Watch) -> PropertyFinding:
    """Whether a server's numbers are those of this machine."""
    here = execute(job, "local", None, watch)
    try:
        there = execute(job, backend, None, watch)
    except RunFailed as error:
        return PropertyFinding("place", "fails", job.model.name, f"it fails there: {error.message}")
    found = compare(here, there)
    worst = found.worst
    if found.within(PLACE_TOLERANCE):
        return PropertyFinding(
            "place",
            "holds",
            job.model.name,
            output=worst.name if worst else "",
            difference=worst.largest if worst else 0.0,
        )
    assert worst is not None
    size = worst.why_not or f"differs by {worst.largest:.2g}"
    return PropertyFinding(
        "place", "fails", job.model.name, f"{worst.name} {size}", worst.name, worst.largest
    )

"""A job's prompts and parameters as its recipe takes them, tokenized for a model."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi.common.errors import UsageError
from remote_mi.interventions.metrics import OwnMetric
from remote_mi.jobs.job import Job
from remote_mi.models.load import LoadedModel
from remote_mi.prompts.errors import PromptErrors
from remote_mi.prompts.examples import Example, PromptSet
from remote_mi.prompts.parameter import prompts_of
from remote_mi.prompts.tokens import Tokenized, tokenize
from remote_mi.recipes.loading import load_own_metric


def tokenize_prompts(job: Job, model: LoadedModel) -> Tokenized:
    """The prompts or pairs of a job; errors as `tokenize`."""
    return _tokenize(job, model, job.prompts, job.card.over, job.drop_invalid)


def tokenize_parameters(job: Job, model: LoadedModel) -> dict[str, Any]:
    """The parameters of a job's recipe: prompts tokenized, artifacts as tensors, metrics loaded.

    Raises:
        UsageError: if prompts do not fit the tokenizer, naming the parameter.
    """
    parameters = {**job.parameters, **artifact_tensors(job)}
    for param in job.card.parameters:
        if param.kind == "prompt" and parameters[param.name] is not None:
            text = PromptSet((Example(parameters[param.name]),), param.name)
            parameters[param.name] = _tokenize(job, model, text, "prompt").prompts[0]
        elif param.kind == "prompts" and parameters[param.name] is not None:
            texts = prompts_of(parameters[param.name])
            try:
                parameters[param.name] = _tokenize(job, model, texts, "prompts").prompts
            except PromptErrors as error:
                raise UsageError(f"parameter {param.name!r}: {error.message}") from None
    return {**parameters, **load_metrics(job)}


def load_metrics(job: Job) -> dict[str, OwnMetric]:
    """Parameter → the project's own metric that it names, as the recipe's body gets it."""
    found = {}
    for name, own in job.metrics.items():
        function = load_own_metric(own, job.project)
        found[name] = OwnMetric(own.text, function, own.facts.against_clean)
    return found


def artifact_tensors(job: Job) -> dict[str, torch.Tensor]:
    """Parameter → the numbers of its artifact, on the CPU."""
    return {name: torch.from_numpy(one.array.copy()) for name, one in job.artifacts.items()}


def _tokenize(
    job: Job, model: LoadedModel, prompts: PromptSet, over: str, drop: bool = False
) -> Tokenized:
    return tokenize(
        model.tokenizer,
        prompts,
        job.model,
        over,
        model.context,
        drop=drop,
        masked=model.masked,
        bidirectional=model.bidirectional,
        decoded=model.decoded,
        vocabulary=model.vocabulary,
        why_equal=job.card.why_equal(job.parameters),
    )

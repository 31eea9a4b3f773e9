"""What can be refused before a model is loaded: layers, labels and folds that do not exist.

Recipes check these themselves, where the model is. Of built-in recipes, whose parameters of a name
mean the same, most mistakes are already clear from the prompts and the model's configuration.
"""

from __future__ import annotations

from remote_mi.common.errors import UsageError
from remote_mi.interventions.part_sets import (
    PART_SITES,
    check_parts,
    count_others,
    grouped_parts,
    parse_parts,
)
from remote_mi.interventions.vocabulary import METRICS
from remote_mi.jobs.job import Job
from remote_mi.models.checkpoint import layers_and_heads

_START, _END = "_start", "_end"


def check_before_loading(job: Job) -> None:
    """Refuse parameters that cannot fit the job's prompts or its model.

    Raises:
        UsageError: naming the parameter, its value, and what there is.
    """
    if job.card.origin != "built-in":  # there the names may mean something else
        return
    _check_layers(job)
    _check_labels(job)
    _check_folds(job)
    _check_gradient(job)
    _check_parts(job)
    _check_positions(job)


def check_own_metrics(job: Job) -> None:
    """Refuse metrics of the project's own that cannot be found, or lack a gradient that is needed.

    Raises:
        NotFound, UsageError: naming the metric.
    """
    for name, own in job.metrics.items():
        if not own.facts.differentiable and "gradients" in job.card.needs:
            raise UsageError(
                f"parameter {name!r}: {own.text} is declared without a gradient, and recipe "
                f"{job.card.name!r} needs one",
                "declare it differentiable=True if it is, or use a technique that runs every cell, "
                "e.g. activation_patching",
            )


def _check_layers(job: Job) -> None:
    """Refuse layers that the model's configuration, if it is on this machine, does not have."""
    asked = [
        (param.name, layer)
        for param in job.card.parameters
        if param.name == "layers" and param.kind == "ints"
        for layer in job.parameters.get(param.name) or ()
    ]
    count = layers_and_heads(job.model)[0] if asked else None
    for name, layer in asked:
        if count is not None and layer >= count:
            raise UsageError(
                f"parameter {name!r}: there is no layer {layer}: {job.model.name} has layers 0 to "
                f"{count - 1}",
                f"give -p {name}={count - 1} or fewer",
            )


def _check_labels(job: Job) -> None:
    """Refuse prompts without the label whose span the parameters `LABEL_start`, `LABEL_end` give."""
    names = {param.name for param in job.card.parameters}
    for start in sorted(name for name in names if name.endswith(_START)):
        label = start.removesuffix(_START)
        if label + _END not in names or job.parameters.get(start) is not None:
            continue
        for index, example in enumerate(job.prompts.examples):
            if label not in example.labels:
                known = ", ".join(sorted(example.labels)) or "none"
                raise UsageError(
                    f"prompt {index + 1} has no label {label!r}, which recipe {job.card.name!r} "
                    f"needs; its labels: {known}",
                    f"give --{label}-start and --{label}-end, the positions of its first and last "
                    f'token, or label it: "labels": {{"{label}": "…"}} in a file, {{x:{label}}} in '
                    "a phenomenon",
                )


def _check_folds(job: Job) -> None:
    """Refuse a cross-validation with more folds than prompts."""
    folds, count = job.parameters.get("folds"), len(job.prompts.examples)
    if isinstance(folds, int) and job.card.over != "none" and count < folds:
        what = "pairs" if job.card.takes_pairs else "prompts"
        raise UsageError(
            f"{count} {what} cannot be dealt into {folds} folds",
            f"give more {what}, or -p folds={max(1, count)} or fewer",
        )


def _check_parts(job: Job) -> None:
    """Refuse a set of heads or neurons that the model's configuration does not have."""
    asked = {what: f"{what}s" for what in PART_SITES if f"{what}s" in job.parameters}
    if not asked:
        return
    layers, count = layers_and_heads(job.model)
    if all(job.parameters[name] is None for name in asked.values()):
        raise UsageError(
            f"recipe {job.card.name!r} needs a set: {' or '.join(asked.values())}",
            "give -p heads=9.6,9.9,10.0 (layer.head)",
        )
    for what, name in asked.items():
        try:
            parts = parse_parts(what, job.parameters[name])
            check_parts(what, parts, layers, count if what == "head" else None)
            if parts and what == "head" and count is not None:
                count_others(grouped_parts(parts, []), {PART_SITES[what]: count})
        except ValueError as error:
            raise UsageError(f"parameter {name!r}: {error}", f"e.g. -p {name}=9.6,9.9") from None


def _check_positions(job: Job) -> None:
    """Refuse labels of positions that a prompt does not have."""
    for name in job.parameters.get("positions") or ():
        for index, example in enumerate(job.prompts.examples):
            known = sorted({*example.labels, "all", "end"})
            if name not in known and not name.isdecimal():
                raise UsageError(
                    f"parameter 'positions': prompt {index + 1} has no label {name!r}",
                    f"it has {', '.join(known)}, and positions by their number",
                )


def _check_gradient(job: Job) -> None:
    """Refuse a metric without a gradient where one is needed."""
    metric = job.parameters.get("metric")
    if metric not in METRICS or METRICS[metric].differentiable or "gradients" not in job.card.needs:
        return
    others = ", ".join(name for name, facts in METRICS.items() if facts.differentiable)
    raise UsageError(
        f"parameter 'metric': {metric} has no gradient, and recipe {job.card.name!r} needs one",
        f"give one of {others}, or use a technique that runs every cell, e.g. activation_patching",
    )

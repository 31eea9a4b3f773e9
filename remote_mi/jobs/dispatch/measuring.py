"""Measuring what a job needs in addition to the weights, and its results, by a run without weights.

Takes seconds, since it builds the model's modules; `remote_mi.jobs.dispatch.plan` does it only if,
by the estimate, the weights fit but the job does not, or its results may be too large.
"""

from __future__ import annotations

from dataclasses import replace

from remote_mi.backends.base import Work
from remote_mi.backends.options import Footprint
from remote_mi.common.errors import RemoteMIError
from remote_mi.common.progress import Silent
from remote_mi.jobs.job import Job
from remote_mi.models.isolation import exclusive_model_use
from remote_mi.recipes import loading


def measure(job: Job, need: Footprint, rows_bytes: int) -> Footprint:
    """The measured need of a job; `need` unchanged if the recipe cannot be run without weights.

    Args:
        need: the estimate. rows_bytes: memory that the rows of a sweep may use.
    """
    from remote_mi.backends.dry_run import expected_outputs, peak_memory
    from remote_mi.jobs.inputs import artifact_tensors, load_metrics, tokenize_prompts
    from remote_mi.models.load import UNSENT_ID, build_weightless

    card = job.card
    given = job.parameters
    if any(p.kind == "prompt" or (p.kind == "prompts" and given[p.name]) for p in card.parameters):
        return need  # these texts are tokenized only where the job runs
    try:
        model = build_weightless(job.model, Silent(), UNSENT_ID)
        tokenized = tokenize_prompts(job, model)
        calls = card.calls(tokenized.prompts)
        function = job.function or loading.load_function(card, job.project)
        parameters = {**job.parameters, **artifact_tensors(job), **load_metrics(job)}
    except RemoteMIError:
        return need  # the error is reported when the job is run
    with exclusive_model_use():
        together = tokenized.prompts if card.setup else ()
        work = Work(card, function, calls, parameters, job.key, together=together)
        try:
            size = expected_outputs(model, work).bytes
        except RemoteMIError:
            return need
        if size is not None:
            need = replace(need, bytes_down=size, bytes_down_most=size)
        found = peak_memory(model, work, rows_bytes)
    return need if found is None else replace(need, activations=found, measured=True)

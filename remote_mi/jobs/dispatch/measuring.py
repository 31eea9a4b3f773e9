"""The memory that a job needs beside the weights, found by a run without weights.

Takes seconds, since it builds the model's modules; `remote_mi.jobs.dispatch.plan` asks for it only where
arithmetic says that the weights fit and the job does not.
"""

from __future__ import annotations

from dataclasses import replace

from remote_mi.backends.base import Work
from remote_mi.backends.options import Footprint
from remote_mi.common.errors import RemoteMIError
from remote_mi.common.progress import Silent
from remote_mi.jobs.job import Job
from remote_mi.models.surroundings import at_work
from remote_mi.recipes import loading


def measured(job: Job, need: Footprint, rows_bytes: int) -> Footprint:
    """What a job needs, measured; as it was where a run without weights cannot follow the recipe.

    Args:
        rows_bytes: what the rows of a sweep may take.
    """
    from remote_mi.backends.dry_run import peak_memory
    from remote_mi.models.load import NOWHERE, build_weightless
    from remote_mi.prompts.tokens import tokenize

    card = job.card
    if any(param.kind == "prompt" for param in card.parameters):
        return need  # their texts are tokenized where the job runs
    try:
        model = build_weightless(job.model, Silent(), NOWHERE)
        tokenized = tokenize(
            model.tokenizer,
            job.prompts,
            job.model,
            card.over,
            model.context,
            drop=job.drop_invalid,
            masked=model.masked,
            both_ways=model.both_ways,
        )
        calls = [None if card.over == "none" else tokenized.prompts]
        calls = calls if card.called_once else list(tokenized.prompts)
        function = job.function or loading.load_function(card, job.project)
    except RemoteMIError:
        return need  # it is said where the job is made to run
    with at_work():
        together = tokenized.prompts if card.setup else ()
        work = Work(card, function, calls, job.parameters, job.key, together=together)
        found = peak_memory(model, work, rows_bytes)
    return need if found is None else replace(need, activations=found, measured=True)

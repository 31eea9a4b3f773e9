"""The Python API for jobs: create, plan, run and submit them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from remote_mi.backends.ledger import Ledger
from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Silent, Watch
from remote_mi.common.text import counted
from remote_mi.jobs.building import check_types, job_from_python, project_of
from remote_mi.jobs.dispatch.plan import Plan
from remote_mi.jobs.job import Job
from remote_mi.jobs.remote import RemoteJob, submit_job
from remote_mi.jobs.runner import execute, look_up_anywhere, survey
from remote_mi.models.spec import ModelSpec
from remote_mi.store.result import Result


@dataclass(frozen=True, repr=False)
class UserJob(Job):
    """A job created by `remote_mi.job`: validated and immutable, with methods to run it."""

    def plan(self, backend: str = "auto") -> Plan:
        """Where the job would run, and why; nothing is run. Errors as `remote_mi.plan`."""
        check_types(UserJob.plan, backend=backend)
        return survey(self, backend)[0]

    def run(
        self,
        backend: str = "auto",
        *,
        timeout: float | None = None,
        watch: Watch | None = None,
        fetch: bool = False,
        reuse_any: bool = False,
    ) -> Result:
        """The job's result, computed if there is none yet. Args and errors as `remote_mi.run`."""
        check_types(
            UserJob.run,
            backend=backend,
            timeout=timeout,
            watch=watch,
            fetch=fetch,
            reuse_any=reuse_any,
        )
        if timeout is not None and not timeout >= 0:
            raise UsageError(f"timeout is {timeout}, not a number of seconds", "None has no limit")
        existing = look_up_anywhere(self, backend) if reuse_any else None
        return existing or execute(self, backend, timeout, watch or Silent(), lambda plan: fetch)

    def submit(self, backend: str = "ndif", *, watch: Watch | None = None) -> RemoteJob:
        """Send the job to a server and return at once. Args and errors as `remote_mi.submit`."""
        check_types(UserJob.submit, backend=backend, watch=watch)
        return submit_job(self, backend, watch or Silent())

    def __repr__(self) -> str:
        count = len(self.prompts.examples)
        prompts = counted(count, "prompt")
        return f"<job {self.card.name} on {self.model.name}, {prompts}, key {self.key[:16]}>"


def job(
    recipe: str | Callable[..., Any],
    *,
    model: str | Path | ModelSpec | Any = ModelSpec(),  # noqa: B008 - immutable
    tokenizer: str | Path | Any | None = None,
    phenomenon: str | None = None,
    pairs: str | Path | Iterable[Mapping[str, Any]] | None = None,
    n: int | None = None,
    seed: int | None = None,
    columns: Mapping[str, str] | None = None,
    format: str = "",
    thinking: bool | None = None,
    align: str = "",
    drop_invalid: bool = False,
    project: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    **inputs: Any,
) -> UserJob:
    """Create a job: a recipe on a model and prompts, validated, with its key; nothing is run.

        job = mi.job("activation_patching", phenomenon="ioi", n=16)
        job.key, job.plan(), job.run(), job.submit("ndif")

    Args:
        recipe: a name, a file (`my.py`, `my.py:name`), or a function decorated with @recipe.
        model: a hub id, a folder, the embedded model's name, a `ModelSpec`, or a
            `transformers.PreTrainedModel` in memory, which is not changed.
        tokenizer: takes the place of the model's own: a hub id, a folder, a tokenizer of
            transformers in memory, or "ids": prompts and answers are token ids. A model in
            memory without one takes ids.
        phenomenon: name or file, optionally with a template: "ioi", "ioi:store".
        pairs: a file (JSON lines or array, CSV, TSV, Parquet, Excel), or dicts (a list, tuple or
            generator), with clean, corrupt, answer, wrong (or prompt, target).
        n, seed: how many prompts of a phenomenon, and its seed.
        columns: field → column of the file, where their names differ: {"clean": "question"}.
        format: published format of the file's records: blimp, stereoset, winogender, counterfact,
            ravel, mib, some with a variant (blimp:sentences); recognised by the columns if left out.
        thinking: switches the chat template's thinking on or off, if it knows `enable_thinking`.
        align: how pairs of prompts of unequal length are aligned: "labels", by the labels that both
            have, or "ends", by what they begin and end with in common. Without it they are refused.
        drop_invalid: leave out records that give no prompt and prompts that do not fit the
            tokenizer, and note which.
        project: folder that contains runs/ and recipes/; the working folder by default.
        parameters: recipe parameters whose names clash with the arguments above.
        **inputs: the recipe's parameters, and prompt/target or clean/corrupt/answer/wrong. A prompt
            may be a conversation: a list of messages with `role` and `content` (`messages=` is
            another name for `prompt=` then).

    Raises:
        RemoteMIError: for anything invalid that can be detected without a tokenizer.
    """
    made = job_from_python(
        recipe,
        inputs,
        model=model,
        tokenizer=tokenizer,
        phenomenon=phenomenon,
        pairs=pairs,
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
    return UserJob(**{field.name: getattr(made, field.name) for field in fields(Job)})


def _job_of(recipe: str | Callable[..., Any] | UserJob, arguments: Mapping[str, Any]) -> UserJob:
    if not isinstance(recipe, UserJob):
        return job(recipe, **arguments)
    if arguments:
        raise UsageError(
            "a job already has its model, prompts and parameters; also given: "
            + ", ".join(arguments),
            "create another one with remote_mi.job(…)",
        )
    return recipe


def run(
    recipe: str | Callable[..., Any] | UserJob,
    *,
    backend: str = "auto",
    timeout: float | None = None,
    watch: Watch | None = None,
    fetch: bool = False,
    reuse_any: bool = False,
    **arguments: Any,
) -> Result:
    """Run a recipe, or return the existing result.

    Args:
        recipe: as for `remote_mi.job`, or a job that it returned.
        backend: "auto", "local", "ndif" or "ndif:https://host".
        timeout: seconds to wait for a remote job.
        watch: shows progress.
        fetch: allow model downloads of any size; without it, only up to `limits.ask_above` in
            remote-mi.yaml.
        reuse_any: accept a result that was computed in any environment; its provenance says so.
        **arguments: the other arguments of `remote_mi.job`: model, prompts, parameters.

    Raises:
        RemoteMIError: every problem a user can act on, by kind (see `remote_mi.common.errors`).
    """
    made = _job_of(recipe, arguments)
    return made.run(backend, timeout=timeout, watch=watch, fetch=fetch, reuse_any=reuse_any)


def plan(
    recipe: str | Callable[..., Any] | UserJob, *, backend: str = "auto", **arguments: Any
) -> Plan:
    """Where `run` with the same arguments would run the job, and why; nothing is run.

    Considers every backend, and queries servers. Args as `run`.

    Raises:
        BackendUnavailable: if no backend can run it. Others as `run`.
    """
    return _job_of(recipe, arguments).plan(backend)


def submit(
    recipe: str | Callable[..., Any] | UserJob,
    *,
    backend: str = "ndif",
    watch: Watch | None = None,
    **arguments: Any,
) -> RemoteJob:
    """Submit a recipe to a server and return at once; a collector process fetches the result.

    Args and errors as `run`.
    """
    return _job_of(recipe, arguments).submit(backend, watch=watch)


def _expand_signature(function: Callable[..., Any]) -> None:
    """Show the arguments of `job` in place of `**arguments` in help and completion."""
    own = inspect.signature(function)
    first, *rest = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    *added, inputs = list(inspect.signature(job).parameters.values())[1:]
    function.__signature__ = own.replace(parameters=[first, *added, *rest, inputs])  # type: ignore[attr-defined]


for _verb in (run, plan, submit):
    _expand_signature(_verb)


def list_jobs(project: str | Path | None = None) -> list[RemoteJob]:
    """The remote jobs of a project, oldest first; forgotten ones are left out."""
    folder = project_of(project)
    return [RemoteJob(folder, e.id) for e in Ledger(folder).all() if e.state != "forgotten"]

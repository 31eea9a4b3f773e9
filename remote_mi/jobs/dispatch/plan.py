"""The plan: where a job runs, why, and why not elsewhere.

`Dispatcher` asks each backend in order, and takes the first that can. There is no silent change of
backend: one that was asked for and cannot serve is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remote_mi.backends.base import Backend
from remote_mi.backends.options import Footprint, Option, Question
from remote_mi.backends.registry import AUTO, open_backend, parse_backend
from remote_mi.backends.settings import Settings, load
from remote_mi.common.display import Displayed
from remote_mi.common.errors import BackendUnavailable
from remote_mi.common.sizes import format_size
from remote_mi.jobs.dispatch import footprint
from remote_mi.jobs.job import Job
from remote_mi.models.abilities import refuse_by_config
from remote_mi.models.checkpoint import Checkpoint, describe
from remote_mi.models.spec import ModelSpec


@dataclass(frozen=True)
class Plan(Displayed):
    """Where a job runs, and why. Plain data: `open` makes the backend where it is used.

    Attributes:
        chosen: the backend that was chosen. options: all that were looked at, in order.
        checkpoint, need: what was found of the model and the job; None where nobody asked.
        ask_above: downloads of more bytes are asked for.
    """

    chosen: Option
    options: tuple[Option, ...]
    checkpoint: Checkpoint | None = None
    need: Footprint | None = None
    ask_above: int = 0

    @property
    def model(self) -> ModelSpec:
        """The model as it runs there."""
        return self.chosen.model

    @property
    def reason(self) -> str:
        """Why there, in words."""
        return self.chosen.why

    def open(self, project: Path) -> Backend:
        """What executes it."""
        return open_backend(self.chosen.backend, project, self.chosen.rows_bytes)

    @property
    def download(self) -> int:
        """Bytes to be fetched that a person should be asked for; 0 for none."""
        return self.chosen.download if self.chosen.download > self.ask_above else 0

    def __str__(self) -> str:
        return f"{self.chosen.backend}: {self.reason}"

    def line(self) -> str:
        """The plan in one line: where and why, and what was rejected."""
        rejected = "; ".join(
            f"not {o.backend}: {o.why}"
            for o in self.options
            if not o.can and o.backend != self.chosen.backend
        )
        return f"plan: {self}" + (f" ({rejected})" if rejected else "")

    def to_json(self) -> dict[str, Any]:
        """As JSON: the choice, every option with its reason, and what was measured."""
        return {
            "backend": self.chosen.backend,
            "reason": self.reason,
            "options": [option.to_json() for option in self.options],
            "weights": self.checkpoint
            and {
                "present": self.checkpoint.present,
                "bytes": self.checkpoint.weights,
                "parameters": self.checkpoint.parameters,
                "dtype": self.checkpoint.dtype,
                "download": self.checkpoint.download,
                "unknown": self.checkpoint.unknown or None,
            },
            "need": self.need and self.need.to_json(),
            "rows_bytes": self.chosen.rows_bytes,
        }

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"<Plan {self}>",
                *(f"  {o.backend}: {'can' if o.can else 'cannot'}: {o.why}" for o in self.options),
            ]
        )


class Dispatcher:
    """Plans jobs of a project; what it has found out it keeps, so that a study is planned quickly.

    Args:
        settings: of the project, read from its remote-mi.yaml if not given.
        opened: makes a backend of a name, to be asked; it executes nothing.
    """

    def __init__(
        self,
        project: Path,
        settings: Settings | None = None,
        opened: Callable[[str, Path], Backend] = open_backend,
    ) -> None:
        self.project, self.opened = project, opened
        self.settings = settings or load(project)
        self._checkpoints: dict[str, Checkpoint] = {}
        self._backends: dict[str, Backend] = {}

    # --- what is known ---

    def checkpoint(self, spec: ModelSpec) -> Checkpoint:
        """What is known of a model's checkpoint."""
        name = repr(spec)
        if name not in self._checkpoints:
            self._checkpoints[name] = describe(spec)
        return self._checkpoints[name]

    def backend(self, name: str) -> Backend:
        """A backend to ask, and to look for results of earlier; it executes nothing."""
        if name not in self._backends:
            self._backends[name] = self.opened(name, self.project)
        return self._backends[name]

    def candidates(self, asked: str) -> list[str]:
        """The backends that a name stands for, in the order in which they are tried.

        Raises:
            UsageError: if there is no such backend.
        """
        if asked != AUTO:
            self.backend(asked)
            return [asked]
        names: list[str] = []
        for preferred in self.settings.prefer:
            kind, where = parse_backend(preferred)
            names += [preferred] if where else kind.auto_candidates(self.settings)
        return list(dict.fromkeys(names))

    def backends(self, asked: str) -> Iterator[tuple[str, Backend]]:
        """The same with what each is, made when its turn comes; errors as `candidates`."""
        return ((name, self.backend(name)) for name in self.candidates(asked))

    # --- deciding ---

    def plan(self, job: Job, asked: str = AUTO) -> Plan:
        """Where a job runs: the first backend that can.

        Raises:
            UsageError: if there is no backend of that name. BackendUnavailable: if none can serve.
        """
        return self._plan(job, asked, survey=False)

    def survey(self, job: Job, asked: str = AUTO, there: Option | None = None) -> Plan:
        """As `plan`, but every backend is looked at, also after one was found; errors as `plan`.

        Args:
            there: the backend that has the result already, which goes before all others.
        """
        return self._plan(job, asked, survey=True, there=there)

    def _plan(self, job: Job, asked: str, survey: bool, there: Option | None = None) -> Plan:
        question = self._question(job, asked, survey)
        options: list[Option] = [there] if there else []
        late: list[Option] = []
        for name in self.candidates(asked):
            option = replace(self.backend(name).consider(question), backend=name)
            if option.defer_reason:
                late.append(option)
                option = Option(name, False, option.defer_reason, model=option.model)
            options.append(option)
            if option.can and not survey:
                break
        if survey or not any(option.can for option in options):
            options += late
        chosen = next((option for option in options if option.can), None)
        if chosen is None:
            raise nowhere(job, options)
        ask_above = self.settings.limits.ask_above if asked == AUTO else 1 << 62
        return Plan(chosen, tuple(options), *question.looked_up, ask_above=ask_above)

    def _question(self, job: Job, asked: str, survey: bool) -> Question:
        def measured(need: Footprint, rows_bytes: int) -> Footprint:
            from remote_mi.jobs.dispatch.measuring import measured  # imports torch

            return measured(job, need, rows_bytes)

        def checkpoint() -> Checkpoint:
            found = self.checkpoint(job.model)
            refuse_by_config(job.card.name, job.card.needs, job.model.name, found.config)
            return found

        return Question(
            job.model,
            tuple(job.card.needs),
            self.settings.limits,
            asked != AUTO,
            survey,
            checkpoint,
            lambda found: footprint.estimate(job, found.config, found.dtype),
            measured,
        )


def nowhere(job: Job, options: list[Option]) -> BackendUnavailable:
    """The error that names every backend with its reason, and what would make it possible."""
    reasons = "\n".join(
        f"  {o.backend}: {o.why}" + (f"\n      {o.hint}" if o.hint else "") for o in options
    )
    if len(options) == 1:
        only = options[0]
        return BackendUnavailable(
            f"{job.card.name} on {job.model.name} cannot run on {only.backend}: {only.why}",
            only.hint or None,
        )
    return BackendUnavailable(
        f"no backend can run {job.card.name} on {job.model.name}\n{reasons}",
        f"`remote-mi plan {job.card.name} …` looks at each; remote-mi.yaml sets what may be used",
    )


def asked_for_download(plan: Plan) -> str:
    """The question before a download."""
    return (
        f"{plan.model.name} is not on this machine; fetch {format_size(plan.download)} "
        "and run it here?"
    )


def needs_a_yes(plan: Plan) -> BackendUnavailable:
    """The error where nobody can be asked."""
    return BackendUnavailable(
        f"{plan.model.name} is not on this machine, and nobody was asked for a download of "
        f"{format_size(plan.download)}",
        "--yes (in Python fetch=True) allows it; --backend local asks for this machine",
    )

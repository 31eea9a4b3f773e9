"""The plan: where a job runs, why, and why not elsewhere.

`Dispatcher` asks each backend in order, and chooses the first that can run the job. There is no
silent fallback: if a backend was requested by name and cannot run it, that is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_mi.backends.options import Footprint, Option, Question
from remote_mi.backends.registry import AUTO, open_backend, parse_backend
from remote_mi.backends.settings import Settings, load
from remote_mi.common.display import Displayed
from remote_mi.common.errors import BackendUnavailable
from remote_mi.common.sizes import format_size
from remote_mi.jobs.dispatch.machines import Machines, smallest_machines
from remote_mi.jobs.job import Job
from remote_mi.models.spec import ModelSpec

if TYPE_CHECKING:
    from remote_mi.backends.base import Backend
    from remote_mi.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class Plan(Displayed):
    """Where a job runs, and why. Plain data: `open` creates the backend when it is used.

    Attributes:
        chosen: the chosen backend. options: all that were considered, in order.
        checkpoint, need: of the model and the job; None if no backend required them.
        ask_above: larger downloads, in bytes, need confirmation.
    """

    chosen: Option
    options: tuple[Option, ...]
    checkpoint: Checkpoint | None = None
    need: Footprint | None = None
    ask_above: int = 0

    @property
    def model(self) -> ModelSpec:
        """The model as the chosen backend runs it."""
        return self.chosen.model

    @property
    def reason(self) -> str:
        """Why this backend was chosen, in words."""
        return self.chosen.why

    def open(self, project: Path) -> Backend:
        """The backend that executes the job."""
        return open_backend(self.chosen.backend, project, self.chosen.rows_bytes)

    @property
    def download(self) -> int:
        """Size of a download that needs confirmation, in bytes; 0 if none does."""
        return self.chosen.download if self.chosen.download > self.ask_above else 0

    def __str__(self) -> str:
        return f"{self.chosen.backend}: {self.reason}"

    def line(self) -> str:
        """The plan in one line: where and why, and the rejected options."""
        rejected = "; ".join(
            f"not {o.backend}: {o.why}"
            for o in self.options
            if not o.can and o.backend != self.chosen.backend
        )
        return f"plan: {self}" + (f" ({rejected})" if rejected else "")

    def to_json(self) -> dict[str, Any]:
        """As JSON: the choice, every option with its reason, and the model's and job's sizes."""
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
            "smallest": self.smallest and self.smallest.to_json(),
        }

    @property
    def smallest(self) -> Machines | None:
        """The smallest machines that would do; None if the job's need is not known."""
        weights = self.checkpoint and self.checkpoint.weights
        beside = self.need and self.need.activations
        if weights is None or beside is None:
            return None
        return smallest_machines(weights, beside)

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"<Plan {self}>",
                *(f"  {o.backend}: {'can' if o.can else 'cannot'}: {o.why}" for o in self.options),
            ]
        )


class Dispatcher:
    """Plans jobs of a project; it caches what it finds out, so that studies are planned quickly.

    Args:
        settings: of the project; read from its remote-mi.yaml if not given.
        opened: creates a backend from its name, only for planning.
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

    # --- what the backends need to know ---

    def checkpoint(self, spec: ModelSpec) -> Checkpoint:
        """What is known of a model's checkpoint."""
        from remote_mi.models.checkpoint import describe

        name = repr(spec)
        if name not in self._checkpoints:
            self._checkpoints[name] = describe(spec)
        return self._checkpoints[name]

    def backend(self, name: str) -> Backend:
        """A backend for planning and for finding existing results; it executes nothing."""
        if name not in self._backends:
            self._backends[name] = self.opened(name, self.project)
        return self._backends[name]

    def candidates(self, requested: str) -> list[str]:
        """Names of the backends that a request stands for, in the order they are tried.

        Raises:
            UsageError: if there is no such backend.
        """
        if requested != AUTO:
            self.backend(requested)
            return [requested]
        return list(self._preferred())

    def _preferred(self) -> Iterator[str]:
        """The backends that the settings prefer, each once; lazily, as a kind may ask servers."""
        seen: set[str] = set()
        for preferred in self.settings.prefer:
            kind, where = parse_backend(preferred)
            names = [preferred] if where else kind.auto_candidates(self.settings)
            yield from (name for name in dict.fromkeys(names) if name not in seen)
            seen.update(names)

    def backends(self, requested: str) -> Iterator[tuple[str, Backend]]:
        """The candidates with their backends, found and created lazily; errors as `candidates`."""
        names = self._preferred() if requested == AUTO else self.candidates(requested)
        return ((name, self.backend(name)) for name in names)

    # --- deciding ---

    def plan(self, job: Job, requested: str = AUTO) -> Plan:
        """Plan a job on the first backend that can run it.

        Raises:
            UsageError: if there is no backend of that name. BackendUnavailable: if none can run it.
        """
        return self._plan(job, requested, survey=False)

    def survey(self, job: Job, requested: str = AUTO, there: Option | None = None) -> Plan:
        """As `plan`, but consider every backend, even after one was found; errors as `plan`.

        Args:
            there: an option that already has the result, which comes before all others.
        """
        return self._plan(job, requested, survey=True, there=there)

    def _plan(self, job: Job, requested: str, survey: bool, there: Option | None = None) -> Plan:
        question = self._question(job, requested, survey)
        options: list[Option] = [there] if there else []
        late: list[Option] = []
        for name in self.candidates(requested):
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
            raise no_backend_error(job, options)
        ask_above = self.settings.limits.ask_above if requested == AUTO else 1 << 62
        return Plan(chosen, tuple(options), *question.looked_up, ask_above=ask_above)

    def _question(self, job: Job, requested: str, survey: bool) -> Question:
        from remote_mi.jobs.dispatch import footprint  # here and above: a hit is not planned
        from remote_mi.models.abilities import check_needs_by_config

        def measured(need: Footprint, rows_bytes: int) -> Footprint:
            from remote_mi.jobs.dispatch.measuring import measure  # imports torch

            return measure(job, need, rows_bytes)

        def checkpoint() -> Checkpoint:
            found = self.checkpoint(job.model)
            check_needs_by_config(job.card.name, job.card.needs, job.model.name, found.config)
            return found

        return Question(
            job.model,
            tuple(job.card.needs),
            self.settings.limits,
            requested != AUTO,
            survey,
            checkpoint,
            lambda found: footprint.estimate(job, found.config, found.dtype),
            measured,
        )


def no_backend_error(job: Job, options: list[Option]) -> BackendUnavailable:
    """The error that lists every backend with its reason, and what would make it possible."""
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
        f"`remote-mi plan {job.card.name} …` explains each; remote-mi.yaml sets what may be used",
    )


def download_question(plan: Plan) -> str:
    """The question before a download."""
    return (
        f"{plan.model.name} is not on this machine; fetch {format_size(plan.download)} "
        "and run it here?"
    )


def download_not_allowed(plan: Plan) -> BackendUnavailable:
    """The error if a download needs confirmation and nobody can be asked."""
    return BackendUnavailable(
        f"{plan.model.name} is not on this machine, and a download of "
        f"{format_size(plan.download)} was not confirmed",
        "--yes (in Python fetch=True) allows it, as does --backend local",
    )

"""The plan: where a job runs, why, and why not elsewhere.

`Dispatcher` gathers what the policy needs, each thing once, as late as it is needed: a hit asks
nobody, a job that fits here asks no server. There is no silent change of backend: one that was
asked for and cannot serve is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_mi.backends.base import Backend
from remote_mi.backends.ndif_server import personal
from remote_mi.common.display import Displayed
from remote_mi.common.errors import BackendUnavailable
from remote_mi.common.settings import Settings, backend_name, load
from remote_mi.common.sizes import format_size
from remote_mi.jobs.dispatch import footprint, policy, resources
from remote_mi.jobs.dispatch.footprint import Footprint
from remote_mi.jobs.dispatch.policy import Option
from remote_mi.jobs.dispatch.resources import Resources
from remote_mi.jobs.job import Job
from remote_mi.models.abilities import refuse_by_config
from remote_mi.models.checkpoint import Checkpoint, describe, model_cache
from remote_mi.models.spec import ModelSpec

if TYPE_CHECKING:
    from remote_mi.jobs.dispatch.servers import ServerFacts

#: Finds the result of a job that a backend has computed before: its run's name, or None.
LookUp = Callable[[Job, Backend], str | None]


@dataclass(frozen=True)
class Plan(Displayed):
    """Where a job runs, and why.

    Attributes:
        chosen: the backend that was chosen. options: all that were looked at, in order.
        checkpoint, need: what was found of the model and the job; None where nobody asked.
        hit: the run or entry that already holds the result; "" where it is to be computed.
        project: the user's project. ask_above: downloads of more bytes are asked for.
    """

    chosen: Option
    options: tuple[Option, ...]
    project: Path
    checkpoint: Checkpoint | None = None
    need: Footprint | None = None
    hit: str = ""
    ask_above: int = 0
    _made: dict[str, Backend] = field(default_factory=dict, repr=False, compare=False)

    @property
    def model(self) -> ModelSpec:
        """The model as it runs there."""
        return self.chosen.model

    @property
    def reason(self) -> str:
        """Why there, in words."""
        return self.chosen.why

    @property
    def backend(self) -> Backend:
        """What executes it."""
        if not self._made:
            self._made[""] = backend_named(
                self.chosen.backend, self.project, self.chosen.rows_bytes
            )
        return self._made[""]

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
            "hit": self.hit or None,
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


def backend_named(name: str, project: Path, rows_bytes: int | None = None) -> Backend:
    """The backend that `--backend` names.

    Raises:
        UsageError: if there is none of that name.
    """
    kind, _, host = backend_name(name).partition(":")
    if kind == "local":
        # Imported here: a lookup must not import torch, and the session module does.
        from remote_mi.backends.local import LocalBackend

        return LocalBackend(rows_bytes)
    from remote_mi.backends.ndif.backend import NdifBackend

    return NdifBackend.asked_for(host or None, project)


#: What a server says of a model: by the backend's name, the model, and the recipe's needs.
Ask = Callable[[str, ModelSpec, tuple[str, ...]], "ServerFacts"]


def _asked(backend: str, spec: ModelSpec, needs: tuple[str, ...]) -> ServerFacts:
    from remote_mi.jobs.dispatch.servers import learn  # imports the HTTP library: a hit asks nobody

    return learn(backend, spec, needs)


class Dispatcher:
    """Plans jobs of a project; what it has found out it keeps, so that a study is planned quickly.

    Args:
        found: looks for a result that is already there.
        settings: of the project, read from its remote-mi.yaml if not given.
        machine: what this machine has, measured if not given.
        ask: what a server says, asked if not given.
    """

    def __init__(
        self,
        project: Path,
        found: LookUp,
        settings: Settings | None = None,
        machine: Resources | None = None,
        ask: Ask | None = None,
    ) -> None:
        self.project, self.found, self.ask = project, found, ask or _asked
        self.settings = settings or load(project)
        self._machine = machine
        self._checkpoints: dict[str, Checkpoint] = {}
        self._servers: dict[tuple[str, str, tuple[str, ...]], ServerFacts] = {}
        self._backends: dict[str, Backend] = {}

    # --- what is known ---

    @property
    def machine(self) -> Resources:
        """What this machine has, measured once."""
        if self._machine is None:
            self._machine = resources.measure(model_cache())
        return self._machine

    def checkpoint(self, spec: ModelSpec) -> Checkpoint:
        """What is known of a model's checkpoint."""
        name = repr(spec)
        if name not in self._checkpoints:
            self._checkpoints[name] = describe(spec)
        return self._checkpoints[name]

    def server(self, backend: str, job: Job) -> ServerFacts:
        """What is known of a server for a job."""
        asked = (backend, repr(job.model), tuple(job.card.needs))
        if asked not in self._servers:
            self._servers[asked] = self.ask(backend, job.model, tuple(job.card.needs))
        return self._servers[asked]

    def backend(self, name: str) -> Backend:
        """A backend to look for results of earlier; it executes nothing."""
        if name not in self._backends:
            self._backends[name] = backend_named(name, self.project)
        return self._backends[name]

    def candidates(self, asked: str) -> list[str]:
        """The backends that a name stands for, in the order in which they are tried.

        Raises:
            UsageError: if there is no such backend.
        """
        if asked != "auto":
            self.backend(asked)
            return [asked]
        names: list[str] = []
        for preferred in self.settings.prefer:
            names += self._servers_of_auto() if preferred == "ndif" else [preferred]
        return list(dict.fromkeys(names))

    def _servers_of_auto(self) -> list[str]:
        """Those of the settings; else the personal one where it runs, and the one of the key."""
        if self.settings.hosts is not None:
            return [f"ndif:{host}" for host in self.settings.hosts]
        running = [f"ndif:{personal.HERE}"] if personal.served(personal.HERE) else []
        return [*running, "ndif"]

    # --- deciding ---

    def plan(self, job: Job, asked: str = "auto") -> Plan:
        """Where a job runs: the first backend that can.

        Raises:
            UsageError: if there is no backend of that name. BackendUnavailable: if none can serve.
        """
        return self._plan(job, asked, stop=lambda option: option.can)

    def survey(self, job: Job, asked: str = "auto") -> Plan:
        """As `plan`, but every backend is looked at, also after one was found; errors as `plan`."""
        return self._plan(job, asked, stop=lambda option: False)

    def _plan(self, job: Job, asked: str, stop: Callable[[Option], bool]) -> Plan:
        names = self.candidates(asked)
        hit = self._hit(job, names)
        if hit is not None and stop(hit[0]):
            return Plan(hit[0], (hit[0],), self.project, hit=hit[1])
        if asked != "auto" and asked != "local" and hit is None and stop(_ASKED):
            # What the server says when the job comes to it is better than what it says before.
            option = Option(asked, True, "asked for", model=job.model)
            return Plan(option, (option,), self.project)
        checkpoint = self.checkpoint(job.model)
        refuse_by_config(job.card.name, job.card.needs, job.model.name, checkpoint.config)
        need = footprint.estimate(job, checkpoint.config, checkpoint.dtype)
        options: list[Option] = []
        late: list[Option] = []
        for name in names:
            option = self._option(name, job, checkpoint, need, asked)
            options.append(option)
            if name == "local" and option.can and not checkpoint.present and asked == "auto":
                late.append(
                    policy.fetched_first(option, self.settings.limits, self.machine.disk_free)
                )
                options[-1] = Option(
                    "local", False, "the model is not on this machine", model=option.model
                )
            elif stop(option):
                break
        if late and not any(stop(option) for option in options):
            options += late
        if hit is not None:
            return Plan(hit[0], (hit[0], *options), self.project, checkpoint, need, hit[1])
        chosen = next((option for option in options if option.can), None)
        if chosen is None:
            raise nowhere(job, options)
        ask_above = self.settings.limits.ask_above if asked == "auto" else 1 << 62
        return Plan(chosen, tuple(options), self.project, checkpoint, need, ask_above=ask_above)

    def _hit(self, job: Job, names: list[str]) -> tuple[Option, str] | None:
        for name in names:
            run = self.found(job, self.backend(name))
            if run:
                return Option(name, True, f"already computed there: {run}", model=job.model), run
        return None

    def _option(
        self, name: str, job: Job, checkpoint: Checkpoint, need: Footprint, asked: str
    ) -> Option:
        limits = self.settings.limits
        if name != "local":
            facts = self.server(name, job)
            option = policy.on_server(facts, job.card.needs, need, limits, job.model)
            if not option.can and asked == name and policy.may_deploy(facts):
                return Option(name, True, f"asked for, though {option.why}", model=job.model)
            return option
        option = policy.locally(job.model, checkpoint, need, self.machine, limits)
        if not option.can and policy.only_activations(
            job.model, checkpoint, need, self.machine, limits
        ):
            need = self._measured(job, need)
            option = policy.locally(job.model, checkpoint, need, self.machine, limits)
        if not option.can and asked == "local" and self._might_fit(job.model, checkpoint):
            # It was asked for, and what is free now is not all there is: the system may give more.
            return Option("local", True, f"asked for, though {option.why}", option.hint, job.model)
        return option

    def _measured(self, job: Job, need: Footprint) -> Footprint:
        from remote_mi.jobs.dispatch.measuring import measured  # imports torch

        return measured(job, need, policy.LEAST_ROWS_BYTES)

    def _might_fit(self, spec: ModelSpec, checkpoint: Checkpoint) -> bool:
        """Whether the weights alone fit into all memory there is, or their size is not known."""
        if checkpoint.weights is None or spec.device_map is not None:
            return True
        kinds = {spec.device.split(":")[0]} - {"auto"} or {d.kind for d in self.machine.devices}
        sizes = [sum(d.total for d in self.machine.of_kind(kind)) for kind in kinds]
        return not any(sizes) or checkpoint.weights <= max(sizes)


_ASKED = Option("", True, "")


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

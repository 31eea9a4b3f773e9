"""What is known about a server before a job is sent: asked once per plan, with a deadline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from remote_mi.backends.capabilities import Place, depends_on_trust
from remote_mi.backends.ndif import facts
from remote_mi.backends.ndif.client import Client
from remote_mi.backends.ndif.errors import LOGIN
from remote_mi.backends.ndif.facts import Deployment
from remote_mi.backends.ndif.hosts import Host, find_host
from remote_mi.backends.ndif_server import personal
from remote_mi.common.deadline import run_with_deadline
from remote_mi.common.errors import RemoteMIError, UsageError
from remote_mi.models.adapter_files import named_adapter, shared_adapter
from remote_mi.models.embedded import EMBEDDED
from remote_mi.models.spec import ModelSpec

#: Longest wait for all questions to one server, in seconds.
PATIENCE_S = 45.0


@dataclass(frozen=True)
class ServerFacts:
    """What matters about a server for a job on one model.

    Attributes:
        backend: what `--backend` takes. url: its address; "" where it has none now.
        problem, hint: why it cannot be used at all, and what to do; "" if it can.
        place: where a job of this key would run.
        deployment: the model there under the exact key; None where it is not deployed.
        loads: whether the first job loads the model, as on a personal server that serves it.
        others: what else is deployed: repository ids, with their revision where it is not main.
        packages: distribution → version there.
    """

    backend: str
    url: str = ""
    problem: str = ""
    hint: str = ""
    place: Place = field(default_factory=lambda: Place("trusted"))
    deployment: Deployment | None = None
    loads: bool = False
    others: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)


def gather_facts(backend: str, spec: ModelSpec, needs: tuple[str, ...]) -> ServerFacts:
    """Ask a server about a model. Never raises: a problem is part of the answer.

    Args:
        backend: "ndif", "ndif:here" or "ndif:URL". needs: of the recipe.
    """
    try:
        why, hint = spec.only_here()
        if why:
            return ServerFacts(backend, problem=why, hint=hint)
        host = find_host(backend.partition(":")[2] or None)
        adapter_there(spec, host)
        if not host.key_headers() and not host.is_loopback:
            return ServerFacts(backend, host.url, f"there is no key for {host.url}", LOGIN)
        repo_id = _served_repo_id(spec, host)
        if repo_id is None:
            return ServerFacts(
                backend,
                host.url,
                f"{spec.name} is on this machine only, and {host.url} does not serve it",
                _how_to_serve(spec, host),
            )
        return run_with_deadline(PATIENCE_S, lambda: _query(backend, host, repo_id, spec, needs))
    except RemoteMIError as error:
        return ServerFacts(backend, problem=error.message, hint=error.hint or "")


def _query(
    backend: str, host: Host, repo_id: str, spec: ModelSpec, needs: tuple[str, ...]
) -> ServerFacts:
    client = Client(host)
    deployed = facts.deployments(client)
    packages = facts.packages(client)
    if spec.adapter is not None and packages and "peft" not in packages:
        why = f"{host.url} has no peft, so it attaches no adapters"
        return ServerFacts(backend, host.url, why, "--backend local", packages=packages)
    found = next((d for d in deployed if serves(d, repo_id, spec)), None)
    kind = "trusted"
    if depends_on_trust(needs) and facts.sandboxes(client, found.model_key if found else ""):
        kind = "sandboxed"
    named = tuple(
        d.repo_id if d.revision == "main" else f"{d.repo_id}@{d.revision}"
        for d in deployed
        if d is not found
    )
    loads = host.served is not None and repo_id in host.served.models
    return ServerFacts(
        backend,
        host.url,
        place=Place(kind, packages.get("nnsight", "")),
        deployment=found,
        loads=loads,
        others=named,
        packages=packages,
    )


def serves(deployment: Deployment, repo_id: str, spec: ModelSpec) -> bool:
    """Whether a deployment is what a job on this model would ask for.

    The key holds repository, revision and task. No revision and the revision "main" are two keys,
    and the job for one does not reach the other.
    """
    given: dict[str, Any] = facts.parse_model_key(deployment.model_key)
    return (
        str(given.get("repo_id", "")).lower() == repo_id.lower()
        and given.get("revision") == spec.revision
    )


def _served_repo_id(spec: ModelSpec, host: Host) -> str | None:
    """The repository id under which a server can know the model; None for weights of this machine."""
    if spec.name == EMBEDDED:
        served = host.served.models if host.served is not None else {}
        return personal.SERVED_EMBEDDED if personal.SERVED_EMBEDDED in served else None
    if spec.folder is not None:
        return (
            personal.served_repo_id(spec.folder, host.served) if host.served is not None else None
        )
    return spec.name


def adapter_there(spec: ModelSpec, host: Host) -> str | None:
    """The name under which a server finds the model's adapter; None if there is none.

    Raises:
        UsageError: if it is a folder, and the server is not on this machine.
    """
    if spec.adapter is None:
        return None
    folder = named_adapter(spec.adapter).folder
    if folder is None:
        return spec.adapter
    if host.served is None:
        raise UsageError(
            f"the adapter in {folder} is on this machine only, and {host.url} takes a hub id",
            "push it to the hub, use a server of your own (`remote-mi ndif up`), or --backend local",
        )
    return str(shared_adapter(folder))


def _how_to_serve(spec: ModelSpec, host: Host) -> str:
    if host.served is not None:
        return f"`remote-mi ndif down`, then `remote-mi ndif up --model {spec.name}`"
    return "name a model by its hub id to run it on a server"

"""The checks of `remote-mi doctor` on a server: reachability, the key, versions, a model.

Nothing here imports torch unless a model is given, and the key is never part of a finding.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator

from remote_mi.backends.checking import CLUSTER_S, MODEL_S, QUICK_S, Check, failed_check, run_check
from remote_mi.backends.errors import ServerDown
from remote_mi.backends.ndif import facts
from remote_mi.backends.ndif.client import Client
from remote_mi.backends.ndif.errors import LOGIN, NotNdif
from remote_mi.backends.ndif.facts import describe_caller
from remote_mi.backends.ndif.hosts import Host, find_host, is_well_formed_key, key_source, recall
from remote_mi.backends.ndif_server import personal
from remote_mi.common.deadline import run_with_deadline
from remote_mi.common.errors import AuthenticationError, RemoteMIError
from remote_mi.common.progress import Silent
from remote_mi.common.text import counted
from remote_mi.common.versions import major_minor
from remote_mi.models import embedded
from remote_mi.models.spec import ModelSpec
from remote_mi.store.environment import PACKAGES, installed_version

#: The version of NDIF that this package is made for.
_NDIF = "0.1.2"
_IF_ANOTHER = {
    "nnsight": "the server may refuse jobs, or read them differently: install the server's version",
    "transformers": "modules may have other names there, and numbers may differ",
    "torch": "numbers may differ in the last digits",
    "Python": "code that needs the newer version fails on the older one",
    "ndif": f"remote_mi is made for {_NDIF}",
}


def checks(asked: str | None, spec: ModelSpec | None) -> Iterator[Check]:
    """The checks of a server, and of a model there.

    Args:
        asked: the server, as `find_host` takes it.

    Raises:
        UsageError: immediately, if it cannot be a server.
    """
    if asked not in (None, personal.HERE):
        find_host(asked)
    return _run_checks(asked, spec)


def _run_checks(asked: str | None, spec: ModelSpec | None) -> Iterator[Check]:
    if asked == personal.HERE:
        yield from run_check("personal server", CLUSTER_S, _personal)
    try:
        host = run_with_deadline(QUICK_S, lambda: find_host(asked))
    except RemoteMIError as error:
        if asked != personal.HERE:
            yield failed_check("server", error)
        return
    client = Client(host)
    reached = run_check("server", QUICK_S, lambda: _server(client))
    yield from reached
    answers = reached[-1].state != "problem"
    if not answers:
        yield from run_check("key", QUICK_S, lambda: _key_unverified(host))
    else:
        yield from run_check("key", QUICK_S, lambda: _key(host, client))
        compute = run_check("compute backend", CLUSTER_S, lambda: _compute(client))
        yield from compute
        answers = compute[-1].state != "problem"
        if answers:
            yield from run_check("versions there", CLUSTER_S, lambda: _versions(host, client))
    if spec is not None:
        yield from _model(spec, host, client if answers else None)


def _personal() -> list[Check]:
    status = personal.personal_server().status()
    alive = [service["alive"] for service in status.get("services", {}).values()]
    if not status["running"] and not any(alive):
        from remote_mi.backends.ndif_server.settings import redis_server

        redis_server()
        personal.require_running()  # raises the appropriate error
    dead = [name for name, service in status["services"].items() if not service["alive"]]
    if dead or not status["healthy"]:
        found = f"{', '.join(dead)} died" if dead else "it does not answer"
        return [
            Check(
                "personal server",
                "problem",
                found,
                "see `remote-mi ndif logs`; "
                + (
                    "`remote-mi ndif up` starts it anew"
                    if dead
                    else "`remote-mi ndif down`, then `up`"
                ),
                5,
            )
        ]
    running = ", ".join(status["services"])
    return [Check("personal server", "ok", f"{running} run in {status['memory_mb']} MB")]


# --- a server -------------------------------------------------------------------------------------


def _server(client: Client) -> list[Check]:
    begun, answer = 0.0, None
    try:
        for _ in range(2):  # the second time over the open connection
            begun = time.perf_counter()
            answer = client.get_json("/ping")
    except ServerDown as error:
        advice = "is it up, is the address right, and does a firewall or proxy block it?"
        return [Check("server", "problem", error.message, advice, error.exit_code)]
    if answer != "pong":
        raise NotNdif(
            f"{client.host.url}/ping does not answer as an NDIF server",
            "name its base address: --backend ndif:https://host",
        )
    took = (time.perf_counter() - begun) * 1000
    return [Check("server", "ok", f"{client.host.url} answers within {took:.0f} ms")]


def _sent_key(host: Host) -> str | None:
    """The key that is sent to the server.

    Raises:
        AuthenticationError: if it is malformed, or may not be sent.
    """
    key = host.key_headers().get("ndif-api-key")
    if key and not is_well_formed_key(key):
        raise AuthenticationError(f"{key_source()} does not hold a well-formed key", LOGIN)
    return key


def _key_unverified(host: Host) -> list[Check]:
    if _sent_key(host) is None:
        return [Check("key", "note", "none", LOGIN)]
    return [
        Check(
            "key", "note", f"from {key_source()}; whether the server knows it could not be checked"
        )
    ]


def _key(host: Host, client: Client) -> list[Check]:
    key = _sent_key(host)
    who = facts.caller(client)
    if not who.checks_keys:
        return [Check("key", "ok", "none needed: this server checks none and trusts everybody")]
    if key is None:
        return [Check("key", "problem", "none, and the server wants one", LOGIN, 4)]
    source = "the personal server's own" if host.served is not None else f"from {key_source()}"
    if not who.known:
        return [Check("key", "problem", f"{source}; the server does not know it", LOGIN, 4)]
    return [Check("key", "ok", f"{source}; {describe_caller(who)}")]


def _compute(client: Client) -> list[Check]:
    count = len(facts.deployments(client))
    return [Check("compute backend", "ok", f"up, {counted(count, 'model')} deployed")]


def _versions(host: Host, client: Client) -> list[Check]:
    there = facts.packages(client, max_age=0)
    python = recall(host).get("python") or ["unknown"]
    pairs = {name: (installed_version(name), there.get(name, "unknown")) for name in PACKAGES}
    pairs["Python"] = (platform.python_version(), (str(python[0]).split() or ["unknown"])[0])
    checks = []
    for name, (ours, theirs) in pairs.items():
        same = major_minor(ours) == major_minor(theirs)
        checks.append(
            Check(
                f"{name} there",
                "ok" if same else "note",
                f"{theirs} (here {ours})",
                None if same else _IF_ANOTHER[name],
            )
        )
    ndif = there.get("ndif", "unknown")
    same = major_minor(ndif) == major_minor(_NDIF)
    checks.append(
        Check("ndif there", "ok" if same else "note", ndif, None if same else _IF_ANOTHER["ndif"])
    )
    return checks


# --- a model there --------------------------------------------------------------------------------


def _model(spec: ModelSpec, host: Host, client: Client | None) -> Iterator[Check]:
    """Whether the model can be described here, and, if a server answers, whether it has it."""
    on_hub = spec.name != embedded.EMBEDDED and spec.folder is None
    if on_hub:
        yield from run_check("hub token", QUICK_S, _token)
    if spec.name == embedded.EMBEDDED and not embedded.is_ready():
        return  # already reported above: it has to be fetched first
    keys: list[str] = []
    yield from run_check("architecture", MODEL_S, lambda: _architecture(spec, host, keys))
    if keys and client is not None:
        yield from run_check("deployed there", CLUSTER_S, lambda: _deployed(keys[0], host, client))


def _token() -> list[Check]:
    from huggingface_hub import get_token

    if get_token():
        return [Check("hub token", "ok", "there is one for gated models")]
    return [Check("hub token", "note", "none; only gated models need one", "`hf auth login`")]


def _architecture(spec: ModelSpec, host: Host, keys: list[str]) -> list[Check]:
    """Build the model without weights; its key on servers is appended to `keys`."""
    from remote_mi.backends.ndif.payload import model_key
    from remote_mi.models.load import build_weightless

    repo_id = None
    if host.served is not None and spec.name == embedded.EMBEDDED:
        repo_id = personal.SERVED_EMBEDDED
    elif host.served is not None and spec.folder is not None:
        repo_id = personal.served_repo_id(spec.folder, host.served)
    lm = build_weightless(spec, Silent(), repo_id).lm
    keys.append(model_key(lm))
    found = f"{type(lm._module).__name__}, {len(lm.layers)} layers; all module names are known"
    return [Check("architecture", "ok", found)]


def _deployed(key: str, host: Host, client: Client) -> list[Check]:
    name = "deployed there"
    there = facts.deployments(client)
    model = next((d for d in there if d.model_key == key), None)
    repo_id = str(facts.parse_model_key(key).get("repo_id"))
    if model is None:
        if host.served is not None and repo_id not in host.served.models:
            return [
                Check(
                    name,
                    "problem",
                    f"the personal server does not serve {repo_id}",
                    "`remote-mi ndif down`, then `remote-mi ndif up --model` with it",
                    5,
                )
            ]
        other = next((d for d in there if d.repo_id.lower() == repo_id.lower()), None)
        found = f"no; {other.repo_id} at revision {other.revision} is" if other else "no"
        advice = (
            "the first job for it loads it"
            if host.served is not None
            else "the first job requests it, which may take minutes or be refused"
        )
        return [Check(name, "note", found, advice)]
    level = model.level if model.state == "unknown" else f"{model.state}, {model.level}"
    limit = (
        "no limit on time" if model.timeout_s is None else f"at most {model.timeout_s:g} s a job"
    )
    found = f"{level}, {model.dtype or 'dtype not reported'}, {limit}"
    if model.state == "UNHEALTHY":
        return [Check(name, "problem", found, "its process died; try again later", 5)]
    if model.state == "DEPLOYING":
        return [Check(name, "note", found, "jobs wait until it is up")]
    return [Check(name, "ok", found)]

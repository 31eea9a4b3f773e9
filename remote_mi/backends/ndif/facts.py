"""What a server reports about itself: its packages, its deployments, and whom it trusts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from remote_mi.backends.errors import ServerDown
from remote_mi.backends.ndif.client import Client
from remote_mi.backends.ndif.errors import NotNdif
from remote_mi.backends.ndif.hosts import recall, remember

#: How long a server's answer is considered valid, in seconds.
FRESH_S = 600.0
_STATES = ("RUNNING", "DEPLOYING", "UNHEALTHY")


def packages(client: Client, max_age: float = FRESH_S) -> Mapping[str, str]:
    """Distribution → version of what is installed on the server; asked every ten minutes.

    Args:
        max_age: maximum age of a remembered answer in seconds; 0 always asks.

    Raises:
        ServerDown, NotNdif: if the server does not answer.
    """
    known = recall(client.host).get("packages")
    if known and time.time() - known[1] < max_age:
        return known[0]
    said = client.get_json("/env", with_key=True)
    found = said.get("packages") if isinstance(said, dict) else None
    if not isinstance(found, dict):
        raise NotNdif(
            f"{client.host.url}/env does not answer as an NDIF server",
            "name its base address: --backend ndif:https://host",
        )
    listed = {str(name): str(version) for name, version in found.items()}
    python = said.get("python_version") or said.get("python") or "unknown"
    remember(client.host, packages=listed, python=str(python))
    return listed


@dataclass(frozen=True)
class Deployment:
    """A model deployed on a server; replicas with the same key count as one.

    Attributes:
        repo_id, revision, task: what it is. model_key: what a job must match exactly.
        state: RUNNING, DEPLOYING or UNHEALTHY. level: HOT (on its GPUs) or WARM (in RAM).
        dtype: of the weights. timeout_s: time limit of a job. parameters, size_bytes: of the model.
        replicas: how many. ends: when its schedule ends, in seconds since 1970.
        actor: the class that runs it.
    """

    repo_id: str
    revision: str
    task: str
    model_key: str
    state: str
    level: str
    dtype: str | None
    timeout_s: float | None
    parameters: int | None
    size_bytes: int | None
    replicas: int
    ends: float | None
    actor: str | None


def deployments(client: Client) -> list[Deployment]:
    """The models deployed on the server, sorted by name.

    Raises:
        ServerDown, NotNdif: if the server does not answer.
    """
    said = client.get_json("/status", with_key=True)
    listed = said.get("deployments", said) if isinstance(said, dict) else None
    if not isinstance(listed, dict):
        raise NotNdif(
            f"{client.host.url}/status does not answer as an NDIF server",
            "name its base address: --backend ndif:https://host",
        )
    found: dict[str, list[Mapping[str, Any]]] = {}
    for item in listed.values():
        if isinstance(item, dict) and isinstance(item.get("model_key"), str):
            found.setdefault(item["model_key"], []).append(item)
    return sorted(
        (_deployment(key, items) for key, items in found.items()),
        key=lambda d: (d.repo_id.lower(), d.model_key),
    )


def _deployment(key: str, items: list[Mapping[str, Any]]) -> Deployment:
    items = sorted(
        items,
        key=lambda i: (
            _STATES.index(i["application_state"])
            if i.get("application_state") in _STATES
            else len(_STATES)
        ),
    )
    best = items[0]
    given = parse_model_key(key)
    schedule = best.get("schedule")
    return Deployment(
        str(best.get("repo_id") or given.get("repo_id") or key),
        str(given.get("revision") or best.get("revision") or "main"),
        str(best.get("task") or "text-generation"),
        key,
        str(best.get("application_state") or "unknown"),
        str(best.get("deployment_level") or "unknown"),
        _text(best.get("dtype")),
        _to_float(best.get("execution_timeout_seconds")),
        _to_int(best.get("n_params")),
        _to_int(best.get("size_bytes")),
        len(items),
        _timestamp(schedule.get("end_time")) if isinstance(schedule, dict) else None,
        _text(best.get("actor_class")),
    )


def parse_model_key(key: str) -> dict[str, Any]:
    """The JSON part of a model key."""
    found = re.search(r"\{.*\}", key, re.DOTALL)
    try:
        given = json.loads(found.group()) if found else {}
    except ValueError:
        return {}
    return given if isinstance(given, dict) else {}


def _text(value: Any) -> str | None:
    return None if value is None else str(value).removeprefix("torch.")


def _to_float(value: Any) -> float | None:
    # JSON from servers may contain NaN and infinity.
    is_number = isinstance(value, (int, float)) and abs(value) < 1e300
    return float(value) if is_number else None


def _to_int(value: Any) -> int | None:
    number = _to_float(value)
    return None if number is None else int(number)


def _timestamp(value: Any) -> float | None:
    """Seconds since 1970, from a number or an ISO date and time (UTC by default)."""
    if not isinstance(value, str):
        return _to_float(value)
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Caller:
    """The user of the current key, as a server sees them.

    Attributes:
        checks_keys: whether the server checks keys at all.
        known: whether it knows this one. email, tags: its data on the key.
    """

    checks_keys: bool
    known: bool
    email: str | None
    tags: tuple[str, ...]

    @property
    def trusted(self) -> bool:
        """Whether jobs run in the model's process, not in the sandbox."""
        return not self.checks_keys or "trusted" in self.tags


def caller(client: Client) -> Caller:
    """Ask the server who is calling; remembered per host.

    A server that checks keys refuses a malformed one; a server that does not accepts anything.
    That, and the tags of the key, is all that a server reveals about trust.

    Raises:
        KeyRefused, ServerDown, NotNdif: depending on the answer.
    """
    said = client.get_json("/whoami", with_key=True)
    if not isinstance(said, dict):
        raise NotNdif(
            f"{client.host.url}/whoami does not answer as an NDIF server",
            "name its base address: --backend ndif:https://host",
        )
    tags = said.get("tags")
    tags = tuple(str(tag) for tag in tags) if isinstance(tags, list) else ()
    email = _text(said.get("email"))
    refuses = client.status_code("/whoami", {"ndif-api-key": "no-key"}) == 400
    found = Caller(refuses, email is not None or bool(tags), email, tags)
    remember(client.host, trusted=found.trusted)
    return found


def sandboxes(client: Client, model_key: str) -> bool:
    """Whether the server would run this user's job on this model in its sandbox process.

    Raises:
        ServerDown, NotNdif, KeyRefused: if the server does not answer.
    """
    if caller(client).trusted:
        return False
    try:
        deployed = [d for d in deployments(client) if d.model_key == model_key]
    except ServerDown:
        return True
    return not any(d.actor and "sandbox" not in d.actor.lower() for d in deployed)


def describe_caller(who: Caller) -> str:
    """A caller in words."""
    tags = ", ".join(who.tags) or "none"
    trust = (
        "trusted: jobs run beside the model"
        if who.trusted
        else ("sandboxed: jobs cannot read gradients")
    )
    return f"known as {who.email or 'nobody by name'}, tags: {tags}; {trust}"

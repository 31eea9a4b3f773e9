"""What a server has deployed, as `remote-mi models` lists it."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from datetime import datetime

from remote_mi.backends.checking import CLUSTER_S
from remote_mi.backends.kind import ModelColumn, ModelList
from remote_mi.backends.ndif.client import Client
from remote_mi.backends.ndif.facts import Deployment, deployments
from remote_mi.backends.ndif.hosts import find_host
from remote_mi.backends.ndif_server import personal
from remote_mi.common.deadline import run_with_deadline
from remote_mi.common.text import line

#: A table of 80 columns; a long name wraps.
_COLUMNS = (
    ModelColumn("model"),
    *(ModelColumn(name, 15) for name in ("state", "dtype")),
    *(ModelColumn(name, 8, right=True) for name in ("params", "size", "limit", "×", "until")),
)


def list_models(asked: str | None) -> ModelList:
    """The models that a server has deployed.

    Args:
        asked: the server, as `find_host` takes it.
    """
    host = find_host(asked)
    backend = f"ndif:{asked}" if asked else "ndif"
    found = run_with_deadline(CLUSTER_S, lambda: deployments(Client(host)))
    first = next((d.repo_id for d in found if d.state != "UNHEALTHY"), None)
    none = f"{host.url} has deployed no model; a job requests the one it needs"
    if not found and host.served is not None:
        none = f"{host.url} has loaded no model yet; the first job loads one"
        first = next(iter(host.served.models), None)
    if first and host.served is not None:
        first = personal.model_option(first, host.served)
    # A server may use any text as a name; only a printable one is put into a command.
    shown = shlex.quote(first) if first and first == line(first) else "ID"
    return ModelList(
        [_row(deployment) for deployment in found],
        {"backend": backend, "url": host.url, "models": [asdict(d) for d in found]},
        f"remote-mi run logit_lens -p prompt='…' --model {shown} --backend {backend}",
        _COLUMNS,
        none,
    )


def _row(item: Deployment) -> tuple[str, ...]:
    return (
        item.repo_id if item.revision == "main" else f"{item.repo_id}@{item.revision}",
        # A server reports no other state for a model that is parked in RAM.
        item.level if item.state == "unknown" else f"{item.state} {item.level}",
        item.dtype or "?",
        _format_count(item.parameters, "").replace("G", "B"),
        _format_count(item.size_bytes, "B"),
        "none" if item.timeout_s is None else f"{item.timeout_s:g} s",
        str(item.replicas),
        _format_end(item.ends),
    )


def _format_count(number: int | None, unit: str) -> str:
    """A number of three digits with a decimal prefix: 135M, 1.2GB."""
    if number is None:
        return "?"
    value, prefixes = float(number), iter(("", "k", "M", "G", "T", "P"))
    prefix = next(prefixes)
    while value >= 999.5:
        following = next(prefixes, None)
        if following is None:
            break
        value, prefix = value / 1000, following
    return f"{value:.3g}{prefix}{unit}"


def _format_end(moment: float | None) -> str:
    """The end of a schedule in local time: the time if today, else the date."""
    if moment is None:
        return "–"
    try:
        there = datetime.fromtimestamp(moment)
    except (OverflowError, ValueError, OSError):
        return "?"
    return there.strftime("%H:%M" if there.date() == datetime.now().date() else "%d %b")

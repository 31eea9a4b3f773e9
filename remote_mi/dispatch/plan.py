"""The decision where a job runs.

Today the choice is the user's: `auto` and `local` are this machine, `ndif` is the server nnsight
is configured for, `ndif:URL` another one, `ndif:here` the personal one. A backend that was asked for and cannot serve is an
error; there is no silent fall from one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from remote_mi.backends.base import Backend
from remote_mi.errors import UsageError, nearest
from remote_mi.models.spec import ModelSpec, local_device


@dataclass(frozen=True)
class Plan:
    """Where a job runs, and why.

    Attributes:
        backend: what executes it. reason: in words.
    """

    backend: Backend
    reason: str

    def __str__(self) -> str:
        return f"{self.backend.name}: {self.reason}"


def choose(asked: str, spec: ModelSpec, project: Path) -> Plan:
    """The plan for a backend as asked for.

    Args:
        project: the user's project, which keeps the ledger of remote jobs.

    Raises:
        UsageError: if there is no such backend. BackendUnavailable: if `ndif:here` is not up.
    """
    name, _, host = asked.partition(":")
    if name in ("auto", "local") and not host:
        # Imported here: a lookup must not import torch, and the session module does.
        from remote_mi.backends.local import LocalBackend

        reason = f"on this machine's {local_device(spec.device)}"
        return Plan(
            LocalBackend(), reason + (" (no server was asked for)" if name == "auto" else "")
        )
    if name == "ndif":
        from remote_mi.backends.ndif.backend import NdifBackend

        return Plan(NdifBackend.asked_for(host or None, project), "asked for")
    close = nearest(name, ("auto", "local", "ndif"))
    raise UsageError(f"no backend {asked!r}",
                     (f"did you mean {close!r}? " if close else "")
                     + "there are: auto, local, ndif, ndif:here, ndif:URL")  # fmt: skip

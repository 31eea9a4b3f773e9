"""Free ports for one server: one block of consecutive ports on loopback, held by its first.

Ray alone wants ten ports, and its defaults are shared by every Ray on the machine. Blocks lie
below the system's range for outgoing connections, so none of a block's ports is taken before its
service starts.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from remote_mi.backends.ndif_server.errors import ServerUnavailable

NAMES = (
    "hub",
    "api",
    "redis",
    "store",
    "postgres",
    "ray_gcs",
    "ray_client",
    "ray_objects",
    "ray_node",
    "ray_dashboard",
    "ray_dashboard_metrics",
    "ray_agent_http",
    "ray_agent_grpc",
    "ray_metrics",
    "ray_runtime_env",
)
"""What the first ports of a block are for; the rest are for Ray's client proxy and workers."""

_LOOPBACK = "127.0.0.1"
_BLOCK = 64
_CLIENTS = 8
# Another Ray's client proxy picks ports from 23000 to 23999; no block reaches into them.
_STARTS = [
    start for start in range(20032, 32000, _BLOCK) if start + _BLOCK <= 23000 or start >= 24000
]


@dataclass(frozen=True)
class Ports:
    """The ports of one server.

    Attributes:
        named: port by name, for every name of `NAMES`.
        clients: the ports Ray's client proxy may give to the processes it starts for clients.
        workers: the ports Ray may give to its workers and drivers.
        holder: the bound socket of the port named "hub". While it is open, no other server can
            choose the same block; hand it to the hub.
    """

    named: dict[str, int]
    clients: list[int]
    workers: list[int]
    holder: socket.socket


def reserve() -> Ports:
    """Find a block of free ports and reserve it.

    Raises:
        ServerUnavailable: no block is free.
    """
    for start in _shuffled(_STARTS):
        holder = _bind(start)
        if holder is None:
            continue
        if all(_is_free(port) for port in range(start + 1, start + _BLOCK)):
            block = list(range(start, start + _BLOCK))
            return Ports(
                named=dict(zip(NAMES, block, strict=False)),
                clients=block[len(NAMES) : len(NAMES) + _CLIENTS],
                workers=block[len(NAMES) + _CLIENTS :],
                holder=holder,
            )
        holder.close()
    raise ServerUnavailable(
        f"no {_BLOCK} consecutive free ports between {_STARTS[0]} and {_STARTS[-1] + _BLOCK}"
    )


def _shuffled(starts: list[int]) -> Iterator[int]:
    """In random order, so that servers which start together rarely try the same block."""
    return iter(random.SystemRandom().sample(starts, len(starts)))


def _bind(port: int) -> socket.socket | None:
    """A listening socket on the port; None if it is taken."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Allows binding a port whose last connection has only just closed, but not one with a
        # listener.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((_LOOPBACK, port))
        bound.listen(128)
    except OSError:
        bound.close()
        return None
    return bound


def _is_free(port: int) -> bool:
    bound = _bind(port)
    if bound is None:
        return False
    bound.close()
    return True

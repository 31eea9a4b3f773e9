"""A personal, genuine NDIF on this machine: loopback only, CPU, started and stopped by process id.

It serves newcomers without an API key as a preview, and this project's tests as the real thing.
A lab with GPUs installs NDIF itself instead.
"""

from __future__ import annotations

from remote_mi.ndif_server.errors import (
    ServerError,
    ServerNotRunning,
    ServerRunning,
    ServerStartFailed,
    ServerUnavailable,
)
from remote_mi.ndif_server.install import ensure_venv
from remote_mi.ndif_server.server import Server

__all__ = [
    "Server",
    "ServerError",
    "ServerNotRunning",
    "ServerRunning",
    "ServerStartFailed",
    "ServerUnavailable",
    "ensure_venv",
]

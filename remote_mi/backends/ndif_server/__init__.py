"""A personal, genuine NDIF on this machine: loopback only, CPU, started and stopped by process id.

It gives newcomers without an API key a preview, and this project's tests a real server.
A lab with GPUs installs NDIF itself instead.

Names are imported on first use: looking up the server in `personal` needs none of the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remote_mi.backends.ndif_server.errors import (
        ServerError,
        ServerNotRunning,
        ServerRunning,
        ServerStartFailed,
        ServerUnavailable,
    )
    from remote_mi.backends.ndif_server.install import ensure_venv
    from remote_mi.backends.ndif_server.server import Server

_HOMES = {
    "Server": "server",
    "ServerError": "errors",
    "ServerNotRunning": "errors",
    "ServerRunning": "errors",
    "ServerStartFailed": "errors",
    "ServerUnavailable": "errors",
    "ensure_venv": "install",
}

__all__ = [
    "Server",
    "ServerError",
    "ServerNotRunning",
    "ServerRunning",
    "ServerStartFailed",
    "ServerUnavailable",
    "ensure_venv",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

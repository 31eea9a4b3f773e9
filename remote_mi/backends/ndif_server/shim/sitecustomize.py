"""Ports of our own for Ray's client proxy; Python runs this file at every start inside the server.

The proxy starts one process per client and takes the first port from 23000 on that it can bind for
it. It lets the port go before the process listens there, and two processes may listen on one port:
of two servers that start together, one would send its jobs to the other's models. So each server's
proxy chooses among ports that are the server's own.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType

_PROXY = "ray.util.client.server.proxier"


class _ProxyPorts(importlib.abc.MetaPathFinder):
    """Finds the proxy's module where it is, and narrows its range of ports as it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, with our loading of it."""
        if name != _PROXY:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def narrowed(module: ModuleType) -> None:
                execute(module)
                first, last = map(int, os.environ["REMOTE_MI_NDIF_CLIENT_PORTS"].split("-"))
                # A later Ray that names them otherwise must not be left to its own range.
                assert module.MIN_SPECIFIC_SERVER_PORT < module.MAX_SPECIFIC_SERVER_PORT
                module.MIN_SPECIFIC_SERVER_PORT = first  # type: ignore[attr-defined]
                module.MAX_SPECIFIC_SERVER_PORT = last + 1  # type: ignore[attr-defined]

            spec.loader.exec_module = narrowed  # type: ignore[method-assign]
        return spec


if "REMOTE_MI_NDIF_CLIENT_PORTS" in os.environ:
    sys.meta_path.insert(0, _ProxyPorts())

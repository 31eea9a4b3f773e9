"""One genuine NDIF server for the tests in this folder, with one tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from remote_mi.ndif_server import Server, ServerUnavailable, ensure_venv

#: Repository id under which the server knows the tiny model.
TINY_LLAMA = "remote-mi/tiny-llama"


@pytest.fixture(scope="session")
def ndif_server(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server. Its environment is built first where that has not been done (minutes)."""
    cache = os.environ.get("REMOTE_MI_CACHE") or platformdirs.user_cache_dir("remote_mi")
    folder = Path(cache) / "ndif-server"
    try:
        server = Server(_state(folder, tmp_path_factory), venv=ensure_venv(folder, print))
        server.start({TINY_LLAMA: tiny_llama}, timeout=180)
    except ServerUnavailable as error:
        # Where nobody reads the reason of a skip, a missing server must not look like a success.
        if os.environ.get("CI"):
            pytest.fail(f"the NDIF server is unavailable: {error}")
        pytest.skip(f"the NDIF server is unavailable: {error}")
    try:
        yield server
    finally:
        server.stop(timeout=30)


def _state(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder that is the same in every session, so that the next one finds and ends a
    server whose session was killed; another one while a living session uses it."""
    state = folder / "tests"
    status = Server(state).status()
    if status["running"] and status["owner_alive"]:
        return tmp_path_factory.mktemp("ndif-server")
    Server(state).stop(timeout=30)
    return state


@pytest.fixture
def client(ndif_server: Server, project: Path) -> Callable[..., Any]:
    """Run a script in a process of its own that talks to the server; returns what it prints.

    The client's libraries read their environment when they are imported, hence the process.
    """

    def run(script: str, *arguments: object, timeout: float = 120) -> Any:
        environment = {**os.environ, **ndif_server.client_env()}
        done = subprocess.run(
            [sys.executable, "-c", script, *(str(a) for a in arguments)],
            capture_output=True, text=True, timeout=timeout, env=environment, cwd=project,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    return run

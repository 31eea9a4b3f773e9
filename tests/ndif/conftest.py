"""Genuine NDIF servers for the tests in this folder, each with one tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from remote_mi.backends.ledger import Entry, Ledger
from remote_mi.backends.ndif_server import Server, ServerUnavailable, ensure_venv
from remote_mi.common.paths import server_folder
from remote_mi.common.progress import Silent

from ..warm import python

#: Repository id under which the servers know the tiny model.
TINY_LLAMA = "remote-mi/tiny-llama"


@pytest.fixture(scope="session")
def ndif_venv() -> Path:
    """The environment NDIF is installed in, built first where that has not been done (minutes)."""
    try:
        return ensure_venv(server_folder(), Silent())
    except ServerUnavailable as error:
        _unavailable(error)


@pytest.fixture(scope="package")
def ndif_server(
    ndif_venv: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running server that checks no keys."""
    state = _state("tests", tmp_path_factory)
    yield from _running(Server(state, venv=ndif_venv, threads=1), tiny_llama)


@pytest.fixture(scope="module")
def sandbox_server(
    ndif_venv: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running server as the public one is: keys are checked, jobs of untrusted ones sandboxed."""
    state = _state("tests-sandbox", tmp_path_factory)
    yield from _running(Server(state, venv=ndif_venv, threads=1, auth=True), tiny_llama)


def _running(server: Server, model: Path) -> Iterator[Server]:
    try:
        server.start({TINY_LLAMA: model}, timeout=600)
    except ServerUnavailable as error:
        _unavailable(error)
    try:
        yield server
    finally:
        server.stop(timeout=120)


def _unavailable(error: ServerUnavailable) -> NoReturn:
    # Where nobody reads the reason of a skip, a missing server must not look like a success.
    if os.environ.get("CI"):
        pytest.fail(f"the NDIF server is unavailable: {error}")
    pytest.skip(f"the NDIF server is unavailable: {error}")


def _state(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder that is the same in every session, so that the next one finds and ends a
    server whose session was killed; another one while a living session uses it. Of tests that run
    several at a time each process has its own."""
    state = server_folder() / f"{name}{os.environ.get('PYTEST_XDIST_WORKER', '')}"
    status = Server(state).status()
    if status["running"] and status["owner_alive"]:
        return tmp_path_factory.mktemp("ndif-server")
    Server(state).stop(timeout=120)
    return state


@pytest.fixture
def client(ndif_server: Server, project: Path) -> Callable[..., Any]:
    """Run a script in a process of its own that talks to the server; returns what it prints.

    The client's libraries read their environment when they are imported, hence the process.
    """
    return client_of(ndif_server, project)


def client_of(server: Server, project: Path) -> Callable[..., Any]:
    """Runs scripts in processes of their own that talk to a server."""

    def run(script: str, *arguments: object, timeout: float = 480, **environment: str) -> Any:
        done = subprocess.run(
            [*python(), "-c", script, *(str(a) for a in arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=project,
            env={**os.environ, **server.client_env(), **environment},
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    return run


class Terminal:
    """A terminal in a project, set up for a server."""

    def __init__(self, server: Server, project: Path) -> None:
        self.project = project
        self.environment = {**os.environ, **server.client_env(), "COLUMNS": "100"}
        self.ledger = Ledger(project)

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start a command and do not wait for it."""
        return subprocess.Popen(
            [*python(), "-m", "remote_mi", *(str(a) for a in arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.project,
            env={**self.environment, **environment},
        )

    def run(
        self, *arguments: object, given: str = "", timeout: float = 360, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with a text on stdin."""
        process = self.start(*arguments, **environment)
        try:
            out, err = process.communicate(given, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate(timeout=60)
            pytest.fail(f"{arguments} took longer than {timeout} s:\n{out}\n{err}")
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def until(self, state: str, timeout: float = 240) -> list[Entry]:
        """Wait until every entry of the ledger is in a state, and there is one."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entries = self.ledger.all()
            if entries and all(e.state == state for e in entries):
                return entries
            time.sleep(0.1)
        pytest.fail(f"not all {state}: {[(e.state, e.status, e.error) for e in self.ledger.all()]}")

    def end_collector(self) -> None:
        """End the project's collector, if there is one."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"remote_mi.jobs.collector" in command and str(self.project).encode() in command:
                os.kill(int(entry.name), signal.SIGKILL)


SLOW = '''"""Takes its time, or fails."""

from __future__ import annotations

import time
from typing import Any

import torch

from remote_mi.interventions import Prompt
from remote_mi import recipe


@recipe(over="prompt", returns={"first": ("position",)})
def slow(lm: Any, prompt: Prompt, *, seconds: float = 3.0, fail: bool = False) -> dict[str, Any]:
    """The first number of the stream after layer 0, after a while."""
    with lm.trace(input_ids=torch.tensor([prompt.ids])):
        first = lm.layers[0].output[0, :, 0]
    float(first.sum())  # ends the dry run, which has no numbers: what follows happens there only
    time.sleep(seconds)
    if fail:
        raise ValueError("meant to fail")
    return {"first": first}
'''


def slow_job(*options: object, prompt: str = "When Mary and John went to") -> list[object]:
    """A command that runs the recipe `slow` on a server."""
    return [
        "run",
        "slow",
        "--model",
        TINY_LLAMA,
        "--backend",
        "ndif",
        "-p",
        f"prompt={prompt}",
        *options,
    ]


@pytest.fixture
def terminal(ndif_server: Server, project: Path, cache: Path) -> Iterator[Terminal]:
    """A terminal in a project with a slow recipe, with an empty cache."""
    yield from terminal_for(ndif_server, project)


def terminal_for(server: Server, project: Path) -> Iterator[Terminal]:
    """A terminal whose collector is ended with it."""
    (project / "recipes").mkdir(exist_ok=True)
    (project / "recipes" / "slow.py").write_text(SLOW)
    made = Terminal(server, project)
    yield made
    made.end_collector()

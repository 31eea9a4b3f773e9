"""The personal server by its commands: up, status, logs, down; and what an interruption leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from remote_mi.backends.ndif_server import personal
from remote_mi.backends.ndif_server.launch import family, http_status
from remote_mi.backends.ndif_server.record import Record


@pytest.fixture
def environment(
    ndif_venv: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """A cache of the test's own, so that nobody's server is touched; nothing is built again.

    Its path and that of the environment hold a space and an umlaut, at which Ray would stumble.
    """
    odd = tmp_path / "my cäche"
    odd.mkdir()
    (odd / "venv").symlink_to(ndif_venv)
    monkeypatch.setenv("REMOTE_MI_CACHE", str(odd))
    yield {"REMOTE_MI_NDIF_VENV": str(odd / "venv")}
    personal.personal_server().stop(timeout=120)


def nothing_is_left(folders: list[str]) -> None:
    state = personal.state_folder()
    assert Record.read(state) is None
    assert family(state, None).find() == {}
    assert not [folder for folder in folders if Path(folder).exists()]


def proxied(commands: Iterable[str]) -> list[int]:
    """Ports of the processes that Ray's client proxy started for its clients."""
    found = (
        re.search(r"ray\.util\.client\.server.*--port=(\d+).*specific-server", c) for c in commands
    )
    return [int(match[1]) for match in found if match]


def test_up_status_down(environment, process, tiny_llama):
    def command(*words: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return process("ndif", *words, timeout=timeout, **environment)

    up = command("up", "--model", tiny_llama, "--threads", "1", timeout=580)
    assert up.returncode == 0, up.stderr
    repo_id = personal.repo_id_of(str(tiny_llama))
    assert "--backend ndif:here" in up.stderr and "remote-mi ndif down" in up.stderr
    assert "starting NDIF" in up.stderr and repo_id in up.stdout

    status = command("status", "--json")
    assert status.returncode == 0, status.stdout
    found = json.loads(status.stdout)
    assert found["running"] and found["healthy"], status.stdout
    assert found["models"] == {repo_id: str(tiny_llama.resolve())}
    assert found["memory_mb"] > 100 and found["threads"] == 1 and found["keys"] == {}
    assert not found["owner_alive"], "nobody has to stay for the server to run"
    for name, service in found["services"].items():
        assert service["alive"], name
        assert os.getsid(service["pid"]) == service["pid"], f"{name} outlives the terminal"

    here = personal.require_running()
    assert personal.running_server(found["url"]) == here
    assert personal.served_repo_id(tiny_llama, here) == repo_id
    assert http_status(f"{here.hub_url}/api/models/{repo_id}", timeout=5) == 200

    # Two servers whose proxies took one port would send each other's jobs to the wrong models.
    record = Record.read(personal.state_folder())
    ports = proxied(family(personal.state_folder(), record).find().values())
    own = range(record.ports["hub"], record.ports["hub"] + 64)
    assert ports and all(port in own for port in ports), (ports, record.ports)

    again = command("up", "--model", tiny_llama)
    assert again.returncode == 2 and found["url"] in again.stderr, again.stderr
    logs = command("logs", "-n", "5")
    assert logs.returncode == 0 and 1 <= len(logs.stdout.splitlines()) <= 5
    assert command("logs", "apy").returncode == 3

    # A server of which a service died is started anew by the same command, as it was.
    os.kill(found["services"]["store"]["pid"], signal.SIGKILL)
    status = command("status")
    assert status.returncode == 5 and "running, but store died" in status.stdout, status.stdout
    mended = command("up", "--threads", "1", timeout=580)
    assert mended.returncode == 0 and "store died" in mended.stderr, mended.stderr
    assert f"--model {tiny_llama.resolve()} " in mended.stderr
    status = command("status", "--json")
    assert status.returncode == 0, status.stdout
    assert json.loads(status.stdout)["models"] == found["models"]

    folders = Record.read(personal.state_folder()).folders
    down = command("down")
    assert (down.returncode, down.stdout) == (0, "stopped\n"), down.stderr
    nothing_is_left(folders)
    assert command("logs", "redis").returncode == 0, "logs stay"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_leaves_nothing(environment, tiny_llama, number):
    up = subprocess.Popen(
        [sys.executable, "-m", "remote_mi", "ndif", "up", "--model", str(tiny_llama)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        record = started(up)
        up.send_signal(number)
        out, err = up.communicate(timeout=240)
    finally:
        up.kill()
    assert up.returncode == 130, err
    assert out == "" and "interrupted" in err and "Traceback" not in err
    nothing_is_left(record.folders)


def started(up: subprocess.Popen[str]) -> Record:
    """The record as soon as all services have been started, none of which is up by then."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and up.poll() is None:
        record = Record.read(personal.state_folder())
        if record and "store" in record.pids:
            return record
        time.sleep(0.02)
    raise AssertionError(f"nothing was started (exit code {up.poll()})")

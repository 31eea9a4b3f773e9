"""Faults of a genuine server and of the network before it, while a recipe runs there.

The server is this file's own, since it is operated on; what that does is in `surgery.py`. The
recipe notes each of its runs on the server, so that nothing is executed twice unseen.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import remote_mi as mi
from remote_mi.backends.ndif_server import Server, ServerUnavailable

from . import surgery
from .conftest import TINY_LLAMA, Terminal, _state, _unavailable
from .proxy import Proxy

#: Repository id of a model whose weights are missing.
WITHOUT_WEIGHTS = "remote-mi/without-weights"
PROMPT = "When Mary and John went to"
#: Seconds that a job may run.
LIMIT = 9.0


@pytest.fixture(scope="module")
def server(ndif_venv, tiny_llama, tmp_path_factory) -> Iterator[Server]:
    """A server whose jobs may run for a few seconds; one of its two models cannot be loaded."""
    broken = tmp_path_factory.mktemp("models") / "without-weights"
    shutil.copytree(tiny_llama, broken)
    (broken / "model.safetensors").unlink()
    made = Server(
        _state("tests-faults", tmp_path_factory), venv=ndif_venv, threads=1, execution_timeout=LIMIT
    )
    try:
        made.start({TINY_LLAMA: tiny_llama, WITHOUT_WEIGHTS: broken}, timeout=600)
    except ServerUnavailable as error:
        _unavailable(error)
    try:
        yield made
    finally:
        made.stop(timeout=120)


class Clients:
    """A terminal with the recipe `slow`, and what it should give."""

    def __init__(self, terminal: Terminal, model: Path) -> None:
        self.terminal, self.slow = terminal, surgery.Slow(terminal.project, 3.0)
        self.ledger = terminal.ledger
        local = mi.run("slow", model=str(model), prompt=PROMPT, backend="local")
        self.expected = local["norm"].values

    def command(self, *options: object) -> list[object]:
        return [
            "run",
            "slow",
            "--model",
            TINY_LLAMA,
            "--backend",
            "ndif",
            "-p",
            f"prompt={PROMPT}",
            "--json",
            *options,
        ]

    def start(self, *options: object, **environment: str) -> subprocess.Popen[str]:
        """Start the command, and return while the recipe runs on the server."""
        process = self.terminal.start(*self.command(*options), **environment)
        self.slow.wait(self.slow.runs + 1)
        return process

    def run(self, *options: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.terminal.run(*self.command(*options), **environment)

    def right(self, done: subprocess.CompletedProcess[str]) -> None:
        """A command showed the right numbers."""
        assert done.returncode == 0, done.stderr
        values = json.loads(done.stdout)["outputs"]["norm"]["values"]
        np.testing.assert_allclose(values, self.expected, rtol=1e-5, atol=1e-5)

    def wrong(self, done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
        """A command ended with this code and these words."""
        assert done.returncode == code, (done.returncode, done.stderr)
        assert "Traceback" not in done.stderr and "unexpected" not in done.stderr
        assert all(word in done.stderr for word in words), done.stderr

    @property
    def states(self) -> list[str]:
        return [entry.state for entry in self.ledger.all()]


def ended(process: subprocess.Popen[str], timeout: float = 360) -> subprocess.CompletedProcess[str]:
    """A command that was started, at its end."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"it hangs: {process.communicate(timeout=60)}")
    return subprocess.CompletedProcess([], process.returncode, out, err)


@pytest.fixture
def clients(server, project, cache, tiny_llama) -> Iterator[Clients]:
    terminal = Terminal(server, project)
    yield Clients(terminal, tiny_llama)
    terminal.end_collector()


# --- The network ----------------------------------------------------------------------------------


def test_the_network_is_cut_before_during_and_after(server, clients):
    """Before: nothing is sent. During: it is waited for. After: the result is fetched later."""
    with Proxy(server.url) as proxy:
        here = {"NDIF_HOST": proxy.url}
        proxy.refuse()
        clients.wrong(clients.run(**here), 5, "cannot be reached")
        assert clients.states == []
        proxy.accept()
        proxy.cut_next_download(0.5, times=5)
        process = clients.start(**here)
        proxy.refuse()
        surgery.wait_until(lambda: process.poll() is None, 1, "it goes on waiting")
        proxy.accept()
        done = ended(process)
        (job,) = clients.ledger.all()
        clients.wrong(done, 5, "cannot be fetched", f"jobs wait {job.id[:8]}")
        assert proxy.struck["download"] == 5
        clients.right(clients.terminal.run("jobs", "wait", job.id[:8], "--json", **here))
    assert clients.slow.runs == 1 and clients.states == ["done"]


def test_the_reply_to_the_submission_is_lost_and_a_download_is_cut(server, clients):
    with Proxy(server.url) as proxy:
        proxy.drop_next_reply("POST", "/request")
        proxy.cut_next_download(0.5)
        done = clients.run("-p", "seconds=0", NDIF_HOST=proxy.url)
        clients.right(done)
        assert "was lost" in done.stderr and proxy.count("POST", "/request") == 1
        assert proxy.struck["download"] == 1 and proxy.downloads == 2
    assert clients.slow.runs == 1 and clients.states == ["done"]


def test_the_submission_is_lost_with_its_job(server, clients):
    with Proxy(server.url) as proxy:
        proxy.drop_next_request("POST", "/request")
        done = clients.run("-p", "seconds=0", NDIF_HOST=proxy.url)
        clients.right(done)
        assert "submitting it once more" in done.stderr and proxy.count("POST", "/request") == 2
    first, second = clients.ledger.all()
    assert (first.state, second.state, second.replaces) == ("failed", "done", first.id)
    assert clients.slow.runs == 1


# --- The server's refusals ------------------------------------------------------------------------


def test_a_model_that_cannot_be_loaded_there(clients):
    done = clients.run("--model", WITHOUT_WEIGHTS)
    clients.wrong(done, done.returncode, "remote-mi models --backend ndif")
    assert done.returncode in (1, 5) and clients.states == ["failed"]
    assert clients.slow.runs == 0


def test_a_job_that_runs_for_too_long(clients):
    done = clients.run("-p", "seconds=60")
    clients.wrong(done, 1, "execution timeout of 9.0s", "shorter prompts")
    assert clients.states == ["failed"] and clients.slow.runs == 1


# --- The server's parts; the last ones take it longest to recover from ------------------------------


def test_a_web_worker_is_killed(server, clients):
    process = clients.start()
    surgery.kill_web_worker(server)
    clients.right(ended(process))
    assert clients.slow.runs == 1 and clients.states == ["done"]


def test_the_api_is_restarted_while_the_job_runs(server, clients):
    process = clients.start()
    surgery.restart_api(server)
    clients.right(ended(process))
    assert clients.slow.runs == 1 and clients.states == ["done"]


def test_the_process_that_holds_the_model_is_killed(server, clients):
    process = clients.start()
    surgery.kill_model_actor(server)
    done = ended(process)
    clients.wrong(done, 1, "same command submits it again")
    assert clients.states == ["failed"]
    again = clients.run("-p", "seconds=3.0")
    clients.right(again)
    assert clients.slow.runs == 2 and clients.states == ["failed", "done"]


def test_redis_goes_and_comes_back(server, clients):
    """The running job completes; what is submitted meanwhile is refused, and later taken."""
    process = clients.start()
    with surgery.without_redis(server):
        refused = clients.run("-p", "seconds=0")
        clients.wrong(refused, 5, "same command")
    clients.right(ended(process))
    clients.right(clients.run("-p", "seconds=0"))
    assert clients.slow.runs == 2
    assert clients.states.count("done") == 2 and set(clients.states) <= {"done", "failed"}

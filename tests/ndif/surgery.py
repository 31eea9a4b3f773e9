"""What is done to a genuine, running server, and what it does then.

Measured with ndif 0.1.2 and Ray 2.60 on two cores, a tiny model, keys not checked, non-blocking
jobs. "Settled" means that a job sent now will run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from remote_mi.backends.ndif_server import Server

T = TypeVar("T")

SLOW = '''"""A recipe that takes its time on the server, and notes each of its runs in a file."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi.interventions import Prompt, run
from remote_mi import Range, recipe


@recipe(over="prompt", returns={{"norm": ("layer", "position")}})
def slow(
    lm: Any, prompt: Prompt, *, seconds: Annotated[float, Range(0, 600)] = {seconds}
) -> dict[str, Any]:
    """Norms of the residual stream, after a pause.

    Args:
        seconds: how long the pause is.
    """
    import sys
    import time

    if "ndif" in sys.modules:  # not where the recipe is tried out before it is sent
        with open({ran!r}, "a") as file:
            file.write("started\\n")
        until = time.monotonic() + seconds
        while time.monotonic() < until:  # in small steps, so that the server can interrupt it
            time.sleep(0.02)
    stream = [s[0] for s in run(lm, prompt, "resid_post").values]
    return {{"norm": torch.stack([each.norm(dim=-1) for each in stream])}}
'''


class Slow:
    """The recipe `slow` in a project's folder, and how often the server has begun to run it.

    The server writes the note, so it has to be one of this machine. A job that is sent twice or
    evicted runs twice and is noted twice; one with several prompts is noted once for each. A local
    run neither waits nor notes.
    """

    def __init__(self, project: Path, seconds: float = 5.0) -> None:
        self.note = project / "slow-ran.txt"
        recipes = project / "recipes"
        recipes.mkdir(exist_ok=True)
        (recipes / "slow.py").write_text(SLOW.format(seconds=seconds, ran=str(self.note)))

    @property
    def runs(self) -> int:
        """How often it has started."""
        return len(self.note.read_text().splitlines()) if self.note.exists() else 0

    def wait(self, runs: int = 1, timeout: float = 240) -> None:
        """Return once it has started that often: the job is RUNNING, and not yet at its end."""
        wait_until(lambda: self.runs >= runs, timeout, f"{runs} runs of slow")


def wait_until(found: Callable[[], T | None], timeout: float, what: str) -> T:
    """What `found` gives, as soon as it is true.

    Raises:
        TimeoutError: it has not become true.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = found()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(0.05)


def ask(url: str, timeout: float = 10) -> tuple[int, Any]:
    """(HTTP status, JSON or text) of a GET; (0, why) if nobody answers in time."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as reply:
            code, body = reply.status, reply.read()
    except urllib.error.HTTPError as error:
        code, body = error.code, error.read()
    except OSError as error:
        return 0, str(error)
    try:
        return code, json.loads(body)
    except ValueError:
        return code, body.decode(errors="replace")


def answer(server: Server, job_id: str) -> dict[str, Any] | None:
    """What is stored at /response/{id}; None where that is nothing."""
    code, body = ask(f"{server.url}/response/{job_id}")
    return body if code == 200 else None


def wait_for_status(
    server: Server, job_id: str, *names: str, timeout: float = 240
) -> dict[str, Any]:
    """The stored answer, once its status is one of these."""

    def found() -> dict[str, Any] | None:
        stored = answer(server, job_id)
        return stored if stored and stored["status"] in names else None

    return wait_until(found, timeout, f"{job_id} is {' or '.join(names)}")


def settle(server: Server, timeout: float = 360) -> None:
    """Return once the API, the dispatcher, Ray and the controller work together."""

    def settled() -> bool:
        # /connected alone may repeat what was true of the API before it was restarted.
        return (
            ask(f"{server.url}/status", 3)[0] == 200 and ask(f"{server.url}/connected", 3)[0] == 200
        )

    wait_until(settled, timeout, f"{server.url} is settled")


# --- Processes ----------------------------------------------------------------------------------


def pid_of(server: Server, service: str) -> int:
    """The process id of "hub", "ray", "redis", "api" or "store"."""
    return server.status()["services"][service]["pid"]


def web_workers(server: Server) -> list[int]:
    """gunicorn's workers. Its other child, the dispatcher, was forked before it bound its port."""
    listening = _sockets(pid_of(server, "api"))
    return [p for p in _where("ppid", pid_of(server, "api")) if _sockets(p) & listening]


def dispatcher(server: Server) -> int:
    """The process that takes jobs from the queue to the model."""
    workers = web_workers(server)
    (found,) = [p for p in _where("ppid", pid_of(server, "api")) if p not in workers]
    return found


def model_actor(server: Server, timeout: float = 120) -> int:
    """The process that holds the model; there is one once a job has come, and Ray restarts it."""

    def found() -> int | None:
        members = _where("session", pid_of(server, "ray"))
        actors = [p for p in members if "ModelActor" in _command(p)]
        return actors[0] if actors else None

    return wait_until(found, timeout, "a model actor")


def kill(pid: int) -> None:
    """Kill a process and return when it is gone."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in _stats(), 10, f"process {pid} is gone")


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """The process, and its group where it leads one, does nothing inside the block.

    The model actor, while a job runs: it stays RUNNING, and goes on to its end afterwards. Before
    a job arrives: it stays DISPATCHED.
    The API: connections are taken and nothing is answered. **A POST whose client gave up is read
    and carried out when the API goes on: the job is known, its reply was lost.**
    """
    group = os.getpgid(pid) == pid
    send = os.killpg if group else os.kill
    send(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            send(pid, signal.SIGCONT)


# --- Operations ---------------------------------------------------------------------------------


def restart_api(server: Server) -> None:
    """Kill gunicorn, its worker and the dispatcher; start them again; wait until settled (13 s).

    Connections are refused for 9 s. Then /connected says 200 at once, for Redis still has the old
    flag; a POST may be taken or answer 503 `replies.RECONNECTING` for some 3 s more.
    A job that runs is not disturbed: the model actor stores its status itself, and COMPLETED is
    there when the API is back. **A job that waits behind it is lost for good: its status stays
    QUEUED for ever**, since the line was in the dispatcher's memory, and nobody says ERROR. A POST
    that was answered while the dispatcher was paused is lost without a trace, /response says 404
    for ever: Redis had already handed it to the dispatcher that is no more.
    """
    server.restart("api", wait=0)
    time.sleep(2.5)  # what /status last said is remembered for two seconds
    settle(server)


def kill_web_worker(server: Server) -> None:
    """Kill gunicorn's worker: a request that it was answering loses its reply.

    gunicorn has another one within 0.1 s; a POST right after it is answered by that. Running and
    waiting jobs are not disturbed, and no stored answer is lost.
    """
    before = web_workers(server)
    for pid in before:
        kill(pid)
    wait_until(lambda: web_workers(server), 20, "another web worker")


def kill_model_actor(server: Server) -> None:
    """Kill the process that holds the model.

    The running job says ERROR `replies.ACTOR_DIED` after 1.2 s, with no `meta`; it is never run
    again. Jobs that wait stay QUEUED and run when Ray has restarted the actor (7 to 9 s). If no
    job was running, the next one is DISPATCHED and gets the same ERROR within 2 s; the one after
    that waits for the restart and runs.
    """
    kill(model_actor(server))


def restart_redis(server: Server, api_too: bool = True) -> None:
    """Kill Redis and start it again, empty; 0.1 s.

    While it is down, /ping and /whoami say 200, /response works (the object store has it), the rest
    and POST say 500 `replies.INTERNAL`. When it is back, the first requests may still say 500,
    then /connected, /status, /env and POST say 503 `replies.RECONNECTING`, **for ever**: nothing sets
    the flag again until the API is restarted, after which all works (12 to 21 s in all).
    A running job is not disturbed and completes.
    """
    server.restart("redis", wait=0)
    if api_too:
        restart_api(server)


@contextlib.contextmanager
def without_redis(server: Server) -> Iterator[None]:
    """Redis is down inside the block; afterwards it and the API are restarted."""
    kill(pid_of(server, "redis"))
    try:
        yield
    finally:
        restart_redis(server)


def lose_results(server: Server) -> None:
    """Restart the object store, empty, but with its bucket: every answer and result is lost.

    /response of any job sent before says 404, as if it had never been; an address of a result
    answers 404 NoSuchKey. While the store is down (1 s), /response says 500 `replies.INTERNAL`
    and an address of a result refuses the connection. A running job completes and is stored
    again, and its answer is there.
    """
    server.restart("store", wait=0)
    store = f"http://127.0.0.1:{server.status()['ports']['store']}"
    wait_until(lambda: ask(store)[0], 30, "the object store answers")
    # NDIF creates it once per process, and would otherwise not store anything any more.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{store}/ndif-results", method="PUT")
    opener.open(request, timeout=10).close()


def kill_ray(server: Server) -> None:
    """Kill Ray with controller and models. The server never recovers: stop it afterwards.

    /connected goes on saying 200 for some 30 s, /status what it last said for 2 s; a POST is
    taken. After 30 s the running and the waiting jobs say ERROR `replies.ACTOR_DIED`, and /status
    says 503 `replies.NO_STATUS`; from then on /connected, /status, /env and POST say 503
    `replies.RECONNECTING`.

    Only for a server with the setting RAY_ENABLE_AUTO_CONNECT=0: without it, the dispatcher
    starts a Ray of its own on Ray's default ports, with a token file in the user's home.
    """
    environment = Path(f"/proc/{dispatcher(server)}/environ").read_bytes().split(b"\0")
    assert b"RAY_ENABLE_AUTO_CONNECT=0" in environment, "see the docstring"
    for pid in _where("session", pid_of(server, "ray")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- /proc --------------------------------------------------------------------------------------

_FIELDS = {"ppid": 1, "session": 3}


def _stats() -> dict[int, list[str]]:
    """Process id → fields of its stat from the third on, of everything alive."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(entry.name)] = fields
    return found


def _where(name: str, value: int) -> list[int]:
    return sorted(p for p, fields in _stats().items() if int(fields[_FIELDS[name]]) == value)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    return ""


def _sockets(pid: int) -> set[str]:
    """The inherited sockets of a process, by inode."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(descriptor))
    return {name for name in found if name.startswith("socket:")}

"""Start the services of one server, and tear everything down again."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from remote_mi.backends.ndif_server import postgres, processes
from remote_mi.backends.ndif_server.errors import ServerError, ServerStartFailed
from remote_mi.backends.ndif_server.record import Record
from remote_mi.backends.ndif_server.settings import ServerPlan, commands, environment
from remote_mi.common.errors import sanitize

LOGS = "logs"
"""Name of the folder, inside the state folder, that each service writes its log to."""

HUB_CACHES = ("hf-server", "hf-client")
"""Names of the folders that server and client keep their hub downloads in."""

RESTARTABLE = ("api", "redis", "store")
"""The services that can be started again while the others run."""

_WORK = "work"
_TAIL = 12  # lines of a log that an error message shows
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ENDING = 10  # seconds within which a killed service must be gone
_POLL = 0.2  # seconds between polls of a starting server
# NDIF's sandbox puts its sockets here whatever the settings, and leaves them when it is killed.
_SANDBOX_SOCKET = re.compile(r"/tmp/sbx-[0-9a-f]{12}\.sock")


class Launcher:
    """Starts the services of a plan one by one, recording each before the next."""

    def __init__(self, plan: ServerPlan, record: Record) -> None:
        """Take a plan, and a record of it that has already been written once."""
        self._plan = plan
        self._record = record
        self._env = environment(plan)
        self._logs = plan.state / LOGS
        self.children: dict[str, subprocess.Popen[Any]] = {}

    def launch(self) -> None:
        """Start all services; they may not be ready yet when this returns.

        Raises:
            ServerUnavailable: a program is not installed.
            ServerStartFailed: a program could not be run.
        """
        for folder in (self._logs, self._plan.state / _WORK):
            folder.mkdir(parents=True, exist_ok=True)
        with self._plan.ports.holder:  # held until the hub inherits it
            for name, command in commands(self._plan).items():
                self._start(name, command)
        if self._plan.auth:
            database = postgres.create(self._logs / "postgres.log")
            self._record.folders.append(str(database.folder))
            self._record.keys = database.keys
            self._start("postgres", database.command(self._plan.ports.named["postgres"]), database)

    def _start(
        self, name: str, command: list[str], database: postgres.Database | None = None
    ) -> None:
        user_options: dict[str, Any] = {"cwd": self._plan.state / _WORK}
        if database:
            user_options = {"cwd": "/", **database.user_options}
        with (self._logs / f"{name}.log").open("ab") as log:
            try:
                child = subprocess.Popen(
                    command,
                    env=self._env | {"NDIF_SERVICE": name},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C in the terminal is for the client, not for the server.
                    start_new_session=True,
                    pass_fds=[self._plan.ports.holder.fileno()] if name == "hub" else [],
                    **user_options,
                )
            except OSError as error:
                raise ServerStartFailed(f"{name} could not be run: {error}") from None
        self.children[name] = child
        self._record.pids[name] = child.pid
        self._record.started[name] = processes.started_at(child.pid)
        self._record.write(self._plan.state)

    def restart(self, name: str) -> None:
        """End one service, and what it has forked, at once; start it again by the same command.

        Args:
            name: one of `RESTARTABLE`.

        Raises:
            ServerStartFailed: it could not be run.
        """
        child = self.children[name]
        deadline = time.monotonic() + _ENDING
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:  # until no process is left that could hold its port
                os.killpg(child.pid, signal.SIGKILL)
                child.poll()
                time.sleep(0.02)
        self._start(name, commands(self._plan)[name])

    def wait(self, url: str, deadline: float) -> None:
        """Return once the address answers with 200.

        Args:
            url: what to ask.
            deadline: until when, by `time.monotonic`.

        Raises:
            ServerStartFailed: a service died, or the deadline passed.
        """
        while True:
            for name, child in self.children.items():
                code = child.poll()
                if code is not None:
                    raise self._failure(f"{name} ended with code {code}", name)
            if http_status(url, timeout=2) == 200:
                return
            if time.monotonic() > deadline:
                raise self._failure(f"{url} did not answer in time", "api")
            time.sleep(_POLL)

    def _failure(self, what: str, service: str) -> ServerStartFailed:
        log = self._logs / f"{service}.log"
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        # Our own polling fills the log with the same line.
        told = [_COLOUR.sub("", line) for line in lines if "path=/connected" not in line]
        tail = sanitize("\n".join([line for line in told if line.strip()][-_TAIL:]))
        return ServerStartFailed(f"NDIF did not start: {what} (log: {log})\n{tail}".rstrip())


def family(state: Path, record: Record | None) -> processes.Family:
    """The processes of this folder's server, found even if its record is lost."""
    services: dict[int, str | None] = {}
    if record:
        services = {pid: record.started.get(name) for name, pid in record.pids.items()}
    return processes.Family(processes.mark_of(state), services)


def tear_down(state: Path, *, keep_logs: bool, timeout: float = 20) -> bool:
    """End this folder's processes and remove what they left, whoever started them.

    Returns whether there was anything.

    Raises:
        ServerError: a process is still alive after `timeout` seconds; the record is kept, so
            that it can be tried again.
    """
    record = Record.read(state)
    ours = family(state, record)
    if record:
        pid = record.pids.get("postgres", 0)
        if processes.is_alive(pid, record.started.get("postgres")):
            postgres.end(pid)
    running = ours.find()
    sockets = {found for line in running.values() for found in _SANDBOX_SOCKET.findall(line)}
    left = ours.end(timeout=timeout)
    if left:
        listed = ", ".join(f"{pid} ({command[:60]})" for pid, command in left.items())
        raise ServerError(f"could not end these processes: {listed}")
    for socket in sockets:
        Path(socket).unlink(missing_ok=True)
    if not keep_logs:
        shutil.rmtree(state / LOGS, ignore_errors=True)
    for folder in map(Path, record.folders if record else []):
        if keep_logs:
            _keep_ray_logs(folder, state / LOGS / "ray")
        shutil.rmtree(folder, ignore_errors=True)
    for name in (_WORK, *HUB_CACHES):
        shutil.rmtree(state / name, ignore_errors=True)
    Record.remove(state)
    return bool(record or running)


def _keep_ray_logs(folder: Path, target: Path) -> None:
    """Save what Ray and NDIF's actors wrote; best effort, for debugging a failure."""
    logs = folder / "session_latest" / "logs"
    if logs.is_dir():
        with contextlib.suppress(OSError, shutil.Error):
            shutil.copytree(logs, target, dirs_exist_ok=True)


def http_status(url: str, timeout: float) -> int | None:
    """The HTTP status of an address on this machine; None if nothing answers.

    Args:
        url: what to ask.
        timeout: seconds.
    """
    # Directly: the user's proxy would look for it on the proxy's own loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None

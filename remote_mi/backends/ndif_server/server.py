"""Start, watch and stop a personal, genuine NDIF on this machine."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from remote_mi.backends.ndif_server import postgres, processes
from remote_mi.backends.ndif_server.errors import ServerNotRunning, ServerRunning
from remote_mi.backends.ndif_server.install import ensure_venv
from remote_mi.backends.ndif_server.launch import (
    HUB_CACHES,
    LOGS,
    RESTARTABLE,
    Launcher,
    family,
    http_status,
    tear_down,
)
from remote_mi.backends.ndif_server.ports import reserve
from remote_mi.backends.ndif_server.record import Record, lock
from remote_mi.backends.ndif_server.settings import ServerPlan, redis_server
from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Silent, Watch
from remote_mi.models.folders import folder_digest


class Server:
    """A genuine NDIF 0.1.2 for one user: loopback only, on the CPU, in float32.

    All of its state is in its folder, so any process may create a `Server` for a folder and get
    its status or stop it, whoever started it. Servers in different folders run side by side.
    As a context manager it stops the server at the end:

        with Server(folder).start({"me/tiny": Path("tiny")}) as server:
            subprocess.run(command, env=os.environ | server.client_env())

    Nothing here imports torch or nnsight, and importing this module starts nothing.
    """

    def __init__(
        self,
        state: Path,
        *,
        venv: Path | None = None,
        venvs: Path | None = None,
        threads: int = 2,
        auth: bool = False,
        execution_timeout: float | None = None,
        settings: Mapping[str, str] | None = None,
        watch: Watch = Silent(),  # noqa: B008 - it holds nothing
    ) -> None:
        """Describe a server; `start` starts it.

        Args:
            state: its folder; created if missing.
            venv: the environment NDIF is installed in; without it, the one `ensure_venv` keeps.
            venvs: where `ensure_venv` keeps it; by default the state folder.
            threads: how many threads a model computes with. Results equal local ones bit by bit
                when both use the same number.
            auth: check API keys and run the jobs of untrusted ones in a process of their own, as
                the public service does. Needs PostgreSQL.
            execution_timeout: seconds a job may run; None for no limit.
            settings: further environment variables of NDIF, e.g. a version gate.
            watch: shows, in a few words, what is being done.
        """
        self.state = state.expanduser().absolute()
        self._venv = venv
        self._venvs = venvs or self.state
        self._threads = threads
        self._auth = auth
        self._execution_timeout = execution_timeout
        self._settings = dict(settings or {})
        self._watch = watch
        self._children: dict[str, subprocess.Popen[Any]] = {}
        self._launcher: Launcher | None = None

    @property
    def url(self) -> str:
        """Where clients send their jobs (`NDIF_HOST`).

        Raises:
            ServerNotRunning: no server is running.
        """
        return self._record().url

    @property
    def hub_url(self) -> str:
        """Where the model hub's stand-in listens (`HF_ENDPOINT`).

        Raises:
            ServerNotRunning: no server is running.
        """
        return self._record().hub_url

    @property
    def log_dir(self) -> Path:
        """Where each service writes its log; after a stop, Ray's own are in `ray` below it."""
        return self.state / LOGS

    @property
    def plain_key(self) -> str | None:
        """An API key whose jobs are sandboxed; None if keys are not checked."""
        return self._record().keys.get("plain")

    @property
    def trusted_key(self) -> str | None:
        """An API key whose jobs are trusted and go first; None if keys are not checked."""
        return self._record().keys.get("trusted")

    def client_env(self) -> dict[str, str]:
        """The environment variables that point an nnsight client at this server.

        They must be set before nnsight and huggingface_hub are imported. The client gets a cache
        of its own, since a repository id may mean other weights here than on the public hub, and
        no configuration file, so that no key for the public service is sent here. The API key is
        the plain one; it is empty where keys are not checked.

        Raises:
            ServerNotRunning: no server is running.
        """
        record = self._record()
        home = self.state / HUB_CACHES[1]
        return {
            "NDIF_HOST": record.url,
            "NDIF_API_KEY": record.keys.get("plain", ""),
            "NNSIGHT_CONFIG": str(home / "no-nnsight-config.yaml"),
            "HF_ENDPOINT": record.hub_url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
        }

    def status(self) -> dict[str, Any]:
        """The server's status as a JSON object. Takes at most about ten seconds; never raises.

        `running`: its API process is alive. `healthy`: so are all other services, and the
        controller answers. `services`: the process id of each and whether it is alive.
        `processes`: how many in total, and `memory_mb` their memory. The rest was recorded at the
        start.
        """
        record = Record.read(self.state)
        found = family(self.state, record).find()
        if record is None:
            return {"running": False, "healthy": False, "processes": len(found)}
        dead = record.dead_services()
        services = {
            name: {"pid": pid, "alive": name not in dead} for name, pid in record.pids.items()
        }
        running = record.is_running()
        whole = running and not dead
        return {
            "running": running,
            # Not `/connected`, which still answers 200 after Ray has died.
            "healthy": whole and http_status(f"{record.url}/status", timeout=10) == 200,
            "phase": record.phase,
            "url": record.url,
            "hub_url": record.hub_url,
            "services": services,
            "processes": len(found),
            "memory_mb": round(processes.memory(found) / 1e6),
            "models": record.models,
            "auth": bool(record.keys),
            "keys": record.keys,
            "threads": record.threads,
            "ports": record.ports,
            "owner": record.owner,
            "owner_alive": processes.is_alive(record.owner, record.owner_started),
            "since": record.since,
            "start_seconds": record.seconds,
            "log_dir": str(self.log_dir),
        }

    def check_programs(self) -> None:
        """Check that the programs that are not Python packages are installed.

        Raises:
            ServerUnavailable: one is not; the message says how to install it.
        """
        redis_server()
        if self._auth:
            postgres.programs()

    def start(self, models: Mapping[str, Path], timeout: float = 180) -> Server:
        """Start the server and wait until it accepts jobs. Returns itself.

        A model is loaded when the first job for it arrives. Building the environment, if
        necessary, does not count against the timeout.

        Args:
            models: folder (as `save_pretrained` writes it) by repository id.
            timeout: seconds.

        Raises:
            ServerUnavailable: something is not installed; the message says what to install.
            ServerRunning: a server is already running in this state folder. One of which a service
                died is stopped first instead.
            ServerStartFailed: a service died or did not answer; nothing is left running.
            UsageError: a folder holds no model, or a repository id is malformed.
        """
        folders = _check_models(models)
        self.check_programs()  # report what is missing now, not after minutes of building
        with lock(self.state, timeout=5):
            self._refuse_second()
            venv = self._venv or ensure_venv(self._venvs, self._watch)
            tear_down(self.state, keep_logs=False)
            try:
                self._start(venv, folders, time.monotonic() + timeout)
            except BaseException:
                self._tear_down(timeout=20)
                raise
        return self

    def _refuse_second(self) -> None:
        record = Record.read(self.state)
        if record and record.is_running() and not record.dead_services():
            raise ServerRunning(
                f"a server is already running at {record.url} (process {record.pids['api']}, "
                f"folder {self.state})",
                "stop it first",
            )

    def _start(self, venv: Path, models: dict[str, Path], deadline: float) -> None:
        begun = time.monotonic()
        ports = reserve()
        # Not in the state folder, which would make the paths of Ray's sockets too long.
        ray_dir = Path(tempfile.mkdtemp(prefix="rmi-", dir="/tmp"))
        plan = ServerPlan(
            state=self.state,
            venv=_plain_path(venv.absolute(), ray_dir),
            ray_dir=ray_dir,
            mark=processes.mark_of(self.state),
            ports=ports,
            models=models,
            threads=self._threads,
            auth=self._auth,
            execution_timeout=self._execution_timeout,
            more=self._settings,
        )
        record = Record(
            phase="starting",
            url=plan.url("api"),
            hub_url=plan.url("hub"),
            ports=plan.ports.named,
            folders=[str(plan.ray_dir)],
            models={repo_id: str(folder) for repo_id, folder in models.items()},
            contents={repo_id: folder_digest(folder) for repo_id, folder in models.items()},
            threads=self._threads,
        )
        record.write(self.state)  # first of all, so that even a start cut short can be cleaned up
        self._watch.stage("starting NDIF")
        launcher = Launcher(plan, record)
        self._children, self._launcher = launcher.children, launcher
        launcher.launch()
        launcher.wait(f"{record.url}/connected", deadline)
        record.phase = "running"
        record.seconds = round(time.monotonic() - begun, 2)
        record.write(self.state)
        self._watch.stage(f"NDIF is up at {record.url} ({record.seconds:.0f} s)")

    def restart(self, service: str, wait: float = 120) -> None:
        """Kill one service ("api", "redis" or "store") and start it again.

        What it kept in memory is gone: with "redis" the queue, with "store" every answer and
        result. After "redis", jobs are accepted only when the API has been restarted too.

        Args:
            service: its name in `status()["services"]`.
            wait: seconds to wait until jobs are accepted again; 0 to return at once.

        Raises:
            ServerNotRunning: the server was not started by this object, or has been stopped.
            ServerStartFailed: the service could not be run, or jobs are not accepted in time.
            UsageError: the service cannot be restarted.
        """
        if service not in RESTARTABLE:
            raise UsageError(f"{service!r} cannot be restarted", f"one of {', '.join(RESTARTABLE)}")
        if self._launcher is None or not self._children:
            raise ServerNotRunning(f"no server was started from here on {self.state}")
        with lock(self.state, timeout=5):
            self._launcher.restart(service)
        if wait:
            # Not `/connected`: Redis still has the API's old state.
            self._launcher.wait(f"{self.url}/status", time.monotonic() + wait)

    def stop(self, timeout: float = 20) -> bool:
        """End every process of this server and remove its temporary folders; logs stay.

        Works from any process, after any crash. Does nothing if there is nothing to stop; returns
        whether there was something.

        Raises:
            ServerError: a process is still there after `timeout` seconds.
        """
        if not self.state.is_dir():
            return False
        with lock(self.state, timeout=timeout):
            return self._tear_down(timeout)

    def _tear_down(self, timeout: float) -> bool:
        try:
            return tear_down(self.state, keep_logs=True, timeout=timeout)
        finally:
            for child in self._children.values():
                # Reap them; otherwise they would remain as zombies.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=1)
            self._children = {}

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _record(self) -> Record:
        record = Record.read(self.state)
        if record is None:
            raise ServerNotRunning(f"no server runs on {self.state}")
        return record


def _plain_path(venv: Path, folder: Path) -> Path:
    """The environment by a path without spaces, at which Ray splits its workers' commands."""
    link = folder / "venv"
    link.symlink_to(venv, target_is_directory=True)
    return link


def _check_models(models: Mapping[str, Path]) -> dict[str, Path]:
    folders = {}
    for repo_id, folder in models.items():
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo_id):
            raise UsageError(f"{repo_id!r} is not a repository id", "write it as owner/name")
        if not (folder / "config.json").is_file():
            raise UsageError(f"{folder} holds no model", "it needs at least a config.json")
        folders[repo_id] = folder.expanduser().absolute()
    return folders

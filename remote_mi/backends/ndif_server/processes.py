"""Find and end the processes of one server, and no others.

Every process of a server inherits one environment variable (`MARK`) whose value is unique to its
state folder. Ray, gunicorn and the model actors fork further processes, some of which leave their
parent's process group and session; most cannot shed their environment. Redis and PostgreSQL can:
they write their title over it. They are identified by the process ids recorded at the start, each
with its process's start time, since ids are reused.

Names are never matched: another Ray or Redis of the same user must not be stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "REMOTE_MI_NDIF_SERVER"
"""Environment variable that every process of a server carries."""


def mark_of(state: Path) -> str:
    """The value of `MARK` for the server of this state folder."""
    place = f"{os.getuid()}:{state.resolve()}"
    return hashlib.sha256(place.encode()).hexdigest()[:20]


def started_at(pid: int) -> str | None:
    """When a process started, as an opaque string; None if there is no such living process."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # Relative to boot: setting the clock shifts both times.
        since = process.create_time() - psutil.boot_time()
    except (psutil.Error, ValueError, OverflowError):
        return None
    return str(round(since * os.sysconf("SC_CLK_TCK")))


def is_alive(pid: int, started: str | None) -> bool:
    """Whether the process with this id and start time is still alive."""
    return pid > 0 and started is not None and started_at(pid) == started


@dataclass(frozen=True)
class Family:
    """The processes of one server.

    Attributes:
        mark: what `mark_of` returns for its state folder.
        services: start time by process id of the recorded services. Each leads a session; while
            the leader is alive, every process in its session belongs to the family.
    """

    mark: str
    services: Mapping[int, str | None]

    def find(self) -> dict[int, str]:
        """Process id → command line of every living member; excludes the calling process."""
        leaders = {pid for pid, started in self.services.items() if is_alive(pid, started)}
        found: dict[int, str] = {}
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and self._is_member(process, leaders):
                    found[process.pid] = " ".join(process.cmdline()).strip()
            except (psutil.Error, OSError):
                continue  # it has ended, or belongs to another user
        return found

    def _is_member(self, process: psutil.Process, leaders: set[int]) -> bool:
        """Whether a process is a living member."""
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return os.getsid(process.pid) in leaders or process.environ().get(MARK) == self.mark

    def end(self, *, grace: float = 1.0, timeout: float = 15.0) -> dict[int, str]:
        """End every member; return those still alive after `timeout` seconds.

        Asks first (SIGTERM), then, after `grace` seconds, kills: nothing they hold has to
        outlive them. Members are searched anew each time, because Ray replaces a worker that dies
        while the rest is still up.
        """
        begun = time.monotonic()
        asked: set[int] = set()
        while alive := self.find():
            waited = time.monotonic() - begun
            if waited > timeout:
                break
            kill = waited >= grace
            for pid in alive:
                if kill or pid not in asked:
                    send_signal(pid, signal.SIGKILL if kill else signal.SIGTERM)
                    asked.add(pid)
            time.sleep(0.05)
        return alive


def memory(pids: Iterable[int]) -> int:
    """The main memory of these processes in bytes; shared memory is counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):  # it ended meanwhile, or it is somebody else's
            found = psutil.Process(pid).memory_full_info()
            total += getattr(found, "pss", found.rss)
    return total


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may already be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

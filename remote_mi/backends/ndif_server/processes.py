"""Find and end the processes of one server, and no others.

Every process of a server inherits one environment variable (`MARK`) whose value is unique to its
state folder. Ray, gunicorn and the model actors fork further processes, some of which leave their
parent's process group and session; most cannot shed their environment. Redis and PostgreSQL can:
they write their title over it. They are known by the process ids written down at the start, each
with the time at which that process started, since ids are reused.

Names are never matched: another Ray or Redis of the same user is not ours to stop.
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
        # Since the system's start: the time of day of both moves when a clock is set.
        since = process.create_time() - psutil.boot_time()
    except (psutil.Error, ValueError, OverflowError):
        return None
    return str(round(since * os.sysconf("SC_CLK_TCK")))


def is_alive(pid: int, started: str | None) -> bool:
    """Whether the process that had this id and start time still lives."""
    return pid > 0 and started is not None and started_at(pid) == started


@dataclass(frozen=True)
class Family:
    """The processes of one server.

    Attributes:
        mark: what `mark_of` says of its state folder.
        services: start time by process id of the services written down. Each leads a session;
            while the leader lives, whoever is in its session is of the family.
    """

    mark: str
    services: Mapping[int, str | None]

    def find(self) -> dict[int, str]:
        """Process id → command line of every living member; the calling process is left out."""
        leaders = {pid for pid, started in self.services.items() if is_alive(pid, started)}
        found: dict[int, str] = {}
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and self._is_member(process, leaders):
                    found[process.pid] = " ".join(process.cmdline()).strip()
            except (psutil.Error, OSError):
                continue  # it ended meanwhile, or it belongs to somebody else
        return found

    def _is_member(self, process: psutil.Process, leaders: set[int]) -> bool:
        """Whether a process is a living member."""
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return os.getsid(process.pid) in leaders or process.environ().get(MARK) == self.mark

    def end(self, *, grace: float = 1.0, timeout: float = 15.0) -> dict[int, str]:
        """End every member; return those still alive after `timeout` seconds.

        Asks first (SIGTERM), then, after `grace` seconds, kills: nothing they hold has to
        outlive them. It looks again each time, because Ray replaces a worker that dies while the
        rest is still up.
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
    """The bytes of main memory these processes hold; what several share is counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):  # it ended meanwhile, or it is somebody else's
            found = psutil.Process(pid).memory_full_info()
            total += getattr(found, "pss", found.rss)
    return total


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

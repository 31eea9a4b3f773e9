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
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

MARK = "REMOTE_MI_NDIF_SERVER"
"""Environment variable that every process of a server carries."""

_PROC = Path("/proc")


def mark_of(state: Path) -> str:
    """The value of `MARK` for the server of this state folder."""
    place = f"{os.getuid()}:{state.resolve()}"
    return hashlib.sha256(place.encode()).hexdigest()[:20]


def started_at(pid: int) -> str | None:
    """When a process started, as an opaque string; None if there is no such living process."""
    if sys.platform != "linux":
        return _ps("-o", "lstart=", "-p", str(pid)).strip() or None
    stat = _stat(pid)
    return None if stat is None or stat[0] == "Z" else stat[19]


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
        found = self._in_proc(leaders) if sys.platform == "linux" else self._with_ps(leaders)
        found.pop(os.getpid(), None)
        return found

    def _in_proc(self, leaders: set[int]) -> dict[int, str]:
        marked = f"{MARK}={self.mark}".encode()
        found: dict[int, str] = {}
        for entry in _PROC.iterdir():
            stat = _stat(int(entry.name)) if entry.name.isdigit() else None
            if stat is None or stat[0] == "Z":
                continue
            try:
                ours = int(stat[3]) in leaders  # its session
                if not ours and marked not in (entry / "environ").read_bytes().split(b"\0"):
                    continue
                command = (entry / "cmdline").read_bytes()
            except OSError:  # it ended meanwhile, or it belongs to somebody else
                continue
            found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
        return found

    def _with_ps(self, leaders: set[int]) -> dict[int, str]:
        """The same where there is no `/proc`: macOS lists environments with `ps -E`."""
        found: dict[int, str] = {}
        for line in _ps("-axwwE", "-o", "pid=,command=").splitlines():
            pid, _, command = line.strip().partition(" ")
            if not pid.isdigit():
                continue
            if int(pid) in leaders or f"{MARK}={self.mark}" in command.split():
                found[int(pid)] = command
        return found

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
                    signal_to(pid, signal.SIGKILL if kill else signal.SIGTERM)
                    asked.add(pid)
            time.sleep(0.05)
        return alive


def memory(pids: Iterable[int]) -> int:
    """The bytes of main memory these processes hold; what several share is counted once."""
    if sys.platform != "linux":
        listed = ",".join(map(str, pids))
        return sum(int(size) for size in _ps("-o", "rss=", "-p", listed).split()) << 10
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended meanwhile, or it belongs to somebody else
            rollup = (_PROC / str(pid) / "smaps_rollup").read_text()
            total += sum(int(size) for size in re.findall(r"^Pss:\s+(\d+)", rollup, re.M)) << 10
    return total


def signal_to(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _stat(pid: int) -> list[str] | None:
    """The fields of `/proc/PID/stat` from the third (the state) on."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field, the name, may hold blanks and brackets: count from behind it.
    return stat.rpartition(")")[2].split()


def _ps(*options: str) -> str:
    shown = subprocess.run(
        ["ps", *options], capture_output=True, text=True, errors="replace", timeout=20, check=False
    )
    return shown.stdout

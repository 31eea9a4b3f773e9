"""A server's record of itself, by which any process can find and stop it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.backends.ndif_server.errors import ServerRunning
from remote_mi.backends.ndif_server.processes import is_alive, started_at

_FILE = "server.json"
_LOCK = "lock"


@dataclass
class Record:
    """The content of `server.json`.

    Attributes:
        phase: "starting" or "running".
        url: where clients send their jobs.
        hub_url: where the model hub's stand-in listens.
        pids: process id by service.
        started: `processes.started_at` of each, to distinguish a process from a later one with
            the same id.
        ports: port by name.
        folders: temporary folders outside the state folder, removed when the server stops.
        models: folder by repository id.
        contents: digest of those folders' content at the start, by repository id.
        threads: how many threads a model computes with.
        keys: API key by privilege ("plain", "trusted"); empty if keys are not checked.
        owner: id of the process that started the server.
        owner_started: its start time, as in `started`.
        since: when the server was started, in seconds since 1970.
        seconds: how long that took.
    """

    phase: str
    url: str
    hub_url: str
    ports: dict[str, int]
    folders: list[str]
    models: dict[str, str]
    threads: int
    contents: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    started: dict[str, str | None] = field(default_factory=dict)
    owner: int = field(default_factory=os.getpid)
    owner_started: str | None = field(default_factory=lambda: started_at(os.getpid()))
    since: float = field(default_factory=time.time)
    seconds: float | None = None

    def write(self, state: Path) -> None:
        """Write it atomically to the state folder, readable only by the user."""
        new = state / f"{_FILE}.new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
        new.replace(state / _FILE)

    @classmethod
    def read(cls, state: Path) -> Record | None:
        """The record in the state folder; None if there is none that can be read."""
        try:
            content: dict[str, Any] = json.loads((state / _FILE).read_text(encoding="utf-8"))
            return cls(**content)
        except (OSError, ValueError, TypeError):
            return None

    def is_running(self) -> bool:
        """Whether the server got as far as running, and its API process still lives."""
        return self.phase == "running" and is_alive(
            self.pids.get("api", 0), self.started.get("api")
        )

    def dead_services(self) -> list[str]:
        """The services that were started and whose process no longer lives."""
        return [n for n, pid in self.pids.items() if not is_alive(pid, self.started.get(n))]

    def is_broken(self) -> bool:
        """Whether some of its services died, and others are still alive."""
        return self.phase == "running" and 0 < len(self.dead_services()) < len(self.pids)

    def is_starting(self) -> bool:
        """Whether somebody is about to bring the server up."""
        return self.phase == "starting" and is_alive(self.owner, self.owner_started)

    @staticmethod
    def remove(state: Path) -> None:
        """Forget the server."""
        (state / _FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def lock(folder: Path, timeout: float) -> Iterator[None]:
    """Hold the exclusive lock for changes in this folder.

    The system releases the lock when its holder dies, however that happens.

    Args:
        folder: created if missing.
        timeout: seconds to wait for another process.

    Raises:
        ServerRunning: another process held it for longer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    with (folder / _LOCK).open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServerRunning(
                        f"another process is at work in {folder}", "wait for it, or end it"
                    ) from None
                time.sleep(0.1)
        yield

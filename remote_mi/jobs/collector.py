"""The collector: one small process per project that fetches results while nobody waits for them.

Commands start it when they leave a job running. It polls every open job that no live process waits
for, writes the runs, and exits when no jobs are open.
Command line: `python -m remote_mi.jobs.collector PROJECT`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from remote_mi.backends.detached import DetachedBackend
from remote_mi.backends.ledger import Entry, Ledger
from remote_mi.backends.registry import backend_of
from remote_mi.common.errors import RemoteMIError
from remote_mi.common.progress import Silent

#: Older jobs are not polled; they are collected when somebody waits for them.
GIVE_UP_S = 7 * 24 * 3600.0
PAUSE_S, LONGEST_PAUSE_S, OUTAGE_PAUSE_S = 0.5, 5.0, 15.0


class Collector:
    """Polls the open jobs of a project until there are none."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.ledger = Ledger(project)
        self.backends: dict[str, DetachedBackend] = {}
        self.next_poll: dict[str, float] = {}
        self.pauses: dict[str, float] = {}
        self.unreachable_since: dict[str, float] = {}

    def run(self) -> None:
        """Poll until no open job is left that is worth polling."""
        while self.ledger.path.exists():
            waiting = [e for e in self.ledger.open_entries() if self._is_worth_polling(e)]
            if not waiting:
                return
            for entry in waiting:
                if time.monotonic() >= self.next_poll.get(entry.id, 0.0):
                    self._poll(entry)
            time.sleep(PAUSE_S)

    def _is_worth_polling(self, entry: Entry) -> bool:
        gone = time.monotonic() - self.unreachable_since.get(entry.url, time.monotonic())
        return gone < self._backend(entry).patience_s and time.time() - entry.created < GIVE_UP_S

    def _backend(self, entry: Entry) -> DetachedBackend:
        if entry.url not in self.backends:
            self.backends[entry.url] = backend_of(entry, self.project)
        return self.backends[entry.url]

    def _poll(self, entry: Entry) -> None:
        from remote_mi.jobs.remote import collect

        backend = self._backend(entry)
        pause = min(1.3 * self.pauses.get(entry.id, PAUSE_S), LONGEST_PAUSE_S)
        if not backend.locks.take(entry.id):
            return  # another process is waiting for it
        try:
            entry = backend.refresh(self.ledger.get(entry.id), Silent())
            self.unreachable_since.pop(entry.url, None)
            ready = backend.is_ready(entry)
        except RemoteMIError as error:
            closed = not self.ledger.get(entry.id).is_open
            if closed or entry.url not in self.unreachable_since:
                log(f"job {entry.id[:8]}: {error}")
            if not closed:  # the server is unreachable, or something else answers in its place
                self.unreachable_since.setdefault(entry.url, time.monotonic())
            ready, pause = False, OUTAGE_PAUSE_S
        finally:
            backend.locks.release(entry.id)
        if ready:
            try:
                result = collect(entry, self.project, None, Silent())
                log(f"job {entry.id[:8]}: saved as {result.run_id}")
            except RemoteMIError as error:
                log(f"job {entry.id[:8]}: {error}")
                pause = OUTAGE_PAUSE_S
        self.pauses[entry.id] = pause
        self.next_poll[entry.id] = time.monotonic() + pause


def log(line: str) -> None:
    """Write a line to the project's collector.log."""
    print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), line, flush=True)


def main(project: Path) -> None:
    """Collect, unless another collector of the project is running."""
    ledger = Ledger(project)
    if not ledger.path.exists():
        return
    try:
        # Another one may be about to exit without having seen the newest job.
        with FileLock(ledger.folder / "locks" / "collector", timeout=3):
            Collector(project).run()
    except Timeout:
        pass


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())

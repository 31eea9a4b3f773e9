"""The collector: a small process, one a project, that fetches results while nobody waits.

It is started when a job is left, looks after every open job that no living process waits for,
makes its run, and ends when nothing is under way. Started as `python -m remote_mi.jobs.collector PROJECT`.
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

#: Jobs older than this are left to whoever asks for them.
GIVE_UP_S = 7 * 24 * 3600.0
PAUSE_S, LONGEST_PAUSE_S, OUTAGE_PAUSE_S = 0.5, 5.0, 15.0


class Collector:
    """Looks after the open jobs of a project until there are none."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.ledger = Ledger(project)
        self.backends: dict[str, DetachedBackend] = {}
        self.next_look: dict[str, float] = {}
        self.pauses: dict[str, float] = {}
        self.gone_since: dict[str, float] = {}

    def run(self) -> None:
        """Go round until nothing is left to do."""
        while self.ledger.path.exists():
            waiting = [e for e in self.ledger.open_entries() if self._is_worth_it(e)]
            if not waiting:
                return
            for entry in waiting:
                if time.monotonic() >= self.next_look.get(entry.id, 0.0):
                    self._look_after(entry)
            time.sleep(PAUSE_S)

    def _is_worth_it(self, entry: Entry) -> bool:
        gone = time.monotonic() - self.gone_since.get(entry.url, time.monotonic())
        return gone < self._backend(entry).patience_s and time.time() - entry.created < GIVE_UP_S

    def _backend(self, entry: Entry) -> DetachedBackend:
        if entry.url not in self.backends:
            self.backends[entry.url] = backend_of(entry, self.project)
        return self.backends[entry.url]

    def _look_after(self, entry: Entry) -> None:
        from remote_mi.jobs.remote import collect

        backend = self._backend(entry)
        pause = min(1.3 * self.pauses.get(entry.id, PAUSE_S), LONGEST_PAUSE_S)
        if not backend.locks.take(entry.id):
            return  # somebody waits for it
        try:
            entry = backend.refresh(self.ledger.get(entry.id), Silent())
            self.gone_since.pop(entry.url, None)
            ready = backend.is_ready(entry)
        except RemoteMIError as error:
            closed = not self.ledger.get(entry.id).is_open
            if closed or entry.url not in self.gone_since:
                say(f"job {entry.id[:8]}: {error}")
            if not closed:  # the server is away, or something else answers in its place
                self.gone_since.setdefault(entry.url, time.monotonic())
            ready, pause = False, OUTAGE_PAUSE_S
        finally:
            backend.locks.release(entry.id)
        if ready:
            try:
                result = collect(entry, self.project, None, Silent())
                say(f"job {entry.id[:8]}: kept as {result.run_id}")
            except RemoteMIError as error:
                say(f"job {entry.id[:8]}: {error}")
                pause = OUTAGE_PAUSE_S
        self.pauses[entry.id] = pause
        self.next_look[entry.id] = time.monotonic() + pause


def say(line: str) -> None:
    """A line of the project's collector.log."""
    print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), line, flush=True)


def main(project: Path) -> None:
    """Collect, unless another collector of the project does."""
    ledger = Ledger(project)
    if not ledger.path.exists():
        return
    try:
        # Another one may be about to end without having seen the newest job.
        with FileLock(ledger.folder / "locks" / "collector", timeout=3):
            Collector(project).run()
    except Timeout:
        pass


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())

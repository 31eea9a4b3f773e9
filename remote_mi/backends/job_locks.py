"""Locks, next to the ledger, that let one process at a time collect a job."""

from __future__ import annotations

from filelock import FileLock, Timeout

from remote_mi.backends.ledger import Ledger
from remote_mi.common.errors import StoreError


class JobLocks:
    """The job locks held by one backend in this process."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._held: dict[str, FileLock] = {}

    def take(self, job_id: str) -> bool:
        """Lock a job for collecting; False while another process or thread holds it.

        Raises:
            StoreError: if the ledger's folder cannot be used.
        """
        if job_id in self._held:
            return True
        lock = self.ledger.lock(job_id)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            raise StoreError(
                f"the ledger in {self.ledger.folder} cannot be used: {error}",
                "make room, or make it writable",
            ) from None
        self._held[job_id] = lock
        return True

    def release(self, job_id: str) -> None:
        """Let others collect a job."""
        lock = self._held.pop(job_id, None)
        if lock is not None:
            lock.release()

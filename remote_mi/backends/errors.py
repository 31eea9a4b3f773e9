"""What can go wrong with a job that goes on elsewhere, and how the ledger keeps an error.

A backend that has errors of its own derives them from these, or from those of
`remote_mi.common.errors`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from remote_mi.common.errors import BackendUnavailable, RemoteMIError, RunFailed, WaitTimeout


class ServerDown(BackendUnavailable):
    """The server cannot be reached, or says that it cannot work now."""

    retryable = True


class SubmissionUnknown(BackendUnavailable):
    """The server's reply was lost, and whether it has the job could not be found out."""

    retryable = True


class QueueTimeout(WaitTimeout):
    """The wait ended before the job began to run."""

    retryable = True


class StillRunning(WaitTimeout):
    """The wait ended while the job runs, or is not heard of."""

    retryable = True


class JobFailed(RunFailed):
    """The job failed on the server.

    Attributes:
        said: the server's own words.
    """

    server_text = ""


class RecipeFailed(JobFailed):
    """The recipe raised an error on the server; the message has the recipe's own file and line."""


class OutOfMemory(JobFailed):
    """The server's memory did not hold the job; the message says by how much, where known."""


class ExecutionTimeout(JobFailed):
    """The job ran for longer than the server lets jobs run."""


class Evicted(JobFailed):
    """The server took the model away from the running job, or lost the process that ran it."""

    retryable = True


class ResultExpired(JobFailed):
    """The server keeps a result for an hour, and nobody fetched it in time."""

    retryable = True


class ResultRefused(JobFailed):
    """What came back is damaged, too large, not what was declared, or not plain data."""


def with_server_text(error: RemoteMIError, said: str) -> RemoteMIError:
    """The error, with the server's own words where it is of a kind that keeps them."""
    if isinstance(error, JobFailed):
        error.server_text = said
    return error


def to_record(error: RemoteMIError) -> dict[str, Any]:
    """An error as the ledger keeps it."""
    return {
        "kind": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "said": getattr(error, "server_text", ""),
    }


def from_record(record: Mapping[str, Any]) -> RemoteMIError:
    """An error that `to_record` wrote; of a kind that no imported module has, a `JobFailed`."""
    kinds = {kind.__name__: kind for kind in _kinds(RemoteMIError)}
    kind = kinds.get(str(record.get("kind")), JobFailed)
    error = kind(str(record.get("message")), record.get("hint"))
    return with_server_text(error, str(record.get("said") or ""))


def _kinds(of: type[RemoteMIError]) -> Iterator[type[RemoteMIError]]:
    yield of
    for kind in of.__subclasses__():
        yield from _kinds(kind)

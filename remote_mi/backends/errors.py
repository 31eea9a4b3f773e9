"""Errors of a job that runs elsewhere, and how the ledger stores an error.

A backend derives its own errors from these, or from those in `remote_mi.common.errors`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from remote_mi.common.errors import (
    BackendUnavailable,
    RemoteMIError,
    RunFailed,
    WaitTimeout,
    restore,
)


class ServerDown(BackendUnavailable):
    """The server cannot be reached, or reports that it is unavailable."""

    retryable = True


class SubmissionUnknown(BackendUnavailable):
    """The server's reply was lost, and it is unknown whether it has the job."""

    retryable = True


class QueueTimeout(WaitTimeout):
    """The wait ended before the job began to run."""

    retryable = True


class StillRunning(WaitTimeout):
    """The wait ended while the job was running, or the server stopped reporting on it."""

    retryable = True


class JobFailed(RunFailed):
    """The job failed on the server.

    Attributes:
        server_text: what the server reported, verbatim.
    """

    server_text = ""


class RecipeFailed(JobFailed):
    """The recipe raised an error on the server; the message has the recipe's own file and line."""


class OutOfMemory(JobFailed):
    """The job did not fit into the server's memory; the message says by how much, if known."""


class ExecutionTimeout(JobFailed):
    """The job exceeded the server's time limit."""


class Evicted(JobFailed):
    """The server took the model away from the running job, or lost the process that ran it."""

    retryable = True


class ResultExpired(JobFailed):
    """The server keeps a result for an hour, and nobody fetched it in time."""

    retryable = True


class ResultRefused(JobFailed):
    """The result is damaged, too large, not as declared, or not plain data."""


def with_server_text(error: RemoteMIError, said: str) -> RemoteMIError:
    """The error, with the server's report attached if it is a `JobFailed`."""
    if isinstance(error, JobFailed):
        error.server_text = said
    return error


def to_record(error: RemoteMIError) -> dict[str, Any]:
    """An error as the ledger stores it."""
    return {
        "kind": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "said": getattr(error, "server_text", ""),
    }


def from_record(record: Mapping[str, Any]) -> RemoteMIError:
    """The error that `to_record` wrote; a `JobFailed` if no imported module defines its class."""
    kinds = {kind.__name__: kind for kind in _kinds(RemoteMIError)}
    kind = kinds.get(str(record.get("kind")), JobFailed)
    message, hint = str(record.get("message")), record.get("hint")
    error = restore(kind, (message,), {"message": message, "hint": hint})
    return with_server_text(error, str(record.get("said") or ""))


def _kinds(of: type[RemoteMIError]) -> Iterator[type[RemoteMIError]]:
    yield of
    for kind in of.__subclasses__():
        yield from _kinds(kind)

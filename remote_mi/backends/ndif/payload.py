"""What is sent to a server: the session's block as source, with what it names, and nothing else."""

from __future__ import annotations

from typing import Any

from nnsight.schema.request import RequestModel

from remote_mi.backends.base import Work
from remote_mi.backends.session import run_session


class _Capture:
    """An nnsight backend that serializes the block instead of running it."""

    def __init__(self) -> None:
        self.blob = b""

    def __call__(self, tracer: Any) -> None:
        self.blob = RequestModel.serialize(tracer, compress=True)


def serialize(lm: Any, work: Work) -> bytes:
    """The payload of a job, zstd-compressed."""
    capture = _Capture()
    run_session(lm, work, capture)
    return capture.blob


def model_key(lm: Any) -> str:
    """The key under which a server deploys this model."""
    return lm.to_model_key()

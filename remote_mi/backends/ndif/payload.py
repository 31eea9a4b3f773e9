"""What is sent to a server: the session's block as source, with what it refers to, nothing else."""

from __future__ import annotations

import io
from pathlib import Path, PurePath
from typing import Any

import zstandard
from nnsight.intervention.serialization import CustomCloudPickler, _load_function, reduce_block
from nnsight.tracing.util import SerializedFrame

from remote_mi.backends.base import Work
from remote_mi.backends.session import run_session

_PACKAGE = Path(__file__).resolve().parents[2]
_LEVEL = 6


class _Pickler(CustomCloudPickler):
    """nnsight's pickler, without this machine's folders in file names.

    Annotations are dropped: evaluated ones would pull in the objects they refer to.
    """

    def _dynamic_function_reduce(self, func: Any) -> tuple:
        made, arguments, *rest = super()._dynamic_function_reduce(func)
        if made is _load_function:
            *head, _annotations, file, line = arguments
            arguments = (*head, None, _portable_path(file), line)
        return (made, arguments, *rest)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, SerializedFrame):
            code = obj.f_code
            return SerializedFrame, (
                _portable_path(code.co_filename),
                code.co_firstlineno,
                code.co_name,
            )
        return super().reducer_override(obj)


class _Capture:
    """An nnsight backend that serializes the block instead of running it."""

    def __init__(self) -> None:
        self.blob = b""

    def __call__(self, tracer: Any) -> None:
        frame = tracer.info.frame
        block = reduce_block(tracer.node, frame.f_globals, dict(frame.f_locals))
        buffer = io.BytesIO()
        _Pickler(buffer, protocol=4).dump((tracer, block))
        self.blob = zstandard.ZstdCompressor(level=_LEVEL).compress(buffer.getvalue())


def serialize(lm: Any, work: Work) -> bytes:
    """The payload of a job, zstd-compressed."""
    capture = _Capture()
    run_session(lm, work, capture)
    return capture.blob


def model_key(lm: Any) -> str:
    """The key under which a server deploys this model."""
    return lm.to_model_key()


def _portable_path(path: str) -> str:
    """A file as the server's traceback shows it: in this package its module path, else its name."""
    file = PurePath(path)
    if file.is_relative_to(_PACKAGE):
        return str(file.relative_to(_PACKAGE.parent))
    return file.name

"""What goes wrong, for `scripted.py`: NDIF's own words, and results that are not as they should be.

Paths in comments are those of ndif 0.1.2, below its package. A text with a comment "seen" was
taken from a running server.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

from .scripted import META, Entry, Reply, Scripted, Seen, as_json, failed, job_id_of, refused

# --- ERROR: description ---------------------------------------------------------------------

#: services/api/queue/replica.py, `dispatch` and `cancel`: the worker was cancelled.
EVICTED = (
    "Replica was evicted while processing your request. Sorry for the inconvenience. "
    "Please try again later."
)
#: services/api/queue/replica.py, `dispatch`: the model's process died. Seen; without `meta`.
ACTOR_DIED = (
    "Error submitting request to model deployment. Please try again later. "
    "Sorry for the inconvenience."
)
#: services/ray/deployments/modeling/base.py, `run`.
CANCELLED = "Your job was cancelled or preempted by the server."
#: services/ray/deployments/modeling/base.py, `run`. Seen, with `meta`.
TIMED_OUT = "Your job exceeded the execution timeout of 60.0s."
#: services/api/queue/processor.py, `start`.
NOT_STARTED = "Error starting model. Please try again later. Sorry for the inconvenience."
NOT_PROVISIONED = "Error provisioning model. Please try again later. Sorry for the inconvenience."
#: services/api/queue/dispatcher.py, `handle_errors`, and processor.py, `purge`: Ray was lost.
CRITICAL = "Critical server error occurred. Please try again later. Sorry for the inconvenience."
#: services/api/queue/dispatcher.py, `_kill`.
BY_OPERATOR = "Request cancelled by operator."
#: services/api/queue/processor.py, `start`, with the reason of controller/cluster/cluster.py.
NO_ROOM = (
    "Could not deploy this model. CANT_ACCOMMODATE: placed 0 of 1 new replicas before the "
    "cluster ran out of room."
)
#: The same with the hub client's reason. Seen.
NO_SUCH_MODEL = (
    "Could not deploy this model. remote-mi/absent is not a local folder and is not a valid model "
    "identifier listed on 'https://huggingface.co/models'\nIf this is a private repository, make "
    "sure to pass a token having permission to this repo either by logging in with `hf auth login` "
    "or by passing `token=<your_token>`"
)
#: common/errors.py, `PayloadError`. Seen, with `meta`.
UNREADABLE = (
    "Your request payload could not be read (ZstdError: error determining content size from frame "
    "header). It may be truncated or corrupted in transit, or compressed differently than the "
    "request declared. Re-sending it usually resolves this; if it persists, check that the client "
    "and server nnsight versions match."
)
#: common/errors.py, `ArchitectureMismatchError`.
MODULES_DIFFER = (
    "The model architecture on this server doesn't match the one your code was traced against: it "
    "has no module at 'model.layers.0.self_attn.q_norm'.\n\nThis usually means the package versions "
    "differ between your machine and the server — most often `transformers`, which determines a "
    "checkpoint's module layout. Compare the two environments with:\n\n    from nnsight import ndif"
    "\n    print(ndif.compare())\n\nthen align any mismatch it flags under nnsight / transformers / "
    "torch and re-run."
)
#: base.py, `format_error`: a traceback of the user's frames; the last line is PyTorch's.
OUT_OF_MEMORY = (
    "Traceback (most recent call last):\n"
    '  File "/home/someone/remote_mi/interventions/sweeps.py", line 210, in _patched\n'
    "    logits = lm.lm_head.output\n"
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
    "capacity of 79.19 GiB of which 1.12 GiB is free. Process 4242 has 78.06 GiB memory in use. Of "
    "the allocated memory 76.50 GiB is allocated by PyTorch, and 1.01 GiB is reserved by PyTorch "
    "but unallocated.\n"
)
#: services/ray/deployments/modeling/util.py, `request_meta`: the key is there only then.
OUT_OF_MEMORY_META = {
    **META,
    "max_memory_usage": 21474836480,
    "max_mem_by_gpu": {"0": 21474836480},
    "max_mem_pct_by_gpu": {"0": 96.4},
    "alloc_shortfall_by_gpu": {"0": 944892805},
}
out_of_memory: Entry = failed(OUT_OF_MEMORY, OUT_OF_MEMORY_META)

# --- Refusals: HTTP status and body -----------------------------------------------------------

#: services/api/auth.py, `verify_api_key`. The malformed key is repeated in the answer.
NO_KEY = refused(
    401, "Missing or invalid API key. Please visit https://login.ndif.us/ to create a new one."
)
UNKNOWN_KEY = refused(403, "Invalid API key.")
AUTH_DOWN = refused(503, "Auth backend unavailable.")


def malformed_key(key: str) -> Reply:
    """services/api/auth.py, `verify_api_key`."""
    return refused(
        400,
        f"Invalid API key format: '{key}'. API keys must be in the format: "
        "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx. You can obtain a valid API key from "
        "https://login.ndif.us",
    )


#: services/api/app.py, `require_ray_connection`. Seen: while Ray or the dispatcher reconnects.
RECONNECTING = refused(
    503,
    "Service temporarily unavailable: compute backend is reconnecting. "
    "Please try again in a few minutes.",
)
#: services/api/app.py, `log_unhandled_exception`. Seen: Redis or the object store is down.
INTERNAL = refused(500, "Internal server error.")
#: services/api/app.py, `_coalesced_fetch`, for /status ("cluster status") and /env ("cluster env").
NO_STATUS = refused(503, "Could not retrieve cluster status.")
STATUS_LATE = refused(504, "Timed out waiting for cluster status.")
#: services/api/auth.py, `validate_request`. Seen.
BAD_ENVELOPE = refused(
    422,
    [
        {
            "type": "missing",
            "loc": ["model_key"],
            "msg": "Field required",
            "input": {},
            "url": "https://errors.pydantic.dev/2.14/v/missing",
        }
    ],
)
#: services/api/versioning.py. The first was seen.
OLD_NNSIGHT = refused(
    400,
    "Client nnsight version 0.8.1 is below the minimum supported 0.9.0. "
    "Please `pip install --upgrade nnsight`.",
)
OLD_PYTHON = refused(
    400, "Client python version 3.11 is below the minimum supported 3.12. Please update python."
)
NO_VERSION = refused(
    400,
    "Client nnsight version was not provided. This usually means an outdated "
    "nnsight; please `pip install --upgrade nnsight` and retry.",
)

# --- Downloads and other servers ---------------------------------------------------------------


def expired(server: Scripted, seen: Seen) -> Reply:
    """A presigned address whose hour is over, as S3 answers."""
    return s3_error(
        403,
        "AccessDenied",
        "Request has expired",
        server,
        "<X-Amz-Expires>3600</X-Amz-Expires><Expires>2026-01-01T01:00:00Z</Expires>"
        "<ServerTime>2026-01-01T02:00:00Z</ServerTime>",
    )


def token_expired(server: Scripted, seen: Seen) -> Reply:
    """A presigned address signed by a role whose credentials have ended, as S3 answers."""
    return s3_error(400, "ExpiredToken", "The provided token has expired.", server)


def gone(server: Scripted, seen: Seen) -> Reply:
    """A result that the object store no longer has, as S3 answers."""
    return s3_error(
        404,
        "NoSuchKey",
        "The specified key does not exist.",
        server,
        f"<Key>{job_id_of(seen)}.pt</Key>",
    )


def s3_error(code: int, name: str, message: str, server: Scripted, more: str = "") -> Reply:
    """An object store's refusal."""
    return Reply(
        code,
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{name}</Code><Message>'
        f"{message}</Message>{more}<RequestId>5AcemswEBukLEzyC</RequestId><HostId>"
        "9Gjjt1m+cjU4OPvX9O9</HostId></Error>".encode(),
        "application/xml",
    )


#: A web server that is no NDIF, for `everything`.
HTML_PAGE = Reply(
    body=b"<!doctype html><title>Welcome</title><p>It works!</p>", kind="text/html; charset=utf-8"
)
OTHER_JSON = as_json({"message": "hello", "version": 3})

# --- Results ------------------------------------------------------------------------------------


def packed(plain: bytes, compress: bool = True) -> bytes:
    """zstd around it, as the server does when the request asked for it."""
    import zstandard

    return zstandard.ZstdCompressor(level=3).compress(plain) if compress else plain


def saved(values: Any, compress: bool = True) -> bytes:
    """A result: `torch.save` of what the block saved, e.g. {"outputs": [{"effect": tensor}]}."""
    import torch

    buffer = io.BytesIO()
    torch.save(values, buffer)
    return packed(buffer.getvalue(), compress)


class _CreatesFile:
    """Unpickled, it creates a file: what a hostile result would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def creates(path: Path, values: dict[str, Any] | None = None) -> bytes:
    """A result that creates the folder `path` when it is unpickled; values: what else is in it."""
    return saved({**(values or {}), "hook": _CreatesFile(path)})


def zstd_bomb(size: int = 8 << 30) -> bytes:
    """A valid frame that unpacks to `size` zero bytes: 8 GiB are 256 KiB. It does not say so.

    Blocks of one repeated byte, as RFC 8878 has them: four bytes for 128 KiB.
    """
    blocks = size >> 17
    header = struct.pack("<IBB", 0xFD2FB528, 0, 0x58)  # no size, no checksum; a window of 2 MiB
    block = (1 << 17 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (1 << 17 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return header + block * (blocks - 1) + last


def zip_bomb(values: dict[str, Any], size: int = 256 << 20) -> bytes:
    """`torch.save`'s archive with deflated entries, the first tensor's padded by `size` bytes.

    With a size of 0 and a tensor of zeros, everything fits together, and only the sizes warn.
    """
    source = zipfile.ZipFile(io.BytesIO(saved(values, compress=False)))
    sink, left = io.BytesIO(), size
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for name in source.namelist():
            is_tensor = "/data/" in name
            target.writestr(name, source.read(name) + bytes(left if is_tensor else 0))
            left = 0 if is_tensor else left
    return packed(sink.getvalue())

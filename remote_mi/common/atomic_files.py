"""Writing files atomically: completely or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from pathlib import Path

from remote_mi.common.errors import StoreError


def write_atomically(target: Path, content: bytes, tmp: Path) -> str:
    """Write a file via a unique temporary file; returns the SHA-256 of the content.

    Args:
        tmp: folder for the temporary file, on the same file system as `target`.

    Raises:
        OSError: if the disk is full or the folder cannot be written; nothing is left behind.
    """
    tmp.mkdir(parents=True, exist_ok=True)
    partial = tmp / f"{os.getpid()}-{uuid.uuid4().hex}"
    try:
        with partial.open("xb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        _rename(partial, target)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return hashlib.sha256(content).hexdigest()


def _rename(partial: Path, target: Path) -> None:
    for attempt in range(4):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.replace(target)
            return
        except FileNotFoundError:  # the cache was cleaned up while the folder was empty
            if attempt == 3:
                raise


def store_error(error: OSError, folder: Path, what: str) -> StoreError:
    """Explain a file system error in the user's terms."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(f"no space left for {what} in {folder}", "free some space and run again")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return StoreError(
            f"{folder} cannot be written, so {what} is not kept",
            "REMOTE_MI_CACHE and REMOTE_MI_PROJECT name other folders",
        )
    return StoreError(
        f"{what} cannot be written to {folder}: {error.strerror or error}",
        "REMOTE_MI_CACHE and REMOTE_MI_PROJECT name other folders",
    )

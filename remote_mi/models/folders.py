"""What a folder or file holds, by digest: weights on this machine are known by their content.

Does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from remote_mi.common.errors import UsageError
from remote_mi.common.paths import cache_root
from remote_mi.models.embedded import sha256_of

#: The file by which an adapter is known.
ADAPTER = "adapter_config.json"


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a model folder's files, in hex.

    Raises:
        UsageError: if the folder does not exist, has no config.json, holds an adapter, or cannot
            be read.
    """
    digests = readable_digests(folder, "model")
    check_no_adapter(f"the folder {folder}", digests)
    if "config.json" not in digests:
        raise UsageError(
            f"the folder {folder} is not a model: it has no config.json",
            "name a folder written by save_pretrained, or a hub id",
        )
    return digest_of_digests(digests)


def readable_digests(
    folder: Path, what: str, chosen: Callable[[str], bool] = lambda name: True
) -> dict[str, str]:
    """Name → SHA-256 of the files of a folder, as `file_digests`.

    Args:
        what: the files are of, for messages. chosen: which names count.

    Raises:
        UsageError: if the folder does not exist or cannot be read.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"there is no folder {folder}", "name a hub id or an existing folder")
    try:
        return file_digests(folder, chosen)
    except OSError as error:
        raise UsageError(
            f"cannot read {error.filename or f'every file in {folder}'}: {error.strerror}",
            f"make the files of the {what} readable, or name another folder",
        ) from None


def digest_of_digests(digests: dict[str, str]) -> str:
    """One SHA-256 over names and digests, in hex."""
    total = hashlib.sha256()
    for name, digest in digests.items():
        total.update(f"{name}\0{digest}\0".encode())
    return total.hexdigest()


def check_no_adapter(what: str, files: Collection[str]) -> None:
    """Refuse a model beside which there is an adapter, which would be left out without a word.

    Args:
        what: how to name the model's place. files: the names of those in it.

    Raises:
        UsageError: if there is one.
    """
    if ADAPTER not in files:
        return
    if "config.json" not in files:
        raise UsageError(
            f"{what} holds an adapter ({ADAPTER}), which is no model by itself",
            "name the model that it was made for, and the adapter beside it: "
            "--model ID|FOLDER --adapter ID|FOLDER",
        )
    raise UsageError(
        f"{what} holds an adapter ({ADAPTER}) beside a model, and whether it is meant is not clear",
        "move the adapter's files to a folder of their own, and name that with --adapter FOLDER; "
        "or merge it (`merge_and_unload`) and save the result",
    )


def file_digests(folder: Path, chosen: Callable[[str], bool] = lambda name: True) -> dict[str, str]:
    """Name → SHA-256, in hex, of every file in a folder, sorted by name; without hidden ones.

    A digest is cached under the file's `file_state`, once that is old enough that any later change
    of the file must alter it.

    Args:
        chosen: which names count.
    """
    paths = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    return _remembered(sorted(path for path in paths if chosen(path.name)))


def file_digest(path: Path) -> str:
    """SHA-256 of one file, in hex, remembered as in `file_digests`.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        return _remembered([path])[path.name]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name an existing file") from None


def _remembered(paths: list[Path]) -> dict[str, str]:
    memory_file = cache_root() / "folder-digests-2.json"
    try:
        memory = json.loads(memory_file.read_text())
    except (OSError, ValueError):
        memory = {}
    fresh, digests = dict(memory), {}
    for path in paths:
        state = file_state(path)
        stamp = f"{path.resolve()}|{state}"
        found = fresh.get(stamp)
        if found is None:
            found = sha256_of(path)
            if file_state(path) == state and _is_settled(path):
                fresh[stamp] = found
        digests[path.name] = found
    if fresh != memory:
        try:
            memory_file.parent.mkdir(parents=True, exist_ok=True)
            partial = memory_file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
            partial.write_text(json.dumps(fresh))
            partial.replace(memory_file)
        except OSError:
            pass  # Without the cache, this only takes longer.
    return digests


def file_state(path: Path) -> str:
    """A file's identity, size and times: no program can change its content and preserve them all.

    A copy can preserve size and modification time (`cp -p`, `rsync -t`), but neither the inode nor
    the time at which the system itself last recorded a change.
    """
    stat = path.stat()
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def _is_settled(path: Path) -> bool:
    """Whether any later change would alter the times, whose resolution may be two seconds."""
    stat = path.stat()
    return time.time() - max(stat.st_mtime, stat.st_ctime) > 3


def local_path(name: str, exists: Callable[[Path], bool]) -> Path | None:
    """The path that a name stands for, if it looks like one or there is something of that name."""
    path = Path(name).expanduser()
    looks_like_path = name.startswith((".", "/", "~")) or (os.sep != "/" and "\\" in name)
    return path if looks_like_path or exists(path) else None

"""How a model is specified: everything that determines its numbers. Does not import torch."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from remote_mi.common.annotated_types import field_problem
from remote_mi.common.errors import NotFound, UsageError, nearest
from remote_mi.common.paths import cache_root
from remote_mi.models.embedded import EMBEDDED, GGUF_SHA256, sha256_of

DTYPES = ("auto", "float32", "bfloat16", "float16")
#: The file by which an adapter is known.
ADAPTER = "adapter_config.json"
ATTENTION = ("auto", "eager", "sdpa", "flash_attention_2")
Bos = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class ModelSpec:
    """A model as requested.

    Attributes:
        name: hub id, folder, or the embedded model's name.
        revision: branch, tag or commit of a hub id; None is the default branch.
        dtype: of the weights; "auto" is what the checkpoint declares.
        quantization: a name nnsight knows (e.g. "nf4", "int8"), or None.
        attention: attention implementation; "auto" is transformers' choice.
        device: "auto", "cpu", "cuda", "cuda:1", "mps" …; not part of the key, but the class of
            device is, as part of where a result was computed.
        device_map: accelerate's, e.g. "auto", to spread one model over several devices.
        bos: "auto" is the tokenizer's default; or "always", "never".
        chat: whether a prompt is put into the tokenizer's chat template as a user's turn.
        names: module path → portable name, for unknown architectures (docs/models.md).
    """

    name: str = EMBEDDED
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    attention: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    bos: Bos = "auto"
    chat: bool = False
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if problem := field_problem(self):
            raise UsageError(problem)
        for what, value, allowed in (
            ("dtype", self.dtype, DTYPES),
            ("attention", self.attention, ATTENTION),
            ("bos", self.bos, ("auto", "always", "never")),
        ):
            if value not in allowed:
                raise UsageError(f"{what} {value!r} is not one of {', '.join(allowed)}")
        if not self.name.strip():
            raise UsageError("the model's name is empty", f"e.g. --model {EMBEDDED}")

    @property
    def folder(self) -> Path | None:
        """The model's folder, if `name` is one."""
        path = Path(self.name).expanduser()
        looks_like_path = self.name.startswith((".", "/", "~")) or (
            os.sep != "/" and "\\" in self.name
        )
        return path if looks_like_path or os.path.isdir(path) else None

    def check_spelling(self) -> None:
        """Refuse a name that is neither hub id nor folder and resembles the embedded model's.

        Raises:
            NotFound: suggesting that name.
        """
        if self.name == EMBEDDED or self.folder is not None or "/" in self.name:
            return
        if nearest(self.name, [EMBEDDED]):
            raise NotFound(
                f"no model named {self.name!r}",
                f"did you mean {EMBEDDED!r}? "
                "Other models are named by hub id (org/model) or folder",
            )

    def identity(self) -> dict[str, Any]:
        """The part of the key that identifies the model: as requested, never where it runs.

        Raises:
            UsageError: if `name` is a folder without a model.
        """
        identity = {k: v for k, v in asdict(self).items() if k not in ("device", "device_map")}
        if self.name == EMBEDDED:
            identity["content"] = GGUF_SHA256
        elif self.folder is not None:
            identity["name"] = self.folder.name
            identity["content"] = folder_digest(self.folder)
        return identity


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a model folder's files, in hex.

    Raises:
        UsageError: if the folder does not exist, has no config.json, holds an adapter, or cannot
            be read.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"there is no folder {folder}", "name a hub id or an existing folder")
    try:
        digests = file_digests(folder)
    except OSError as error:
        raise UsageError(
            f"cannot read {error.filename or f'every file in {folder}'}: {error.strerror}",
            "make the files of the model readable, or name another folder",
        ) from None
    check_no_adapter(f"the folder {folder}", digests)
    if "config.json" not in digests:
        raise UsageError(
            f"the folder {folder} is not a model: it has no config.json",
            "name a folder written by save_pretrained, or a hub id",
        )
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
    if ADAPTER in files:
        raise UsageError(
            f"{what} holds an adapter ({ADAPTER}), and adapters are not supported yet",
            "merge it (`merge_and_unload`) and save the result to another folder, or run the model "
            "without it: from a folder without the adapter's files",
        )


def file_digests(folder: Path) -> dict[str, str]:
    """Name → SHA-256, in hex, of every file in a folder, sorted by name; without hidden ones.

    A digest is cached under the file's `file_state`, once that is old enough that any later change
    of the file must alter it.
    """
    memory_file = cache_root() / "folder-digests-2.json"
    try:
        memory = json.loads(memory_file.read_text())
    except (OSError, ValueError):
        memory = {}
    fresh, digests = dict(memory), {}
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
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


def local_device(requested: str = "auto") -> str:
    """The device a local run uses, determined without importing torch.

    "auto" is CUDA if torch is not a CPU build and the driver shows a device, MPS on Apple
    silicon, otherwise the CPU.
    """
    if requested != "auto":
        return requested
    try:
        build = version("torch")
    except PackageNotFoundError:
        return "cpu"
    if sys.platform == "darwin" and os.uname().machine == "arm64":
        return "mps"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    has_driver = any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"))
    return "cuda" if "+cpu" not in build and has_driver and visible not in ("", "-1") else "cpu"

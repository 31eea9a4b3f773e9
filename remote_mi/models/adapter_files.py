"""A PEFT adapter as it is named and identified. Does not import torch."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remote_mi.common.atomic_files import write_atomically
from remote_mi.common.errors import UsageError
from remote_mi.common.paths import cache_root
from remote_mi.models.folders import ADAPTER, digest_of_digests, local_path, readable_digests

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class NamedAdapter:
    """An adapter as requested.

    Attributes:
        source: folder or hub id. revision: of a hub id; None for its default branch.
    """

    source: str
    revision: str | None
    folder: Path | None


def named_adapter(name: str) -> NamedAdapter:
    """The adapter that `--adapter` names: a folder, a hub id, or `ID@REVISION`."""
    folder = local_path(name, os.path.isdir)
    if folder is not None:
        return NamedAdapter(str(folder), None, folder)
    source, _, revision = name.partition("@")
    return NamedAdapter(source, revision or None, None)


def adapter_identity(name: str) -> str:
    """An adapter as it enters the key: a folder's by the content of its two files, else its id.

    Raises:
        UsageError: if it is a folder without an adapter, or no hub id.
    """
    found = named_adapter(name)
    if found.folder is None:
        if found.source.count("/") != 1:
            raise UsageError(
                f"there is no adapter {name!r}: it is neither a folder nor a hub id",
                "--adapter FOLDER, --adapter ORG/NAME or --adapter ORG/NAME@REVISION",
            )
        return name
    return f"sha256:{adapter_digest(found.folder)}"


def adapter_digest(folder: Path) -> str:
    """SHA-256 over the configuration and the weights of an adapter in a folder, in hex.

    Other files that training leaves beside them change no number.

    Raises:
        UsageError: if there is no adapter in it.
    """
    digests = readable_digests(folder, "adapter", lambda name: name in (ADAPTER, *_WEIGHTS))
    if ADAPTER not in digests:
        what = "holds a whole model" if (folder / "config.json").is_file() else "is not an adapter"
        raise UsageError(
            f"the folder {folder} {what}: it has no {ADAPTER}",
            "name a folder written by peft's save_pretrained, or a hub id",
        )
    if len(digests) == 1:
        raise UsageError(
            f"the adapter in {folder} has no weights: there is no {' or '.join(_WEIGHTS)}",
            "copy the whole folder that peft's save_pretrained wrote",
        )
    if len(digests) > 2:
        raise UsageError(
            f"the adapter in {folder} has its weights twice, in {' and '.join(_WEIGHTS)}",
            "keep the file that is meant",
        )
    return digest_of_digests(digests)


def shared_adapter(folder: Path) -> Path:
    """A copy of an adapter in the cache, under its digest: a path whose content never changes.

    A server on this machine keeps an adapter by its path. Errors as `adapter_digest`.
    """
    home = cache_root() / "adapters" / adapter_digest(folder)
    for name in (ADAPTER, *_WEIGHTS):
        source, target = folder / name, home / name
        if source.is_file() and not target.is_file():
            write_atomically(target, source.read_bytes(), cache_root() / "tmp")
    return home


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """An adapter's configuration.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        found = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{folder / ADAPTER} is damaged: {str(error).splitlines()[0]}",
            "copy it again",
        ) from None
    return found

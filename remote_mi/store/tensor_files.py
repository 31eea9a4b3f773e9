"""Tensors in .safetensors files, with what is known of them; no other format is ever loaded.

The file's own metadata has one member of ours, `remote_mi`: JSON with the dimensions of each tensor
and where it comes from. A file without it is read, too: then only its numbers are known.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_safetensors

from remote_mi.common.atomic_files import store_error, write_atomically
from remote_mi.common.errors import NotFound, UsageError, nearest
from remote_mi.common.text import line
from remote_mi.common.valid_json import parse_json, to_json
from remote_mi.store.typed_json import WrongJson, dataclass_from_json

SUFFIX = ".safetensors"
#: Suffixes of files that people take for tensors.
OTHERS = (".npy", ".npz", ".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5")
_OWN = "remote_mi"
_SCHEMA = 1


@dataclass(frozen=True)
class TensorFacts:
    """What a file says of one of its tensors.

    Attributes:
        dims: names of its dimensions; None if the file does not say.
        layers: the layer of each index of the dimension `layer`, if they are not all of them.
        origin: where it comes from, as `remote_mi.store.artifacts.StoredArtifact.origin`.
    """

    dims: list[str] | None = None
    layers: list[int] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


def refuse_other_formats(path: Path) -> None:
    """Refuse a file that is no .safetensors by its name; it is not opened.

    Raises:
        UsageError: saying how to make one.
    """
    suffix = path.suffix.lower()
    if suffix == SUFFIX:
        return
    if suffix == ".npy":
        raise UsageError(
            f"{path} has no names of dimensions, and no model",
            f"remote-mi artifacts import {path} --dims layer,d_model --model MODEL",
        )
    unsafe = suffix in OTHERS and suffix != ".h5"
    what = "may run code when it is loaded, so it never is" if unsafe else "is not one"
    raise UsageError(
        f"artifacts are {SUFFIX} files, and {path} {what}",
        "write the tensor with safetensors.torch.save_file({'direction': tensor}, "
        "'direction.safetensors')",
    )


class TensorFile:
    """A .safetensors file, opened and found whole; tensors are read one by one.

    Attributes:
        path: of the file. names: of its tensors, in order.

    Raises:
        NotFound: if it does not exist. UsageError: if it is not such a file, or damaged.
    """

    def __init__(self, path: Path) -> None:
        refuse_other_formats(path)
        self.path = path
        if not path.is_file():
            raise NotFound(f"there is no file {path}", "remote-mi artifacts ls")
        try:
            with safe_open(path, framework="np") as found:
                self.names = sorted(found.keys())
                self._metadata = found.metadata() or {}
        except (SafetensorError, OSError, ValueError) as error:
            raise UsageError(
                f"{path} is not a whole safetensors file: {line(str(error), 120)}",
                "it may be damaged, or of another format: copy or export it again",
            ) from None

    def facts(self, name: str) -> TensorFacts:
        """What the file says of a tensor; nothing, if it does not say anything that can be read."""
        try:
            own = parse_json(self._metadata[_OWN])
            return dataclass_from_json(TensorFacts, own["tensors"][name], name)
        except (KeyError, TypeError, ValueError, WrongJson):
            return TensorFacts()

    def one(self, name: str) -> str:
        """The name of the tensor that is meant: the given one, or the only one.

        Raises:
            NotFound: if there is none of that name. UsageError: if several may be meant.
        """
        if name in self.names:
            return name
        known = ", ".join(line(known, 60) for known in self.names[:8]) or "nothing"
        if name:
            close = nearest(name, self.names)
            raise NotFound(
                f"{self.path} has no tensor {name!r}",
                f"did you mean {close!r}?" if close else f"it has: {known}",
            )
        if len(self.names) != 1:
            raise UsageError(
                f"{self.path} has {len(self.names)} tensors: {known}", f"name one: {self.path}:NAME"
            )
        return self.names[0]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        with safe_open(self.path, framework="np") as found:
            return tuple(found.get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        """One tensor; bfloat16, which numpy does not have, as float32.

        Raises:
            UsageError: for a dtype that numpy does not have.
        """
        with safe_open(self.path, framework="np") as found:
            dtype = found.get_slice(name).get_dtype()
            if dtype != "BF16":
                try:
                    return found.get_tensor(name)
                except (SafetensorError, TypeError, ValueError, AttributeError, KeyError):
                    raise UsageError(
                        f"{self.path}: the tensor {name!r} is of {line(str(dtype), 20)}",
                        "write it in float32",
                    ) from None
        with self.path.open("rb") as handle:
            (size,) = struct.unpack("<Q", handle.read(8))
            entry = json.loads(handle.read(size))[name]
            start, end = entry["data_offsets"]
            handle.seek(8 + size + start)
            high = np.frombuffer(handle.read(end - start), "<u2").astype(np.uint32)
        return (high << 16).view(np.float32).reshape(entry["shape"])


def tensor_file(arrays: Mapping[str, np.ndarray], facts: Mapping[str, TensorFacts]) -> bytes:
    """The content of a file with these tensors and what is known of them."""
    tensors = {
        name: {"dims": known.dims, "layers": known.layers, "origin": dict(known.origin)}
        for name, known in facts.items()
    }
    whole = {k: np.ascontiguousarray(v).reshape(np.shape(v)) for k, v in arrays.items()}
    own = to_json({"schema": _SCHEMA, "tensors": tensors}, sort_keys=True)
    return save_safetensors(whole, metadata={_OWN: own})


def canonical(array: np.ndarray, named: str) -> np.ndarray:
    """Numbers as they enter keys and reach recipes: float32, int64 or bool.

    Raises:
        UsageError: if they are something else, or not finite.
    """
    kind = array.dtype.kind
    if kind not in "fiub":
        raise UsageError(f"{named} holds {array.dtype}, not numbers")
    with np.errstate(over="ignore"):
        made = array.astype({"f": np.float32, "b": np.bool_}.get(kind, np.int64))
    if kind == "f" and not np.isfinite(made).all():
        count = int((~np.isfinite(made)).sum())
        raise UsageError(
            f"{named}: {count} of its {made.size} numbers are not finite",
            "look at the run that made it: remote-mi view",
        )
    return np.ascontiguousarray(made).reshape(array.shape)


def write_tensor(
    path: Path,
    name: str,
    array: np.ndarray,
    dims: list[str],
    layers: list[int] | None,
    origin: Mapping[str, Any],
) -> None:
    """Write one tensor with what is known of it.

    Raises:
        StoreError: if the file cannot be written.
    """
    content = tensor_file({name: array}, {name: TensorFacts(dims or None, layers, origin)})
    try:
        write_atomically(path.absolute(), content, path.absolute().parent)
    except OSError as error:
        raise store_error(error, path.absolute().parent, "the artifact") from error


def import_tensor(path: Path, name: str, dims: list[str]) -> np.ndarray:
    """A tensor of a .safetensors or .npy file, as numbers of artifacts are.

    Args:
        name: of the tensor; "" for the only one. dims: names of its dimensions.

    Raises:
        NotFound: if there is no such file or tensor. UsageError: if it does not fit, or the file
            holds anything but plain numbers.
    """
    if path.suffix.lower() == ".npy":
        array = _numpy_array(path)
    else:
        opened = TensorFile(path)
        array = opened.read(opened.one(name))
    if array.ndim != len(dims) or len(set(dims)) != len(dims):
        shape = " × ".join(map(str, array.shape)) or "one number"
        raise UsageError(
            f"{path} has {array.ndim} dimensions ({shape}), and --dims names {', '.join(dims)}",
            "name each once, outermost first, e.g. --dims layer,d_model",
        )
    return canonical(array, str(path))


def _numpy_array(path: Path) -> np.ndarray:
    """The array of a .npy file; nothing in it is unpickled."""
    if not path.is_file():
        raise NotFound(f"there is no file {path}", "remote-mi artifacts import --help")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(
            f"{path} is not a file of plain numbers: {line(str(error), 120)}",
            "write it with numpy.save('direction.npy', array)",
        ) from None

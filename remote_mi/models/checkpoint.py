"""Describing a model's checkpoint: the size of its weights, and whether they are on this machine.

This reads the headers of safetensors files and config.json, locally or on the hub; it downloads no
weights and does not import torch.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.common.errors import NotFound, UsageError, first_line
from remote_mi.models.embedded import EMBEDDED, WHEEL_BYTES, embedded_folder, is_ready
from remote_mi.models.folders import check_no_adapter
from remote_mi.models.gguf_file import read_gguf
from remote_mi.models.hub import TIMEOUT_S
from remote_mi.models.in_hand import object_of
from remote_mi.models.spec import ModelSpec

#: Bits per number, by the name of its type in safetensors or transformers.
BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "float64": 64,
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
}
_FLOATS = ("F64", "F32", "F16", "BF16")
#: nnsight's names of quantisations → bits per weight of a linear layer, scales included.
QUANTIZED_BITS = {
    "nf4": 4.5,
    "fp4": 4.5,
    "int4": 4.5,
    "4bit": 4.5,
    "int8": 8.1,
    "8bit": 8.1,
    "fp8": 8.1,
}
#: Bits per number of the weights that quantisation leaves alone.
_REST_BITS = 16
#: Parts of a module's name that quantisation leaves alone.
_NOT_QUANTIZED = ("embed", "lm_head", "wte", "wpe")
#: Names of the same setting in different configurations.
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
HEADS = ("num_attention_heads", "n_head")
WIDTH = ("hidden_size", "n_embd", "d_model")
#: Size of the embedded model, for use before it is fetched: bytes in float32, and numbers.
_EMBEDDED_WEIGHTS = 538_060_032
_EMBEDDED_PARAMETERS = 134_515_008
_HEADER_LIMIT = 100 << 20

#: Name, type and shape of a tensor.
Tensor = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """What is known about a checkpoint.

    Attributes:
        present: whether the weights are on this machine.
        weights: size in bytes in the requested dtype and quantisation; None if unknown.
        parameters: how many numbers the weights have; None if unknown.
        dtype: the dtype of most of them, as requested.
        download: bytes that would have to be fetched first; 0 if present, None if unknown.
        config: the model's configuration; {} if unknown.
        unknown: why something is unknown.
    """

    present: bool
    weights: int | None = None
    parameters: int | None = None
    dtype: str = "?"
    download: int | None = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    unknown: str = ""


def describe(spec: ModelSpec) -> Checkpoint:
    """Describe a model's checkpoint without its weights; what cannot be determined is unknown.

    Raises:
        NotFound: for a misspelt name of the embedded model, and for a model that the hub does not
            have or does not give access to. UsageError: for one with an adapter.
    """
    spec.check_spelling()
    if spec.name == EMBEDDED:
        if not is_ready():
            bits = _requested_bits(spec) or 32
            return Checkpoint(
                False,
                int(_EMBEDDED_WEIGHTS * bits / 32),
                _EMBEDDED_PARAMETERS,
                "float32",
                WHEEL_BYTES,
            )
        return read_checkpoint(embedded_folder(), spec)
    if spec.is_object:
        return _describe_object(spec)
    if spec.file is not None:
        return _describe_gguf(spec.file, spec)
    if spec.folder is not None:
        return read_checkpoint(spec.folder.expanduser(), spec)
    try:
        return _hub_checkpoint(spec)
    except UsageError:
        raise
    except Exception as error:  # of many kinds, most of which must not stop a plan
        from remote_mi.models.load_errors import explain_load_error

        meant = explain_load_error(spec, error)
        if isinstance(meant, NotFound):
            raise meant from None
        return Checkpoint(
            False, download=None, unknown=f"the hub does not say: {first_line(error)}"
        )


def layers_and_heads(spec: ModelSpec) -> tuple[int | None, int | None]:
    """How many layers a model has and how many heads each has, as far as this machine knows."""
    sizes = _known_sizes(spec)
    return first_int(sizes, LAYERS), first_int(sizes, HEADS)


def layers_and_width(spec: ModelSpec) -> tuple[int | None, int | None]:
    """How many layers a model has and how wide its stream is, as far as this machine knows."""
    sizes = _known_sizes(spec)
    return first_int(sizes, LAYERS), first_int(sizes, WIDTH)


def _known_sizes(spec: ModelSpec) -> Mapping[str, Any]:
    """The configuration of a model's decoder; {} if it is not on this machine."""
    if spec.is_object or spec.file is not None:
        return describe(spec).config
    folder = embedded_folder() if spec.name == EMBEDDED else spec.folder
    if folder is None:
        try:
            folder = _cached_snapshot(spec)
        except Exception:  # not a hub id
            return {}
    config = _read_json(folder.expanduser() / "config.json") if folder else {}
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def first_int(sizes: Mapping[str, Any], names: Iterable[str]) -> int | None:
    """The first of some settings that a configuration has as a whole number."""
    return next((int(sizes[n]) for n in names if isinstance(sizes.get(n), int)), None)


def _describe_object(spec: ModelSpec) -> Checkpoint:
    """Describe a model in memory; only a copy in another dtype takes room of its own."""
    model = object_of(spec.name)
    count = sum(p.numel() for p in model.parameters())
    stored = str(next(model.parameters()).dtype).removeprefix("torch.")
    dtype = _requested_dtype(spec, stored)
    size = count * BITS.get(dtype, 32) // 8
    return Checkpoint(True, size, count, dtype, 0, model.config.to_dict())


def _describe_gguf(path: Path, spec: ModelSpec) -> Checkpoint:
    """Describe a GGUF file, whose weights are dequantized when they are loaded."""
    config, count = read_gguf(path)
    dtype = _requested_dtype(spec, "float32")
    return Checkpoint(True, count * BITS.get(dtype, 32) // 8, count, dtype, 0, config)


def read_checkpoint(folder: Path, spec: ModelSpec) -> Checkpoint:
    """Describe the checkpoint in a folder; without safetensors, by the size of its files."""
    config = _read_json(folder / "config.json")
    try:
        tensors = [t for path in sorted(folder.glob("*.safetensors")) for t in read_tensors(path)]
    except (OSError, ValueError) as error:
        return Checkpoint(True, config=config, unknown=f"{folder}: {first_line(error)}")
    if not tensors:
        files = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.gguf")]
        size = sum(path.stat().st_size for path in files)
        if not size:
            return Checkpoint(bool(files), config=config, unknown=f"{folder} holds no weights")
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        count = size * 8 // BITS.get(dtype, 32)
        return Checkpoint(
            True,
            int(count * (_requested_bits(spec) or BITS.get(dtype, 32)) / 8),
            count,
            _requested_dtype(spec, dtype),
            0,
            config,
        )
    return _measure(tensors, spec, True, 0, config)


def read_tensors(path: Path) -> Iterator[Tensor]:
    """Name, type and shape of every tensor in a safetensors file, read from its header only.

    Raises:
        OSError, ValueError: if it cannot be read, is not a safetensors file, or is truncated.
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _HEADER_LIMIT + 1
        if length > _HEADER_LIMIT:
            raise ValueError(f"{path.name} is not a safetensors file")
        header = file.read(length)
        size = path.stat().st_size
    needed, tensors = 8 + length, []
    if size >= needed:
        try:
            header = {n: t for n, t in json.loads(header).items() if n != "__metadata__"}
            needed += max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
            tensors = [(n, t["dtype"], tuple(t["shape"])) for n, t in header.items()]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ValueError(f"{path.name} is not a safetensors file") from None
    if size < needed:
        raise ValueError(f"{path.name} is incomplete: {size} of {needed} bytes; copy it again")
    return iter(tensors)


def weights_size(tensors: Iterable[Tensor], spec: ModelSpec) -> tuple[int, int]:
    """The size of weights in bytes, in the dtype a spec requests, and how many numbers they are.

    Integer tensors are a checkpoint's own quantisation and stay unchanged. Floating-point ones
    take the requested dtype; if quantised, matrices of layers take `QUANTIZED_BITS` per number
    and the rest 16.
    """
    bits, count = 0.0, 0
    requested = BITS.get(spec.dtype)
    for name, dtype, shape in tensors:
        numbers = 1
        for side in shape:
            numbers *= side
        count += numbers
        if dtype not in _FLOATS:
            each: float = BITS.get(dtype, 32)
        elif spec.quantization:
            matrix = len(shape) > 1 and not any(part in name for part in _NOT_QUANTIZED)
            each = QUANTIZED_BITS.get(spec.quantization, _REST_BITS) if matrix else _REST_BITS
        else:
            each = requested or BITS[dtype]
        bits += numbers * each
    return int(bits / 8), count


def _measure(
    tensors: list[Tensor],
    spec: ModelSpec,
    present: bool,
    download: int | None,
    config: Mapping[str, Any],
) -> Checkpoint:
    size, count = weights_size(tensors, spec)
    numbers_of: dict[str, int] = {}
    for _, kind, shape in tensors:
        numbers = 1
        for side in shape:
            numbers *= side
        numbers_of[kind] = numbers_of.get(kind, 0) + numbers
    most = max(numbers_of, key=lambda kind: numbers_of[kind])
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
    return Checkpoint(
        present, size, count, _requested_dtype(spec, names.get(most, most)), download, config
    )


def _requested_bits(spec: ModelSpec) -> float | None:
    if spec.quantization:
        return QUANTIZED_BITS.get(spec.quantization, _REST_BITS)
    return BITS.get(spec.dtype)


def _requested_dtype(spec: ModelSpec, stored: str) -> str:
    return spec.quantization or (spec.dtype if spec.dtype != "auto" else stored)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# --- the hub --------------------------------------------------------------------------------------


def model_cache() -> Path:
    """The folder in which models downloaded from the hub are cached."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _hub_checkpoint(spec: ModelSpec) -> Checkpoint:
    """Describe the checkpoint of a hub id, from the hub's local cache if complete, else online."""
    snapshot = _cached_snapshot(spec)
    if snapshot is not None:
        check_no_adapter(f"the repository {spec.name}", [path.name for path in snapshot.iterdir()])
    if snapshot is not None and _is_complete(snapshot):
        return read_checkpoint(snapshot, spec)
    from huggingface_hub import HfApi

    api = HfApi()
    info = api.model_info(spec.name, revision=spec.revision, files_metadata=True, timeout=TIMEOUT_S)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    check_no_adapter(f"the repository {spec.name}", sizes)
    files = _weight_files(sizes)
    config = _hub_config(spec, snapshot)
    if not any(name.endswith(".safetensors") for name in files):
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        size = sum(sizes[name] for name in files)
        count = size * 8 // BITS.get(dtype, 32)
        bits = _requested_bits(spec) or BITS.get(dtype, 32)
        return Checkpoint(
            False,
            int(count * bits / 8) or None,
            count or None,
            _requested_dtype(spec, dtype),
            size or None,
            config,
            "" if size else "the hub lists no weights",
        )
    parsed = api.get_safetensors_metadata(spec.name, revision=spec.revision)
    tensors = [
        (name, tensor.dtype, tuple(tensor.shape))
        for parsed_file in parsed.files_metadata.values()
        for name, tensor in parsed_file.tensors.items()
    ]
    return _measure(tensors, spec, False, sum(sizes[name] for name in files), config)


def _weight_files(sizes: Mapping[str, int]) -> list[str]:
    """The weight files that transformers would fetch: safetensors if there are any."""
    top = [name for name in sizes if "/" not in name]
    for end in (".safetensors", ".bin"):
        found = [n for n in top if n.endswith(end) and not n.startswith(("training_", "adapter"))]
        if found:
            return found
    return []


def _cached_snapshot(spec: ModelSpec) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(spec.name, "config.json", revision=spec.revision)
    return Path(file).parent if isinstance(file, str) else None


def _is_complete(snapshot: Path) -> bool:
    """Whether all weight files are present; an index lists the files it needs."""
    for index in snapshot.glob("*.index.json"):
        wanted = set(_read_json(index).get("weight_map", {}).values())
        if wanted and all((snapshot / name).exists() for name in wanted):
            return True
    whole = ("model.safetensors", "pytorch_model.bin")
    return any((snapshot / name).exists() for name in whole)


def _hub_config(spec: ModelSpec, snapshot: Path | None) -> dict[str, Any]:
    if snapshot is not None:
        return _read_json(snapshot / "config.json")
    from huggingface_hub import hf_hub_download

    return _read_json(Path(hf_hub_download(spec.name, "config.json", revision=spec.revision)))

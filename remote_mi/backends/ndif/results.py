"""Reading a downloaded result as plain values, never code, and checking it against expectations.

Sizes are limited before anything is unpacked: a small file can expand twice, once by zstd and once
by the archive inside.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remote_mi.backends.errors import ResultRefused
from remote_mi.common.errors import first_line

#: Maximum size of a result if nothing is known beforehand, in bytes.
LIMIT_BYTES = 4 << 30
#: Room for what surrounds the numbers: names, the archive, the pickled structure.
_OVERHEAD_BYTES = 1 << 20
_ADVICE = (
    "a result holds tensors, numbers, texts, lists and dicts only; "
    "the same command submits the job again"
)


def max_result_bytes(expected: Any) -> int:
    """Maximum size of an unpacked result in bytes.

    Args:
        expected: per call, output → [shape, dtype], or None where it is not known.
    """
    if not expected:
        return LIMIT_BYTES
    numbers = 0
    for outputs in expected:
        for shape, _ in outputs.values():
            size = 8
            for length in shape:
                size *= length
            numbers += size + 1024
    return min(LIMIT_BYTES, 2 * numbers + _OVERHEAD_BYTES)


def read_outputs(path: Path, calls: int, compressed: bool, limit: int) -> list[Mapping[str, Any]]:
    """The outputs of each call in a downloaded result.

    Args:
        calls: how many there should be. compressed: with zstd. limit: maximum
            unpacked size in bytes.

    Raises:
        ResultRefused: if it is damaged, too large, holds code, or lacks the outputs.
    """
    loaded = load(path.read_bytes(), compressed, limit)
    outputs = loaded.get("outputs")
    if not isinstance(outputs, list) or len(outputs) != calls:
        found = f"{len(outputs)} of {calls}" if isinstance(outputs, list) else "none"
        raise ResultRefused(
            f"the result has the outputs of {found} calls", "the same command submits the job again"
        )
    for call in outputs:
        if not isinstance(call, dict):
            raise ResultRefused(
                f"the result has {type(call).__name__} in place of outputs", _ADVICE
            )
    return outputs


def load(content: bytes, compressed: bool, limit: int) -> dict[str, Any]:
    """A result's bytes as a dict of plain values; see `read_outputs`."""
    import torch
    import zstandard

    try:
        plain = content
        if compressed:
            with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
                io.BytesIO(content)
            ) as reader:
                plain = reader.read(limit + 1)
        if len(plain) > limit:
            raise ResultRefused(f"the result unpacks to more than the {limit:,} bytes it may have")
        with zipfile.ZipFile(io.BytesIO(plain)) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
        if unpacked > limit:
            raise ResultRefused(f"the result unpacks to {unpacked:,} bytes, {limit:,} are allowed")
        loaded = torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)
    except ResultRefused:
        raise
    except Exception as error:  # a damaged or hostile result can make the readers raise anything
        raise ResultRefused(
            f"the server's result is refused: {first_line(error)}", _ADVICE
        ) from None
    if not isinstance(loaded, dict):
        raise ResultRefused(
            f"the server's result is refused: {type(loaded).__name__}, not a dict", _ADVICE
        )
    return loaded


def check_expected(recipe: str, index: int, found: Mapping[str, Any], expected: Any) -> None:
    """Compare one call's outputs with what the dry run predicted.

    Args:
        found: output → array. expected: per call, output → [shape, dtype], or None.

    Raises:
        ResultRefused: for another shape or dtype, naming the output.
    """
    if not expected:
        return
    for name, (shape, dtype) in expected[index].items():
        array = found[name]
        if list(array.shape) != list(shape) or str(array.dtype) != dtype:
            raise ResultRefused(
                f"{recipe}: output {name!r} came back as {array.dtype} {tuple(array.shape)}, "
                f"and {dtype} {tuple(shape)} was expected",
                "the same command submits the job again",
            )

"""Converting arrays to and from safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from remote_mi.common.errors import Mismatch


def arrays_to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as one safetensors file."""
    # ascontiguousarray alone would turn a 0-d array into a 1-d one.
    return save_safetensors(
        {k: np.ascontiguousarray(v).reshape(np.shape(v)) for k, v in arrays.items()}
    )


def arrays_from_bytes(content: bytes, where: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file.

    Raises:
        Mismatch: if the content is not a valid file.
    """
    try:
        return load_safetensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Mismatch(f"{where} is damaged: {error}") from None

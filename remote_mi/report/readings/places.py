"""Names of places, and of runs of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from remote_mi.common.text import visible
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.report.wording import place_text
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

#: Most pieces of a list of runs; of more, only the ends are given.
_MOST_PIECES = 8


def column_name(result: Result, array: NamedArray, dim: str, index: int) -> str:
    """A coordinate of a dimension as a place: "[s2]", "position 13 ␠to [end]", "coefficient 2"."""
    label, labels = array.coords[dim][index], list(array.coords[dim])
    named = str(label).startswith("[") and label != "[*]" and labels.count(label) == 1
    if dim in POSITIONS and named:
        return visible(str(label))
    name = place_text(NamedArray(np.zeros(()), (dim,), array.coords), (index,))
    return f"{name}{_label_there(result, array, dim, index)}"


def _label_there(result: Result, array: NamedArray, dim: str, index: int) -> str:
    """The label that all prompts have at a position, " [end]"; "" if they have none in common."""
    prompts = result.prompts
    tokens = {len(prompt["tokens"]) for prompt in prompts}
    if dim not in POSITIONS or tokens != {len(array.coords[dim])}:
        return ""
    for label in prompts[0].get("labels") or {}:
        if all((prompt.get("labels") or {}).get(label) == index for prompt in prompts):
            return f" [{visible(str(label))}]"
    return ""


def runs(indices: Sequence[int], labels: Sequence[Any]) -> list[tuple[int, int]]:
    """First and last of each run of neighbouring indices; numbers must also follow each other."""
    found: list[tuple[int, int]] = []
    for index in indices:
        before = found[-1][1] if found else None
        follows = before is not None and index == before + 1
        if follows and isinstance(labels[index], int):
            follows = labels[index] == labels[index - 1] + 1
        if follows:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found


def runs_text(dim: str, indices: Sequence[int], labels: Sequence[Any]) -> str:
    """Indices of a dimension as text: "layer 7", "layers 0–19", "layers 0–5, 7, 9–12"."""
    several = "s" if len(indices) > 1 else ""
    pieces = runs(indices, labels)
    if len(pieces) > _MOST_PIECES:
        ends = f"from {_label(labels, indices[0])} to {_label(labels, indices[-1])}"
        return f"{len(indices)} {visible(dim)}s {ends}"
    texts = [
        _label(labels, first) + (f"–{_label(labels, last)}" if last > first else "")
        for first, last in pieces
    ]
    return f"{visible(dim)}{several} {', '.join(texts)}"


def _label(labels: Sequence[Any], index: int) -> str:
    return visible(str(labels[index]))

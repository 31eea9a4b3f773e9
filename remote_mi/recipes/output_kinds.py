"""Kinds of outputs: how what a recipe returns is checked, packed, read back, compared and told.

Whatever a recipe returns is kept as plain arrays, so that transport, cache and limits are the same
for all kinds and nothing is ever unpickled. Numbers and token ids are arrays already. A text is the
bytes of its UTF-8, a JSON value those of its JSON; of several, each takes a row, filled up with a
byte that no UTF-8 has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from remote_mi.recipes.outputs import Output

#: Fills up what is shorter than the longest: no byte of UTF-8.
_FILL = 0xFF


class OutputKind:
    """One kind of output.

    Attributes:
        name: as declarations and runs have it. said: what its values are called, in the plural.
        averaged: whether values of several examples have a mean; without one they stay apart.
        sized: whether the size of an output follows from the shapes of tensors alone.
        bytes: what a value takes, about.
    """

    name: ClassVar[str]
    plural: ClassVar[str]
    averaged: ClassVar[bool] = False
    sized: ClassVar[bool] = True
    bytes: ClassVar[int] = 8

    def pack(self, value: Any, dims: Sequence[str]) -> np.ndarray:
        """What a recipe returned as a plain array.

        Args:
            dims: as declared.

        Raises:
            ValueError: if it is not what was declared, in words that go on after "output 'x'".
        """
        raise NotImplementedError

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """The values themselves; as many dimensions as were declared."""
        return packed

    def gap(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """How far apart each pair of values is; 0 where they are the same, infinite where unlike.

        Args:
            one, other: unpacked, of one shape.
        """
        return np.asarray(one != other).astype(np.float64)


class _Numbers(OutputKind):
    name, plural, averaged = "number", "numbers", True

    def pack(self, value: Any, dims: Sequence[str]) -> np.ndarray:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError):
            array = np.asarray(None)
        if array.dtype.kind not in "fiub":
            raise ValueError("is not an array of numbers")
        if array.ndim != len(dims):
            declared = f"({', '.join(dims)})" if dims else "a number"
            raise ValueError(f"is declared as {declared} and has shape {array.shape}")
        return array

    def gap(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """|b − a|, 0 where both are the same NaN or infinity, infinite where only one is."""
        a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            gap = np.where(same, 0.0, np.abs(b - a))
        return np.where(np.isnan(gap), np.inf, gap)


class _TokenIds(_Numbers):
    name, plural, averaged = "token", "tokens", False
    gap = OutputKind.gap


class _Packed(OutputKind):
    """Values of any length, each as bytes in a row of its own."""

    sized = False
    bytes = 256

    def pack(self, value: Any, dims: Sequence[str]) -> np.ndarray:
        shape, values = _flatten(value, dims)
        rows = [self.encode(one).encode("utf-8", "surrogatepass") for one in values]
        packed = np.full((len(rows), max(map(len, rows), default=0)), _FILL, np.uint8)
        for row, content in zip(packed, rows, strict=True):
            row[: len(content)] = np.frombuffer(content, np.uint8)
        return packed.reshape(*shape, packed.shape[1])

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        found = np.empty(packed.shape[:-1], object)
        for index in np.ndindex(*found.shape):
            content = packed[index].tobytes().rstrip(bytes([_FILL]))
            found[index] = self.decode(content.decode("utf-8", "surrogatepass"))
        return found

    def encode(self, value: Any) -> str:
        """A value as text; a ValueError says why it is none of this kind."""
        raise NotImplementedError

    def decode(self, text: str) -> Any:
        """The value that `encode` made the text of."""
        raise NotImplementedError


class _TextValues(_Packed):
    name, plural = "text", "texts"

    def encode(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"is declared as text and holds {type(value).__name__}")
        return value

    def decode(self, text: str) -> str:
        return text


class _JsonValues(_Packed):
    name, plural = "json", "JSON values"

    def encode(self, value: Any) -> str:
        try:
            return json_text(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"is no JSON: {error}") from None

    def decode(self, text: str) -> Any:
        return json.loads(text)


KINDS: dict[str, OutputKind] = {
    kind.name: kind for kind in (_Numbers(), _TokenIds(), _TextValues(), _JsonValues())
}
NUMBERS = KINDS["number"]


def kind_of_output(output: Output | None) -> OutputKind:
    """The kind of an output; of None, which is a summary, numbers."""
    return NUMBERS if output is None else KINDS[output.kind]


def json_text(value: Any) -> str:
    """A JSON value as text: keys sorted, so that equal values are equal texts.

    Raises:
        TypeError, ValueError: for what JSON cannot say, NaN and infinities among it.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_to_list)


def _to_list(value: Any) -> Any:
    """A tensor or array within a JSON value as numbers and lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _flatten(value: Any, dims: Sequence[str]) -> tuple[list[int], list[Any]]:
    """The shape of nested lists, as deep as there are dimensions, and what they hold, in order."""
    shape: list[int] = []
    values = [value]
    for depth, dim in enumerate(dims):
        if not all(isinstance(one, (list, tuple)) for one in values):
            raise ValueError(f"is declared as ({', '.join(dims)}): a list was expected for {dim!r}")
        lengths = {len(one) for one in values}
        if len(lengths) > 1:
            raise ValueError(f"has lists of different lengths in its dimension {dim!r}")
        shape.append(lengths.pop() if lengths else 0)
        values = [item for one in values for item in one]
        if not values:
            return [*shape, *[0] * (len(dims) - depth - 1)], []
    return shape, values

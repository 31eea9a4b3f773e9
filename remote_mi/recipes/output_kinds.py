"""Kinds of outputs: how a recipe's results are validated, packed, read back, compared and named.

Everything a recipe returns is stored as plain arrays, so that transport, cache and limits are the
same for all kinds and nothing is ever unpickled. Numbers and token ids are arrays already. A text
is stored as its UTF-8 bytes, a JSON value as those of its JSON; each of several takes a row, padded
with a byte that never occurs in UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from remote_mi.recipes.outputs import Output

#: Padding of values shorter than the longest; never occurs in UTF-8.
_FILL = 0xFF


class OutputKind:
    """One kind of output.

    Attributes:
        name: as in declarations and runs. plural: what its values are called.
        averaged: whether values of several examples have a mean; otherwise they stay separate.
        sized: whether the size of an output follows from the shapes of tensors.
        bytes: the approximate size of a value.
        dtypes: the kinds of dtypes of a packed array, as numpy's letters.
        packed_dims: its dimensions beyond those declared.
    """

    name: ClassVar[str]
    plural: ClassVar[str]
    averaged: ClassVar[bool] = False
    sized: ClassVar[bool] = True
    bytes: ClassVar[int] = 8
    dtypes: ClassVar[str] = "fiub"
    packed_dims: ClassVar[int] = 0

    def pack(self, value: Any, dims: Sequence[str]) -> np.ndarray:
        """Convert a recipe's output to a plain array.

        Args:
            dims: as declared.

        Raises:
            ValueError: if it is not as declared; the message continues "output 'x'".
        """
        raise NotImplementedError

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """The values, with the declared number of dimensions."""
        return packed

    def packed_problem(self, packed: np.ndarray) -> str:
        """Why a packed array cannot be values of this kind, as the end of a sentence; "" if it can."""
        if packed.dtype.kind not in self.dtypes:
            return f"holds {packed.dtype}, not {self.plural}"
        try:
            self.unpack(packed)
        except (ValueError, RecursionError) as error:
            return f"cannot be read as {self.plural}: {error}"
        return ""

    def gap(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The distance between values: 0 if equal, infinite if they cannot be compared.

        Args:
            one, other: unpacked, of the same shape.
        """
        return np.asarray(one != other).astype(np.float64)


class _Numbers(OutputKind):
    name, plural, averaged = "number", "numbers", True

    def pack(self, value: Any, dims: Sequence[str]) -> np.ndarray:
        array = as_numbers(value)
        if array is None:
            raise ValueError("is not an array of numbers")
        if array.ndim != len(dims):
            declared = f"({', '.join(dims)})" if dims else "a number"
            raise ValueError(f"is declared as {declared} and has shape {array.shape}")
        return array

    def gap(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """|b − a|: 0 where both are NaN or the same infinity, infinite where only one is."""
        a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            gap = np.where(same, 0.0, np.abs(b - a))
        return np.where(np.isnan(gap), np.inf, gap)


class _Shares(_Numbers):
    """0 or 1, and NaN where it is not known."""

    name = "share"

    def pack(self, value: Any, dims: Sequence[str]) -> np.ndarray:
        array = super().pack(value, dims)
        if not np.isin(array[np.isfinite(array)], (0, 1)).all():
            raise ValueError("is declared as Share and holds numbers other than 0 and 1")
        return array


class _TokenIds(_Numbers):
    name, plural, averaged = "token", "tokens", False
    dtypes = "iu"
    gap = OutputKind.gap

    def pack(self, value: Any, dims: Sequence[str]) -> np.ndarray:
        array = super().pack(value, dims)
        if array.dtype.kind in self.dtypes:
            return array
        if array.size:
            raise ValueError(f"is declared as tokens and holds {array.dtype}, not whole numbers")
        return array.astype(np.int64)  # an empty list has the dtype of numbers


class _Packed(OutputKind):
    """Values of any length, each stored as bytes in its own row."""

    sized = False
    bytes = 256
    packed_dims = 1

    def packed_problem(self, packed: np.ndarray) -> str:
        if packed.dtype != np.uint8:
            return f"holds {packed.dtype}, not {self.plural}"
        return super().packed_problem(packed)

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
        """A value as text; raises ValueError if it is not of this kind."""
        raise NotImplementedError

    def decode(self, text: str) -> Any:
        """The inverse of `encode`."""
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
            raise ValueError(f"is not JSON: {error}") from None

    def decode(self, text: str) -> Any:
        return json.loads(text)


KINDS: dict[str, OutputKind] = {
    kind.name: kind for kind in (_Numbers(), _Shares(), _TokenIds(), _TextValues(), _JsonValues())
}
NUMBERS = KINDS["number"]


def kind_of_output(output: Output | None) -> OutputKind:
    """The kind of an output; numbers for None, which is a summary."""
    return NUMBERS if output is None else KINDS[output.kind]


def as_numbers(value: Any) -> np.ndarray | None:
    """A number, a tensor, an array or nested lists as an array; None if it holds anything else."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # the last one from a tensor with gradients
        return None
    return array if array.dtype.kind in "fiub" else None


def json_text(value: Any) -> str:
    """A JSON value as text: keys sorted, so that equal values are equal texts.

    Raises:
        TypeError, ValueError: for values that JSON cannot express, such as NaN and infinities.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_to_list)


def _to_list(value: Any) -> Any:
    """Convert a tensor or array within a JSON value to numbers and lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _flatten(value: Any, dims: Sequence[str]) -> tuple[list[int], list[Any]]:
    """The shape of lists nested as deeply as there are dimensions, and their items in order."""
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

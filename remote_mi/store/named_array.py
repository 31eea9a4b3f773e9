"""Arrays whose dimensions have names and coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from remote_mi.common.display import Displayed
from remote_mi.common.errors import NotFound, UsageError

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class NamedArray(Displayed):
    """An array whose dimensions have names and coordinates.

    Attributes:
        values: the array itself.
        dims: name of each dimension.
        coords: dimension → label of each index (token text for positions).
        low, high: 95% bootstrap interval over pairs, of the same shape; None for one pair.
        name: of the output or summary.
    """

    values: np.ndarray
    dims: tuple[str, ...]
    coords: Mapping[str, list[Any]]
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype) if copy else np.asarray(self.values, dtype=dtype)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __float__(self) -> float:
        return float(self.values)

    def item(self) -> Any:
        """The value of a single-element array: a number, a text or a JSON value."""
        return self.values.item()

    def sel(self, **where: Any) -> NamedArray:
        """The part at some coordinates, e.g. `sel(layer=20, position="[s2]")`.

        A position is selected by its token, by its label with or without brackets, or, if a token
        occurs twice, by its index.

        Raises:
            NotFound: if there is no such dimension or coordinate.
            UsageError: if several coordinates match the label.
        """
        part = self
        for dim, label in where.items():
            if dim not in part.dims:
                raise NotFound(f"no dimension {dim!r}", f"there are: {', '.join(part.dims)}")
            part = part.isel(dim, _index_of(dim, list(part.coords[dim]), label))
        return part

    def isel(self, dim: str, index: int) -> NamedArray:
        """The part at one index of a dimension."""
        axis = self.dims.index(dim)
        values, low, high = (
            None if a is None else _take(a, index, axis) for a in (self.values, self.low, self.high)
        )
        assert values is not None
        return NamedArray(
            values,
            self.dims[:axis] + self.dims[axis + 1 :],
            {k: v for k, v in self.coords.items() if k != dim},
            low,
            high,
            self.name,
        )

    def transpose(self, *dims: str) -> NamedArray:
        """The same array with its dimensions in this order."""
        order = [self.dims.index(dim) for dim in dims]
        low, high = (None if end is None else end.transpose(order) for end in (self.low, self.high))
        return NamedArray(self.values.transpose(order), dims, self.coords, low, high, self.name)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per cell: a column per dimension, `value`, and `low`/`high` if present."""
        pandas = import_pandas()
        axes = [list(self.coords[d]) for d in self.dims]
        grid = np.indices(self.values.shape).reshape(len(self.dims), self.values.size)
        columns: dict[str, Any] = {
            dim: [axes[i][j] for j in grid[i]] for i, dim in enumerate(self.dims)
        }
        if "position" in self.dims:  # a token may occur twice; the index distinguishes them
            columns["position_index"] = grid[self.dims.index("position")]
        columns["value"] = self.values.reshape(-1)
        if self.low is not None and self.high is not None:
            columns["low"], columns["high"] = self.low.reshape(-1), self.high.reshape(-1)
        return pandas.DataFrame(columns)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{d}: {n}" for d, n in zip(self.dims, self.shape, strict=True))
        return f"<{self.name} ({sizes})>\n{self.values!r}"


def _take(values: np.ndarray, index: int, axis: int) -> np.ndarray:
    """The part at an index of an axis; a single text or JSON value stays wrapped in an array."""
    if values.dtype.kind != "O":
        return np.take(values, index, axis)
    part = np.moveaxis(values, axis, 0)[index : index + 1 or None]
    return part.reshape(part.shape[1:])


def import_pandas() -> Any:
    """Import pandas, an optional dependency.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UsageError(
            "to_pandas() needs pandas, which is not installed", "pip install 'remote_mi[pandas]'"
        ) from None
    return pandas


def _index_of(dim: str, labels: list[Any], wanted: Any) -> int:
    """Index of a coordinate; see `NamedArray.sel`."""
    if isinstance(wanted, int) and wanted not in labels and 0 <= wanted < len(labels):
        return wanted
    found = [i for i, label in enumerate(labels) if label in (wanted, f"[{wanted}]")]
    if not found:
        raise NotFound(f"no {dim} {wanted!r}", f"there are: {labels}")
    if len(found) > 1:
        raise UsageError(f"{dim} {wanted!r} occurs {len(found)} times", f"give an index: {found}")
    return found[0]

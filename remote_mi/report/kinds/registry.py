"""The kind for each class of figures."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.recipes.figures import Bars, Figure, Heatmap, Lines, Table, Text, TokenGrid
from remote_mi.report.kinds.kind import Kind, Layout
from remote_mi.report.wording import Slice
from remote_mi.store.result import Result

#: Class of figures → its kind, or its path: the package's own are imported when first shown.
_KINDS: dict[type[Figure], Kind[Any, Any] | str] = {
    Heatmap: "remote_mi.report.kinds.heatmap:HeatmapKind",
    TokenGrid: "remote_mi.report.kinds.token_grid:TokenGridKind",
    Bars: "remote_mi.report.kinds.bars:BarsKind",
    Table: "remote_mi.report.kinds.table:TableKind",
    Lines: "remote_mi.report.kinds.lines:LinesKind",
    Text: "remote_mi.report.kinds.texts:TextKind",
}


def register(figure: type[Figure], kind: Kind[Any, Any]) -> None:
    """Register the kind that shows figures of a class and of its subclasses.

    Raises:
        TypeError: if `figure` is not a class of figures, or `kind` not a kind.
    """
    if not (isinstance(figure, type) and issubclass(figure, Figure)):
        raise TypeError(f"{figure!r} is not a class of figures")
    if not isinstance(kind, Kind):
        raise TypeError(f"{kind!r} is not a kind of figure; pass an instance, not the class")
    _KINDS[figure] = kind


def kinds() -> dict[type[Figure], Kind[Any, Any]]:
    """Each class of figures that can be shown, and its kind."""
    return {figure: _kind(figure) for figure in _KINDS}


def _kind(figure: type[Figure]) -> Kind[Any, Any]:
    found = _KINDS[figure]
    if isinstance(found, str):
        module, _, name = found.partition(":")
        found = _KINDS[figure] = getattr(import_module(module), name)()
    return found


def kind_of(figure: Figure) -> Kind[Any, Any]:
    """The kind of a figure.

    Raises:
        UsageError: if none is registered for its class.
    """
    for base in type(figure).__mro__:
        if base in _KINDS:
            return _kind(base)
    raise UsageError(
        f"there is nothing to show a figure of kind {figure.kind!r} with",
        f"register(…) a kind for {type(figure).__name__}; see docs/extending.md",
    )


def lay_out(figure: Figure, result: Result, slice_: Slice) -> tuple[Kind[Any, Any], Layout]:
    """The kind of a figure, and its layout for a result.

    Raises:
        NotFound, UsageError: if the result lacks what the figure shows, or the slice.
    """
    kind = kind_of(figure)
    return kind, kind.layout(figure, result, slice_)

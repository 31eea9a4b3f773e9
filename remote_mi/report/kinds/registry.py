"""The kind for each class of figures."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from remote_mi.common.authors_code import contained, describe_error
from remote_mi.common.errors import RemoteMIError, UsageError, line_number_in
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
    _guard(kind, figure.kind)
    _KINDS[figure] = kind


def _guard(kind: Kind[Any, Any], name: str) -> None:
    """Make whatever a kind's methods raise an error that names the line of its author's file.

    What a method yields is made at once: by then, nobody would guard it.
    """
    for method, _ in inspect.getmembers(Kind, inspect.isfunction):
        if not method.startswith("_"):
            setattr(kind, method, _guarded(kind, name, method))


def _guarded(kind: Kind[Any, Any], name: str, method: str) -> Callable[..., Any]:
    own = getattr(type(kind), method).__get__(kind)

    @functools.wraps(own)
    def call(*args: Any, **options: Any) -> Any:
        try:
            with contained():
                found = own(*args, **options)
                return iter(list(found)) if isinstance(found, Iterator) else found
        except RemoteMIError:
            raise
        except Exception as error:  # somebody's code: anything can happen
            raise failure(kind, name, method, error) from error

    return call


def failure(kind: Kind[Any, Any], name: str, method: str, error: Exception) -> UsageError:
    """What to raise for an error in the code of a kind, with its file and line.

    Args:
        name: of the kind, as in `Figure.kind`.
    """
    file = Path(inspect.getfile(type(kind)))
    return UsageError(
        f"{file}:{line_number_in(error, file)}: {method}(…) of the figure {name!r} failed: "
        f"{describe_error(error)}",
        "--debug shows the whole traceback",
    )


def is_registered(kind: Kind[Any, Any]) -> bool:
    """Whether a kind is somebody's own, so that whatever it raises is an error of its author."""
    return "layout" in vars(kind)  # see `_guard`


def kinds() -> dict[type[Figure], Kind[Any, Any]]:
    """Each class of figures that can be shown, and its kind."""
    return {figure: _kind(figure) for figure in _KINDS}


def _kind(figure: type[Figure]) -> Kind[Any, Any]:
    found = _KINDS[figure]
    if isinstance(found, str):
        found = _KINDS[figure] = resolve_name(found)()
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

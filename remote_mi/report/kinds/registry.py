"""Which kind each class of figures is of: the one place that knows them all."""

from __future__ import annotations

from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.recipes.figures import Bars, Figure, Heatmap, Lines, Table, Text, TokenGrid
from remote_mi.report.kinds.bars import BarsKind
from remote_mi.report.kinds.heatmap import HeatmapKind
from remote_mi.report.kinds.kind import Kind, Layout
from remote_mi.report.kinds.lines import LinesKind
from remote_mi.report.kinds.table import TableKind
from remote_mi.report.kinds.texts import TextKind
from remote_mi.report.kinds.token_grid import TokenGridKind
from remote_mi.report.wording import Slice
from remote_mi.store.result import Result

KINDS: dict[type[Figure], Kind[Any, Any]] = {
    Heatmap: HeatmapKind(),
    TokenGrid: TokenGridKind(),
    Bars: BarsKind(),
    Table: TableKind(),
    Lines: LinesKind(),
    Text: TextKind(),
}


def register(figure: type[Figure], kind: Kind[Any, Any]) -> None:
    """Show figures of a class, and of those derived from it, so from now on.

    Raises:
        TypeError: if that is no class of figures, or no kind.
    """
    if not (isinstance(figure, type) and issubclass(figure, Figure)):
        raise TypeError(f"{figure!r} is no class of figures")
    if not isinstance(kind, Kind):
        raise TypeError(f"{kind!r} is no kind of figure; is it a class that was not called?")
    KINDS[figure] = kind


def kind_of(figure: Figure) -> Kind[Any, Any]:
    """The kind of a figure.

    Raises:
        UsageError: if none is registered for its class.
    """
    for base in type(figure).__mro__:
        if base in KINDS:
            return KINDS[base]
    raise UsageError(
        f"nothing shows a figure of the kind {figure.kind!r}",
        f"register(…) one for {type(figure).__name__}; see docs/extending.md",
    )


def laid_out(figure: Figure, result: Result, slice_: Slice) -> tuple[Kind[Any, Any], Layout]:
    """The kind of a figure, and what the figure shows of a result.

    Raises:
        NotFound, UsageError: if the result has not what the figure shows, or not the slice.
    """
    kind = kind_of(figure)
    return kind, kind.layout(figure, result, slice_)

"""Figure specifications. They are data only; `remote_mi.report` renders them.

A recipe declares its figures in its decorator, each naming one of its outputs:

    figures=[Heatmap("recovery", center=0)]

The same specification is used for the terminal, notebooks, HTML and image files. A figure class is
registered by its `kind` as soon as it is created, in any module; docs/extending.md has an example.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from remote_mi.common.annotated_types import field_problem
from remote_mi.common.errors import UsageError
from remote_mi.recipes.figure_files import FOLDER, import_kind

#: Kind → figure class.
KINDS: dict[str, type[Figure]] = {}
#: Kind → file and name of its class.
_HOMES: dict[str, tuple[str, str]] = {}


def _register(cls: type[Figure], kind: str) -> None:
    """Register a class by its kind; if its file is read again, the new class replaces the old."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__
    home, known = (file, cls.__qualname__), _HOMES.get(kind)
    folders = {Path(file).parent.name, Path(known[0]).parent.name} if known else set()
    if known and known != home and folders != {FOLDER}:  # that would be another project's
        raise UsageError(
            f"two figure classes have the kind {kind!r}: {known[1]} in {known[0]}, and "
            f"{home[1]} in {home[0]}",
            "give one of them another kind",
        )
    KINDS[kind], _HOMES[kind] = cls, home


@dataclass(frozen=True)
class Figure:
    """Base of all figures.

    Attributes:
        output: name of the output or summary to show.
        title: heading; by default the output's name.
        unit: unit of the values, e.g. "nats"; shown next to the title.
    """

    kind: ClassVar[str] = "figure"
    #: The minimum number of dimensions of the output.
    least: ClassVar[int] = 0
    output: str
    title: str = ""
    unit: str = ""

    def __init_subclass__(cls, **options: Any) -> None:
        """Register a class by its kind; a class without its own kind is shown like its parent.

        Raises:
            UsageError: if another class has the same kind.
        """
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            _register(cls, cls.kind)

    @property
    def name(self) -> str:
        """The heading, and the name by which `--only` picks the figure."""
        return self.title or self.output

    def shows(self, dims: Sequence[str]) -> tuple[str, ...]:
        """The dimensions of an output that are shown in full; the others are sliced."""
        return tuple(dims)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into an equal figure."""
        return {"figure": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Heatmap(Figure):
    """A matrix over two dimensions, rows × columns.

    Attributes:
        rows, columns: names of the dimensions; by default the output's last two.
        center: value of the neutral colour of a diverging map; None for a sequential map.
    """

    kind: ClassVar[str] = "heatmap"
    least: ClassVar[int] = 2
    rows: str = ""
    columns: str = ""
    center: float | None = None

    def shows(self, dims: Sequence[str]) -> tuple[str, str]:
        columns = self.columns or next((d for d in reversed(dims) if d != self.rows), "")
        return (self.rows or next((d for d in reversed(dims) if d != columns), ""), columns)


@dataclass(frozen=True)
class TokenGrid(Figure):
    """Token texts over rows × columns, each cell coloured by a second output.

    Attributes:
        output: an output of token ids; the first entry of its last dimension is shown.
        shade: the output (same leading dimensions, values in [0, 1]) that colours a cell.
    """

    kind: ClassVar[str] = "token_grid"
    shade: str = ""


@dataclass(frozen=True)
class Bars(Figure):
    """The cells of largest absolute value, ranked, with intervals if there are any.

    Neighbouring layers of one column that belong together are one bar, at the largest of them.

    Attributes:
        most: maximum number of bars.
    """

    kind: ClassVar[str] = "bars"
    most: int = 8

    @property
    def name(self) -> str:
        return self.title or f"largest {self.output}"


@dataclass(frozen=True)
class Table(Figure):
    """One row per pair (or prompt): its text and the scalar or token outputs named.

    Attributes:
        columns: names of further outputs shown next to `output`.
    """

    kind: ClassVar[str] = "table"
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lines(Figure):
    """Values along one dimension, one line for each index of the last of the other dimensions.

    The control of the output, if it has one, is drawn too.

    Attributes:
        x: name of the dimension on the horizontal axis; by default the last one.
    """

    kind: ClassVar[str] = "lines"
    least: ClassVar[int] = 1
    x: str = ""

    def shows(self, dims: Sequence[str]) -> tuple[str, ...]:
        x = self.x or dims[-1]
        return (*[d for d in dims if d != x][-1:], x)


@dataclass(frozen=True)
class Text(Figure):
    """Rows of token ids as text, one line for each index of the dimensions before the last.

    Attributes:
        output: an output of token ids.
    """

    kind: ClassVar[str] = "text"


def from_json(data: dict[str, Any]) -> Figure:
    """Read back a figure written by `Figure.to_json`.

    Fields unknown to this version are ignored, so that runs of newer versions can be shown.

    Raises:
        KeyError: if the kind of figure is unknown. TypeError: if a field is missing or wrong.
    """
    kind = KINDS[data["figure"]]
    known = {f.name for f in fields(kind)}
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in known
    }
    figure = kind(**values)
    if problem := field_problem(figure):
        raise TypeError(problem)
    return figure


def figures_from_json(data: Sequence[dict[str, Any]]) -> list[Figure]:
    """Read back the figures of a card stored with a run, leaving out unknown kinds.

    Raises:
        UsageError: if the file that defines one cannot be imported. KeyError, TypeError: as
            `from_json`.
    """
    found = []
    for item in data:
        if not isinstance(item["figure"], str):
            raise TypeError(f"{item['figure']!r:.60} is not the name of a kind of figure")
        if item["figure"] not in KINDS:
            import_kind(item["figure"])
        if item["figure"] in KINDS:
            found.append(from_json(item))
    return found

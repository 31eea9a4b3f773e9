"""What can be shown: figure specifications. Data only; `remote_mi.report` renders them.

A recipe declares its figures in its decorator, each naming one of its outputs:

    figures=[Heatmap("recovery", center=0)]

The same specification serves the terminal, notebooks, HTML and image files. A class of figures is
known by its `kind` as soon as it exists, wherever it stands; docs/extending.md writes one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from remote_mi.common.errors import UsageError
from remote_mi.recipes.figure_files import FOLDER, import_kind

#: Kind → class of every figure that there is.
KINDS: dict[str, type[Figure]] = {}
#: Kind → the file and the name of that class.
_HOMES: dict[str, tuple[str, str]] = {}


def _register(cls: type[Figure], kind: str) -> None:
    """Make a class known by its kind; read again, it takes the place of what it was."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__
    home, known = (file, cls.__qualname__), _HOMES.get(kind)
    folders = {Path(file).parent.name, Path(known[0]).parent.name} if known else set()
    if known and known != home and folders != {FOLDER}:  # that would be another project's
        raise UsageError(
            f"two classes of figures are of the kind {kind!r}: {known[1]} of {known[0]}, and "
            f"{home[1]} of {home[0]}",
            "give one of them another kind",
        )
    KINDS[kind], _HOMES[kind] = cls, home


@dataclass(frozen=True)
class Figure:
    """Base of all figures.

    Attributes:
        output: name of the output, or of the summary, that is shown.
        title: heading; the output's name when empty.
        unit: what one unit of the values is, e.g. "nats"; shown beside the title.
    """

    kind: ClassVar[str] = "figure"
    #: How many dimensions the output must have.
    least: ClassVar[int] = 0
    output: str
    title: str = ""
    unit: str = ""

    def __init_subclass__(cls, **options: Any) -> None:
        """Make a class known by its kind; without one of its own it is shown as its parent.

        Raises:
            UsageError: if another class has that kind.
        """
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            _register(cls, cls.kind)

    @property
    def name(self) -> str:
        """The heading, and the name by which `--only` picks the figure."""
        return self.title or self.output

    def shows(self, dims: Sequence[str]) -> tuple[str, ...]:
        """Of an output's dimensions those that are shown in full; the others are cut."""
        return tuple(dims)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into an equal figure."""
        return {"figure": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Heatmap(Figure):
    """A matrix of two dimensions, rows × columns.

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
    """Token text over rows × columns, each cell coloured by a second output.

    Attributes:
        output: an output of token ids; the first entry of its last dimension is shown.
        shade: the output (same leading dimensions, values in [0, 1]) that colours a cell.
    """

    kind: ClassVar[str] = "token_grid"
    shade: str = ""


@dataclass(frozen=True)
class Bars(Figure):
    """The cells of largest absolute value, ranked, with their intervals where there are any.

    Attributes:
        most: how many bars.
    """

    kind: ClassVar[str] = "bars"
    most: int = 8

    @property
    def name(self) -> str:
        return self.title or f"largest {self.output}"


@dataclass(frozen=True)
class Table(Figure):
    """One row a pair (or prompt): its text and the scalar or token outputs named.

    Attributes:
        columns: names of further outputs shown beside `output`.
    """

    kind: ClassVar[str] = "table"
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lines(Figure):
    """Values along one dimension, one line for each index of the last of the others.

    The control of the output, where it has one, is drawn too.

    Attributes:
        x: name of the dimension along which the lines go; by default the last one.
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
    """The figure that `Figure.to_json` wrote.

    Fields this version does not know are left out, so that a run of a newer version shows.

    Raises:
        KeyError: if the kind of figure is unknown.
    """
    kind = KINDS[data["figure"]]
    known = {f.name for f in fields(kind)}
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in known
    }
    return kind(**values)


def figures_from_json(data: Sequence[dict[str, Any]]) -> list[Figure]:
    """The figures of a card that a run keeps, read back; kinds that nothing declares are left out.

    Raises:
        UsageError: if the file that declares one cannot be imported.
    """
    found = []
    for item in data:
        if item["figure"] not in KINDS:
            import_kind(item["figure"])
        if item["figure"] in KINDS:
            found.append(from_json(item))
    return found

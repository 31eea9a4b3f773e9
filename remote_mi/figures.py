"""What can be shown: figure specifications. Data only; `remote_mi.report` renders them.

A recipe declares its figures in its decorator, each naming one of its outputs:

    figures=[Heatmap("recovery", center=0)]

The same specification serves the terminal, notebooks, and later HTML and image files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True)
class Figure:
    """Base of all figures.

    Attributes:
        output: name of the output, or of the summary, that is shown.
        title: heading; the output's name when empty.
        unit: what one unit of the values is, e.g. "nats"; shown beside the title.
    """

    kind: ClassVar[str] = "figure"
    output: str
    title: str = ""
    unit: str = ""

    @property
    def name(self) -> str:
        """The heading, and the name by which `--only` picks the figure."""
        return self.title or self.output

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
    rows: str = ""
    columns: str = ""
    center: float | None = None


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
    """Values over the last dimension, one line for each index of the dimension before it.

    The control of the output, where it has one, is drawn too.
    """

    kind: ClassVar[str] = "lines"


@dataclass(frozen=True)
class Text(Figure):
    """Rows of token ids as text, one line for each index of the dimensions before the last.

    Attributes:
        output: an output of token ids.
    """

    kind: ClassVar[str] = "text"


KINDS: dict[str, type[Figure]] = {c.kind: c for c in (Heatmap, TokenGrid, Bars, Table, Lines, Text)}


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

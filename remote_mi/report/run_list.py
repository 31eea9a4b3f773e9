"""The runs of a project as a list, for a terminal and for a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from remote_mi.common.paths import project_folder
from remote_mi.common.text import counted, line
from remote_mi.store.run_index import DAMAGED, RunRow
from remote_mi.store.runs import Runs

_COLUMNS = ("run", "when", "status", "recipe", "model", "prompts", "parameters", "numbers", "tags")


class RunList(Sequence[RunRow]):
    """The runs of a project, oldest first; in a notebook it displays itself.

    `runs()[-1].id8` is the id of the newest; a slice (`runs()[-5:]`) is again a `RunList`.
    """

    def __init__(self, rows: Sequence[RunRow]) -> None:
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> RunRow: ...
    @overload
    def __getitem__(self, index: slice) -> RunList: ...
    def __getitem__(self, index: int | slice) -> RunRow | RunList:
        return RunList(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __repr__(self) -> str:
        return "\n".join(map(row_text, self._rows)) or "<no runs>"

    def _repr_html_(self) -> str:
        from remote_mi.report.notebook import table_html

        title = counted(len(self), "run")
        return table_html(title, _COLUMNS, [_cells(row) for row in self._rows])


def runs(tag: str | None = None, project: str | Path | None = None) -> RunList:
    """The runs of a project, as `remote-mi runs ls` lists them; no arrays are read.

    Args:
        tag: only runs with this tag.
        project: folder that holds runs/; the working folder by default.
    """
    rows = Runs(Path(project).absolute() if project else project_folder()).rows()
    return RunList([row for row in rows if tag is None or tag in row.tags])


def row_text(row: RunRow) -> str:
    """A run as one line."""
    prompts = "?" if row.status == DAMAGED else row.prompts
    tags = "".join(f"  #{tag}" for tag in row.tags)
    text = (
        f"{row.id8}  {row.name[:16]}  {row.status:7}  {row.recipe}  {row.model}  {prompts}"
        f"  {_pairs(row.parameters)}"
    ).rstrip()
    return line(text + tags)


def _cells(row: RunRow) -> list[str]:
    if row.status == DAMAGED:
        return [row.id8, row.name[:16], row.status, row.problem or "", *[""] * 5]
    numbers = _pairs({name: f"{value:.3g}" for name, value in row.scalars.items()})
    return [
        row.id8,
        row.name[:16],
        row.status,
        row.recipe,
        row.model,
        row.prompts or "",
        _pairs(row.parameters),
        numbers,
        " ".join(f"#{tag}" for tag in row.tags),
    ]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())

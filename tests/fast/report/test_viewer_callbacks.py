"""What a project's kind of figure gives the viewer to call may fail: it is said, and all goes on."""

from __future__ import annotations

from .shown import kept, result
from .viewing import driven, until, whole

MAP = '''"""A map with cells that cannot be drawn, and one that cannot be explained."""

import sys
from dataclasses import dataclass, replace
from typing import ClassVar

from remote_mi.recipes.figures import Heatmap
from remote_mi.report.kinds.heatmap import HeatmapKind
from remote_mi.report.kinds.registry import register


@dataclass(frozen=True)
class Failing(Heatmap):
    kind: ClassVar[str] = "failing"


class FailingKind(HeatmapKind):
    def cell_map(self, layout, palette):
        made = super().cell_map(layout, palette)

        def cell(row, column, width):
            if column == 1:
                return 1 / (row - row)
            return made.grid.cell(row, column, width)

        def explain(row, column):
            if column == 2:
                sys.exit()
            return made.explain(row, column)

        return replace(made, grid=replace(made.grid, cell=cell), explain=explain, start=(3, 0))


register(Failing, FailingKind())
'''

LIST = '''"""A list with lines that cannot be drawn, of which nothing can be said."""

from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text

from remote_mi.recipes.figures import Figure
from remote_mi.report.kinds.kind import Kind
from remote_mi.report.kinds.registry import register
from remote_mi.report.listing import Listing


@dataclass(frozen=True)
class Listed(Figure):
    kind: ClassVar[str] = "failing_list"


class ListedKind(Kind):
    def layout(self, figure, result, slice_):
        return None

    def text(self, layout, width):
        yield Text("as text")

    def sentences(self, layout):
        yield "A sentence."

    def listing(self, layout, width, height, at=None):
        def item(index):
            raise KeyError(index)

        return Listing(3, lambda index: [Text("first line")][index], item)


register(Listed, ListedKind())
'''


def at(file: str, text: str) -> int:
    """The line of a file that holds a text."""
    return next(i for i, row in enumerate(file.splitlines(), 1) if text in row)


def run_with(project, figure: str, file: str):
    """The folder of a run that shows a kind of figure of the project."""
    (project / "figures").mkdir()
    (project / "figures" / f"{figure}.py").write_text(file)
    found = result()
    found.recipe = {**found.recipe, "figures": [{"figure": figure, "output": "effect"}]}
    folder = kept(project, found).path
    assert folder is not None
    return folder


def test_a_cell_that_cannot_be_drawn_or_explained_says_why(project):
    async def drive(app, pilot):
        drawn = whole(app, 200)
        assert " !" in drawn and "layer 3" in drawn, drawn
        await pilot.press("right")
        await until(pilot, lambda: "ZeroDivisionError" in whole(app, 200))
        said = f"failing.py:{at(MAP, '1 / (row')}: cell_map(…) of the figure 'failing' failed:"
        assert said in whole(app, 200), whole(app, 200)
        await pilot.press("right")
        await until(pilot, lambda: "sys.exit() would end" in whole(app, 200))
        await pilot.press("right")
        await until(pilot, lambda: "failed" not in whole(app, 200))
        assert "layer 3" in whole(app, 200)

    driven(run_with(project, "failing", MAP), project, drive, (200, 30))


def test_a_line_that_cannot_be_drawn_says_why_and_the_others_are_searched(project):
    async def drive(app, pilot):
        drawn = whole(app, 200)
        assert "first line" in drawn and "KeyError: 0" in drawn
        line = at(LIST, '[Text("first line")][index]')
        said = f"failing_list.py:{line}: listing(…) of the figure 'failing_list' failed: IndexError"
        assert drawn.count(said) == 2, drawn
        await pilot.press("slash", *"first", "enter")
        await pilot.press("down")
        await until(pilot, lambda: "KeyError: 1" in whole(app, 200))

    driven(run_with(project, "failing_list", LIST), project, drive, (200, 30))

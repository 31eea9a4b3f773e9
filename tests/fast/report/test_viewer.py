"""The full-screen viewer: its keys, its mouse, and what stands on the screen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from textual import events

from remote_mi.report.viewer import keys
from remote_mi.report.viewer.app import Viewer
from remote_mi.report.viewer.demo import demo_run
from remote_mi.report.viewer.header_footer import DARK, screen_text
from remote_mi.report.viewer.panes import GridPane, ListPane
from remote_mi.store.opening import sibling_runs

from .viewing import HOSTILE, LAYERS, driven, kept, result_of, says, settled, until, whole


@pytest.mark.parametrize(
    "width",
    [80, *(pytest.param(width, marks=pytest.mark.slow) for width in (60, 120, 200, 300))],
)
def test_every_key_of_the_help_page_does_what_it_says(project, width):
    folder = kept(project, result_of(["The", " cat", " sat", " down", " on", " it"], prompts=3))
    pressed = set()

    async def drive(app: Viewer, pilot) -> None:
        grid, listed = app.query_one(GridPane), app.query_one(ListPane)

        async def press(*names: str) -> str:
            pressed.update(names)
            await pilot.press(*names)
            await pilot.pause()
            return whole(app, width)

        # Moving in the heatmap.
        text = await press("ctrl+home")
        assert (grid.row, grid.column) == (LAYERS - 1, 0), "highest layer on top"
        assert "remote-mi  everything" in text and "layer 5 · position 0 The" in text
        await press("down", "right")
        assert (grid.row, grid.column) == (LAYERS - 2, 1)
        await press("up", "left")
        assert (grid.row, grid.column) == (LAYERS - 1, 0)
        await press("end")
        assert grid.column == 5
        await press("home")
        assert grid.column == 0
        await press("pagedown")
        assert grid.row == 0
        await press("pageup")
        assert grid.row == LAYERS - 1
        await press("ctrl+end")
        assert (grid.row, grid.column) == (0, 5)
        effect = np.abs(app.opened.result["recovery"].values)
        order = np.argsort(-effect, axis=None)
        places = [divmod(int(i), 6) for i in order]
        await press("g")
        assert (grid.row, grid.column) == places[0], "the largest effect"
        await press("g")
        assert (grid.row, grid.column) == places[1], "the next largest"
        await press("G")
        assert (grid.row, grid.column) == places[0]
        # Finding.
        await press("slash")
        await press("s", "a", "t", "enter")
        assert grid.column == 2
        await press("slash")
        await press("t", "enter")
        first = grid.column
        await press("n")
        second = grid.column
        assert {first, second} == {0, 2} or first != second
        await press("N")
        assert grid.column == first
        # Metric, slices, zoom.
        assert re.search(r"recovery.*effect", await press("m")), "the title says what is shown"
        assert app.panel.output == "effect"
        await press("M")
        assert app.panel.output == "recovery"
        await press("p")
        assert app.panel.slice_.pair == 0
        own = app.opened.result.each("effect")[0].values / 2.0
        assert np.allclose(grid.map.array.values, own), "a pair's own ratio"
        await press("P")
        assert app.panel.slice_.pair is None
        await press("z")
        await press("2", "minus", "4", "enter")
        assert grid.rows == [4, 3, 2]
        await press("z")
        await press("enter")
        assert len(grid.rows) == LAYERS
        # Panels.
        assert "[2 top]" in await press("tab")
        await press("shift+tab")
        assert app.at == 0
        await press("3")
        assert app.panel.title == "pattern"
        await press("l", "c")
        assert app.panel.slice_.at == {"layer": 1, "head": 1}
        assert "layer 1, head 1" in screen_text(app)
        await press("L", "C")
        assert app.panel.slice_.at == {"layer": 0, "head": 0}
        await press("5")
        assert listed.display and "at seed 7" in screen_text(app)
        await press("s")
        assert app.panel.slice_.at == {"seed": 8}
        await press("S")
        assert app.panel.slice_.at == {"seed": 7}
        for number in "1246789":
            await press(number)
            assert app.at == int(number) - 1
        # Runs: mark, open, compare.
        while app.panel.title != "Runs":
            await press("tab")
        await settled(app, pilot)
        assert folder.name[-8:] in whole(app, width)
        await press("x")
        assert app.runs.marked == [folder]
        await press("space")
        assert app.runs.marked == []
        await press("r", "enter")
        assert app.at == 0 and app.opened.folder == folder
        other = kept(project, result_of(["The", " cat", " sat", " down", " on", " it"], prompts=3))
        app.runs.marked[:] = [folder, other]
        await press("equals_sign")
        await settled(app, pilot)
        assert "configuration" in whole(app, width) and "nothing differs" in screen_text(app)
        # Taking along.
        await press("1", "y")
        assert "recovery" in app.clipboard and "95% CI" in app.clipboard
        await press("Y")
        assert app.clipboard.startswith("remote-mi reproduce"), "the lock of this run is empty"
        await press("e")
        picture, said = sorted((project / "exports").iterdir())
        assert "<svg" in picture.read_text() and "http" not in picture.read_text().replace(
            "http://www.w3.org", ""
        )
        assert "recovery" in said.read_text()
        await press("w")
        await says(pilot, "Largest recovery")
        await press("escape")
        await says(pilot, "[1 [red]recovery")
        # The viewer itself.
        await press("d")
        assert app.theme != DARK
        await press("d")
        await press("question_mark")
        await says(pilot, "a screen up")
        await press("escape")
        await says(pilot, "[1 [red]recovery")
        await press("ctrl+p")
        await says(pilot, "Search for commands")
        await pilot.press(*"dark or")
        await says(pilot, "Dark or light")
        await pilot.press("enter")
        await until(pilot, lambda: app.theme != DARK and len(app.screen_stack) == 1)
        await press("slash")
        await press("escape")
        assert not app.query_one("#ask").display
        await press("q")
        assert app._exit

    driven(folder, project, drive, (width, 24))
    named = {name for key in keys.ALL for name in key.keys.split(",")}
    assert named - {"ctrl+c"} <= pressed, named - pressed


@pytest.mark.parametrize("before", [[], ["slash"], ["question_mark"], ["ctrl+p"]])
def test_ctrl_c_leaves_from_anywhere_and_says_so_in_the_exit_code(before):
    async def drive(app: Viewer, pilot) -> None:
        await pilot.press(*before)
        await pilot.press("ctrl+c")
        await until(pilot, lambda: app._exit)
        assert app.return_code == 130

    driven(demo_run(), Path("/nowhere"), drive)


def test_every_command_of_the_palette_has_a_name_of_its_own():
    app = Viewer(demo_run(), Path("/nowhere"), sibling_runs(demo_run()))
    names = [command.title for command in app.get_system_commands(None)]  # type: ignore[arg-type]
    assert len(names) == len(set(names)) == len(keys.ALL) - 2 + len(app.panels), "keys and panels"


def test_the_numbers_on_screen_are_those_of_the_arrays():
    folder = demo_run()

    async def drive(app: Viewer, pilot) -> None:
        await pilot.press("ctrl+home")
        values = app.opened.result["recovery"].values
        lines = [x for x in screen_text(app).splitlines() if re.match(r"\s+\d+ [│▸]", x)]
        assert len(lines) == values.shape[0] == 30
        for line in lines:
            head, _, cells = line.replace("▸", "│", 1).partition("│ ")
            found = re.findall(r"[·░▒▓█~](-?\d*\.?\d+)", cells.replace("◂", " "))
            row = values[int(head)]
            assert len(found) == len(row)
            assert [float(x) for x in found] == pytest.approx(list(row), abs=0.051)

    driven(folder, Path("/nowhere"), drive, (120, 45))


def test_hostile_tokens_neither_break_the_screen_nor_reach_the_terminal(project):
    folder = kept(project, result_of(HOSTILE))

    async def drive(app: Viewer, pilot) -> None:
        for _ in app.panels:
            for key in ("end", "g", "w", "escape", "down", "y"):
                await pilot.press(key)
                await pilot.pause()
                text = whole(app, 70)
            await settled(app, pilot)
            assert "[red]recovery[/red]" in text or app.at > 0, "markup is text"
            await pilot.press("tab")
        await pilot.press("1", "ctrl+home", "right", "Y")
        assert "[bold]m" in whole(app, 70)
        assert "漢字" in screen_text(app)

    driven(folder, project, drive, (70, 24))


def test_the_mouse_moves_the_cursor_picks_panels_and_opens_runs(project):
    folder = kept(project, result_of([f" w{i}" for i in range(40)]))

    async def drive(app: Viewer, pilot) -> None:
        grid = app.query_one(GridPane)
        await pilot.press("ctrl+home")
        await pilot.click(GridPane, offset=(20, 3))
        assert grid.row == LAYERS - 3
        axis = screen_text(app).splitlines()[5]
        label = grid.map.grid.column_labels[grid.column]
        start = axis.index(label)
        assert start <= 20 < start + grid._pitch, axis
        grid.post_message(events.MouseScrollRight(grid, 20, 3, 0, 0, 0, False, False, False))
        await until(pilot, lambda: grid.scroll_offset.x > 0)
        assert "layer" in whole(app, 80).splitlines()[5], "the axis stays"
        await pilot.click("#panels", offset=(29, 0))
        await until(pilot, lambda: app.at == 1)
        await pilot.press("8")
        await says(pilot, "time (UTC)")
        await settled(app, pilot)
        await pilot.click(ListPane, offset=(5, 1), times=2)
        await until(pilot, lambda: app.at == 0)  # a second click opens the run

    driven(folder, project, drive)


def test_without_colours_the_screen_says_the_same(project, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    folder = demo_run()

    async def drive(app: Viewer, pilot) -> None:
        assert app.no_color
        text = whole(app, 80)
        assert re.search(r"19 ▸.*█1\.0◂", text), "cursor, ramp and number without a colour"
        styles = {
            s.style.color.get_truecolor()
            for strip in app.screen._compositor.render_strips()
            for f in [
                strip.apply_filter(
                    app._filters[0], app.get_css_variables and app.screen.styles.background
                )
            ]
            for s in f
            if s.style and s.style.color
        }
        assert all(len(set(color)) == 1 for color in styles), "greys only"

    driven(folder, project, drive)


def test_the_page_about_the_viewer_names_every_key_of_the_help_page():
    page = (Path(__file__).parents[3] / "docs" / "viewer.md").read_text()
    missing = [
        name for key in keys.ALL for name in key.label.split("  ") if f"`{name}`" not in page
    ]
    assert not missing
    for _, section in keys.SECTIONS:
        assert all(len(key.text) <= 38 for key in section), "one line each on 60 columns"

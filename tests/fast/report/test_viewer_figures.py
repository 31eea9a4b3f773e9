"""Each kind of figure in the viewer: what is read off it, and what the cursor says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from rich.style import Style

from remote_mi import Bars, Heatmap, Lines, Text
from remote_mi.recipes.card import Card
from remote_mi.recipes.outputs import Output, Ratio, Tokens
from remote_mi.report.terminal import plain_text
from remote_mi.report.viewer.app import Viewer
from remote_mi.report.viewer.demo import demo_run
from remote_mi.report.viewer.finding import parse_rows
from remote_mi.report.viewer.header_footer import screen_text
from remote_mi.report.viewer.panes import GridPane, ListPane
from remote_mi.store.result import Result

from .viewing import driven, kept, result_of, until, whole

DOSES = [-2.0, -1.0, 0.0, 1.0, 2.0]
CARD = Card(
    "dosing",
    "pair",
    {
        "effect": Output(("layer", "coefficient")),
        "random": Output(("layer", "coefficient", "draw")),
        "gap": Output(()),
        "plain": Tokens("step"),
        "steered": Tokens("coefficient", "step"),
    },
    {"recovery": Ratio("effect", "gap"), "random_recovery": Ratio("random", "gap")},
    (
        Lines("recovery"),
        Bars("recovery"),
        Text("plain", title="text before"),
        Text("steered", title="text after"),
        Heatmap("effect", center=0),
    ),
    controls={"effect": "random", "recovery": "random_recovery"},
)


def dosing(lines: int = 3, pairs: int = 2) -> Result:
    """A result of lines that rise with the dose, whose control reaches 0.2 everywhere."""
    rise = np.array([[dose * (line + 1) / 4 for dose in DOSES] for line in range(lines)])
    random = np.full((lines, len(DOSES), 2), 0.4)
    arrays = {
        "effect": rise,
        "effect:low": rise - 0.05,
        "effect:high": rise + 0.05,
        "recovery": rise / 2,
        "recovery:low": rise / 2 - 0.05,
        "recovery:high": rise / 2 + 0.05,
        "gap": np.float64(2.0),
        "random": random[..., 0],
        "random_recovery": random[..., 0] / 2,
    }
    level = np.where(np.abs(rise / 2) > 0.2, 0.01, 0.5)  # exchanged often enough, at 5%
    level = np.where(rise == 0, np.nan, level)
    arrays |= {"effect:p": level, "recovery:p": level}
    for i in range(pairs):
        arrays |= {f"effect@{i}": rise + i, f"gap@{i}": np.float64(2.0), f"random@{i}": random}
        arrays |= {
            f"plain@{i}": np.array([i, 2]),
            f"steered@{i}": np.tile(np.array([i, 3]), (len(DOSES), 1)),
        }
    cells = {"layer": list(range(lines)), "coefficient": DOSES}
    axes = dict.fromkeys(("effect", "recovery", "random_recovery"), cells)
    axes |= {
        "random": cells,
        "gap": {},
        "plain": {"step": [0, 1]},
        "steered": {"coefficient": DOSES, "step": [0, 1]},
    }
    parts = [
        {"tokens": ["a"], "labels": {}, "clean": f"prompt {i}", "corrupt": "b", "axes": axes}
        for i in range(pairs)
    ]
    words = {"0": " first", "1": " second", "2": " before", "3": " after"}
    document = {"parts": parts, "axes": axes, "notes": ["pair 1 has no gap"], "vocabulary": words}
    test = {"control": "random", "units": pairs, "draws": 9, "unit": "pair"}
    document["tests"] = {"effect": test, "recovery": {**test, "control": "random_recovery"}}
    provenance = {**result_of(["a", "b"]).provenance, "parameters": {"coefficients": DOSES}}
    return Result(CARD.to_json(), document, arrays, provenance)


def read_back(text: str) -> dict[tuple[str, int], float]:
    """(letter, number of the point) → the value that a plot shows it at, by the lines' labels."""
    rows = re.findall(r"^ *(-?[\d.]+) │ (.*)$", text, re.M)
    ticks = next(x for x in text.splitlines() if "└─" in x)
    start = ticks.index("└─") + 2
    columns = [at.start() - start for at in re.finditer("┴", ticks)]
    found = {}
    for label, field in rows:
        for column, character in enumerate(field):
            if character in "abcdefgh" and column in columns:
                found[character, columns.index(column)] = float(label)
    return found


def test_lines_stand_at_their_values_over_the_band_of_their_control(project):
    result = dosing()
    values = result["recovery"].values
    for width in (60, 80, 200):
        text = plain_text(result, width)
        plot = text[: text.index("largest:")]
        found = read_back(plot)
        assert {("c", 0), ("c", 4), ("a", 0), ("a", 4)} <= set(found)
        labels = [float(x) for x in re.findall(r"^ *(-?[\d.]+) │", plot, re.M)]
        near = (labels[0] - labels[1]) * 5 / 8  # half a line, and half a dot of four
        for (letter, point), value in found.items():
            assert value == pytest.approx(values["abc".index(letter), point], abs=near)
        band = [float(x) for x in re.findall(r"^ *(-?[\d.]+) │.*░", plot, re.M)]
        assert max(map(abs, band)) == pytest.approx(0.2), "as far as the control reaches"
        assert all(len(line) <= width for line in plot.splitlines())


def test_the_cursor_on_lines_goes_from_point_to_point_and_line_to_line(project):
    folder = kept(project, dosing(lines=11))

    async def drive(app: Viewer, pilot) -> None:
        text = whole(app, 80)
        assert "▸ layer 10 · coefficient -2.0 · recovery -2.75, 95% CI [-2.80, -2.70]" in text
        assert "lines 4 to 11 of 11" in text and "at coefficient -2.0" in text
        assert re.search(r"▸ h.layer 10 ", text), "the list below is scrolled to the line"
        await pilot.press("right", "right", "right", "up")
        text = whole(app, 80)
        assert (
            "▸ layer 9 · coefficient 1.0 · recovery 1.25" in text and "control up to 0.20" in text
        )
        await pilot.press("ctrl+home")
        assert "▸ layer 0 · coefficient -2.0 · recovery -0.25" in whole(app, 80)
        assert "lines 1 to 8" in screen_text(app)
        await pilot.press("slash", *"1.0", "enter")
        assert "▸ layer 0 · coefficient -1.0" in whole(app, 80)
        await pilot.press("n")
        assert "▸ layer 0 · coefficient 1.0" in whole(app, 80)
        await pilot.press("g", "g")
        assert "▸ layer 10 · coefficient 2.0 · recovery 2.75" in whole(app, 80)
        listed = app.query_one(ListPane)
        row = listed._line(9)
        await pilot.click(ListPane, offset=(5, row))
        await pilot.pause()
        assert "▸ layer 9 · coefficient 2.0 · recovery 2.50" in whole(app, 80)
        await pilot.press("p")
        text = whole(app, 80)
        assert (
            "prompt 1 of 2" in text and "▸ layer 9 · coefficient 2.0 · recovery 2.50\n" in text
        ), "of one pair, the value alone: interval and number are of all"
        assert "░" not in text, "nor is the control a single pair's"

    driven(folder, project, drive)


def test_bars_say_what_their_marks_mean_and_a_pair_is_shown_by_itself(project):
    folder = kept(project, dosing())

    async def drive(app: Viewer, pilot) -> None:
        await pilot.press("2")
        assert "~ 2 of 12: not distinguishable from random_recovery" in whole(app, 80)
        await pilot.press("p")
        said = whole(app, 80)
        assert "prompt 1 of 2" in said and "n=2" not in said and "control up to" not in said

    driven(folder, project, drive)


def test_texts_before_and_after_are_read_side_by_side(project):
    folder = kept(project, dosing())
    made = dosing()
    for name in ("plain", "steered"):  # by a recipe that is called once with all pairs
        made.recipe["returns"][name]["of"] = "set"
    once = kept(project, Result(made.recipe, made.document, made.arrays, made.provenance))

    async def each(app: Viewer, pilot) -> None:
        await pilot.press("3")
        text = whole(app, 80)
        assert "[3 text]" in text and text.count("prompt 1 of 2: prompt 0") == 2
        assert text.index("text before") < text.index("first before")
        assert text.index("first before") < text.index("text after")
        assert text.count("first after") >= 3
        await pilot.press("p")
        assert "second before" in whole(app, 80) and "second after" in screen_text(app)
        await pilot.press("w")
        assert {"before", "after"} <= set(re.findall(r"\w+", whole(app, 80))), "in words, too"

    async def of_all(app: Viewer, pilot) -> None:
        await pilot.press("3", "p")
        text = whole(app, 80)
        assert "first before" in text and "computed once, not for every prompt" in text

    driven(folder, project, each)
    driven(once, project, of_all)


def test_what_a_reader_has_to_know_is_in_sight(project):
    folder = kept(project, dosing())

    async def drive(app: Viewer, pilot) -> None:
        assert "1 note, in Provenance" in whole(app, 80).splitlines()[1]
        while app.panel.title != "Provenance":
            await pilot.press("tab")
        assert "pair 1 has no gap" in whole(app, 80)
        listed = app.query_one(ListPane)
        shown = {
            s.text.strip(): s.style or Style()
            for y in range(listed.size.height)
            for s in listed.render_line(y)
        }
        assert shown["Where it comes from"].bold and shown["folder"].dim, "headings stand out"

    driven(folder, project, drive)


@pytest.mark.parametrize("size", [(60, 10), (300, 70)])
def test_a_low_screen_leaves_its_lines_to_the_figure(project, size):
    folder = demo_run()

    async def drive(app: Viewer, pilot) -> None:
        text = whole(app, size[0])
        rows = re.findall(r"^ +\d+ [│▸] ", text, re.M)
        assert len(rows) >= min(30, size[1] - 8), text
        assert "▸ layer 19 · position 9 [s2] · recovery 1.02" in text and "? help" in text
        assert "recovery  layer × position" in text
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert "~ 106 of 146" in whole(app, 80), "and takes them back"

    driven(folder, Path("/nowhere"), drive, size)


def test_numbers_below_zero_keep_the_digit_that_tells_them_apart(project):
    result = dosing()
    result.arrays["effect"] = result.arrays["effect"] * 1.02  # -1.53 at most, and no control
    result.recipe = {**result.recipe, "controls": {}}
    folder = kept(project, result)

    async def drive(app: Viewer, pilot) -> None:
        await pilot.press("4")
        await pilot.press("end")
        await until(pilot, lambda: "█-1.5" in whole(app, 60))
        assert isinstance(app.pane, GridPane)

    driven(folder, project, drive, (60, 24))


def test_a_message_stands_at_the_bottom_and_hides_no_cell(project):
    folder = demo_run()

    async def drive(app: Viewer, pilot) -> None:
        await pilot.press("ctrl+home")
        await pilot.pause(0.1)
        before = whole(app, 80).splitlines()
        await pilot.press("c")
        await pilot.pause()
        after = whole(app, 80).splitlines()
        assert after[:-1] == before[:-1]
        assert "there is no head or component to choose" in after[-1]

    driven(folder, Path("/nowhere"), drive)


def test_rows_are_asked_for_by_their_names_even_below_zero():
    assert parse_rows("18-24", range(30)) == (18, 24)
    assert parse_rows("24–18", range(30)) == (18, 24)
    assert parse_rows("7", [3, 5, 7]) == (2, 2)
    assert parse_rows("-1.0", DOSES) == (1, 1)
    assert parse_rows("99", range(30)) is None

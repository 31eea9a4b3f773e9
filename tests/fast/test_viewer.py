"""The full-screen viewer, driven by keys as a person does; and what `view` prints without a screen."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from textual import events

from remote_mi.backends.ndif.ledger import Entry, Ledger
from remote_mi.figures import Bars, Heatmap, Lines, Table, Text, TokenGrid
from remote_mi.opening import runs_beside
from remote_mi.outputs import Output, Ratio, Tokens
from remote_mi.recipe import Card
from remote_mi.report.viewer import keys, opened
from remote_mi.report.viewer.app import Viewer
from remote_mi.report.viewer.chrome import DARK, screen_text
from remote_mi.report.viewer.demo import demo_run
from remote_mi.report.viewer.panes import GridPane, ListPane
from remote_mi.results import Result
from remote_mi.store.runs import RunRecord, Runs
from remote_mi.store.studies import PointRecord, StudyRecord, StudyRecords

HOSTILE = [
    "\x1b[31mred\x1b[0m\x1b]52;c;AAAA\x07", "[bold]markup[/bold][/]", "\u202egnp.evil\u202c",
    "z\u200b\u200d\u0301w", "漢字のトークン", "\r\n\t\x00\x9b2J", "$(rm -rf)`x`", "x" * 1_000_000,
]  # fmt: skip
LAYERS = 6
CARD = Card(
    "everything", "pair",
    {"effect": Output(("layer", "position")), "other": Output(("layer", "position")),
     "gap": Output(()), "top": Tokens("layer", "position", "rank"),
     "prob": Output(("layer", "position", "rank")), "said": Tokens("step"),
     "pattern": Output(("layer", "head", "query", "key")),
     "dose": Output(("seed", "head", "coefficient"))},
    {"recovery": Ratio("effect", "gap")},
    (Heatmap("recovery", title="[red]recovery[/red]", center=0), TokenGrid("top", shade="prob"),
     Heatmap("pattern", rows="query", columns="key"), Bars("effect", unit="nats"),
     Lines("dose"), Text("said"), Table("gap", columns=("said",))),
)  # fmt: skip


def result_of(tokens: list[str], prompts: int = 1) -> Result:
    """A result with every kind of figure, over some tokens, of random numbers."""
    rng = np.random.default_rng(0)
    n = len(tokens)
    made = {
        "effect": rng.normal(size=(LAYERS, n)), "other": rng.uniform(size=(LAYERS, n)),
        "gap": np.float64(2.0), "top": rng.integers(0, n, (LAYERS, n, 2)),
        "prob": rng.uniform(size=(LAYERS, n, 2)), "said": np.arange(n),
        "pattern": rng.uniform(size=(LAYERS, 2, n, n)), "dose": rng.normal(size=(2, 3, 4)),
    }  # fmt: skip
    arrays = {f"{name}@{i}": np.asarray(v) + (i if v.dtype.kind == "f" else 0)
              for name, v in made.items() for i in range(prompts)}  # fmt: skip
    arrays |= {k: np.asarray(v) for k, v in made.items() if prompts == 1 or v.dtype.kind == "f"}
    arrays["recovery"] = made["effect"] / 2
    arrays |= {"recovery:low": made["effect"] / 2 - 0.1, "recovery:high": made["effect"] / 2 + 0.1}
    sizes = {"layer": list(range(LAYERS)), "head": [0, 1, 2], "seed": [7, 8], "rank": [0, 1],
             "coefficient": [-1.0, 0.0, 1.0, 2.0], "step": list(range(n))}  # fmt: skip
    axes = {}
    for name in (*CARD.returns, *CARD.summaries):
        dims = CARD.returns["effect" if name == "recovery" else name].dims
        axes[name] = {d: sizes.get(d, tokens) for d in dims}
    axes["pattern"]["head"] = [0, 1]
    parts = [{"tokens": tokens, "labels": {}, "clean": "".join(tokens)[:5000], "corrupt": "b"}
             for _ in range(prompts)]  # fmt: skip
    document = {"parts": parts, "axes": axes, "notes": [tokens[0]],
                "vocabulary": {str(i): t for i, t in enumerate(tokens)}}  # fmt: skip
    provenance = {"key": "0" * 64, "model": {"name": tokens[0]}, "parameters": {"x": tokens[1]},
                  "prompts": {"origin": "list"}, "cache": "miss", "record": {"dtype": "float32"},
                  "environment": {"kind": "local-cpu", "nnsight": "0", "transformers": "0",
                                  "torch": "0"}}  # fmt: skip
    return Result(CARD.shown(), document, arrays, provenance)


def kept(project: Path, result: Result, error: str | None = None, **sources: str) -> Path:
    """A run folder of a result."""
    files = {f"{k}.py": text.encode() for k, text in sources.items()}
    record = RunRecord(os.urandom(4).hex(), result, {"schema": 1}, files, [], error)
    path = Runs(project).write(record).path
    assert path is not None
    return path


def driven(folder: Path, project: Path, drive, size=(80, 24)):
    """Open the viewer on a run, and drive it."""

    async def run():
        room = Runs(project) if folder.parent == project / "runs" else runs_beside(folder)
        app = Viewer(folder, project, room)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await drive(app, pilot)

    asyncio.run(asyncio.wait_for(run(), 120))


@pytest.fixture(autouse=True)
def swift(monkeypatch):
    """Between keys, wait for the screen; the pilot waits for the processor to be idle on top."""

    async def briefly(*_: float) -> None:
        await asyncio.sleep(0.005)

    monkeypatch.setattr("textual.app.wait_for_idle", briefly)
    monkeypatch.setattr("textual.pilot.wait_for_idle", briefly)


def whole(app: Viewer, width: int) -> str:
    """The screen's text, after checking that it is as wide as the screen and holds no controls."""
    text = screen_text(app)
    for line in text.splitlines():
        assert cell_len(line) <= width, line
        bad = [c for c in line if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Mn")]
        assert not bad, (line, bad)
    return text


async def until(pilot, true, seconds: float = 20) -> None:
    """Wait until something is true of the screen."""
    end = asyncio.get_running_loop().time() + seconds
    while not true():
        assert asyncio.get_running_loop().time() < end, screen_text(pilot.app)
        await pilot.pause(0.02)


async def says(pilot, said: str) -> None:
    """Wait until the screen says something."""
    await until(pilot, lambda: said in screen_text(pilot.app))


async def settled(app: Viewer, pilot) -> None:
    """Wait for what goes on beside, and for the screen."""
    await asyncio.wait_for(app.workers.wait_for_complete(), 60)
    await pilot.pause()


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
        assert app.panel.shown == "effect"
        await press("M")
        assert app.panel.shown == "recovery"
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
            "http://www.w3.org", "")  # fmt: skip
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
    assert named <= pressed, named - pressed


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


def failed(project: Path) -> Path:
    result = result_of(["a", "b"])
    record = {"server_said": "Traceback on the server\n\x1b[31mCUDA error"}
    result.provenance = {**result.provenance, "record": record}
    code = "\n".join(f"line_{i} = {i}" for i in range(1, 30))
    return kept(project, result, "mine.py:12: KeyError: 'mine'", mine=code)


def test_a_failed_run_opens_on_its_error(project, cli):
    folder = failed(project)

    async def drive(app: Viewer, pilot) -> None:
        text = whole(app, 80)
        assert "[1 Failure]" in text and "✗ failed" in text
        for said in ("mine.py:12: KeyError", "▸   12 │ line_12 = 12", "Traceback on the server",
                     "␛[31mCUDA error", "mend the cause"):  # fmt: skip
            assert said in text
        await pilot.press("2", "1", "3", "5", "6")  # every panel works without a result

    driven(folder, project, drive, (80, 34))
    code, out, err = cli("view", folder.name)
    assert code == 1 and out == "" and err.count("error:") == 1
    assert "mine.py:12" in err and "line_12" in err and "CUDA error" in err and "\x1b" not in err


def test_a_damaged_run_and_one_of_a_newer_schema_say_so(project, cli):
    folder = kept(project, result_of(["a", "b"]))
    array = folder / "artifacts" / "result.safetensors"
    array.write_bytes(array.read_bytes()[:-1] + b"\xff")
    newer = kept(project, result_of(["a", "b"]))
    info = newer / "run.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "schema": 99}))

    strange = kept(project, result_of(["a", "b"]))
    info = json.loads((strange / "run.json").read_text())
    info["document"]["axes"] = {}
    (strange / "run.json").write_text(json.dumps(info))

    for path, said in ((folder, "SHA-256 is not the recorded one"), (newer, "schema 99"),
                       (strange, "KeyError('recovery')")):  # fmt: skip

        async def drive(app: Viewer, pilot, said=said) -> None:
            text = " ".join(whole(app, 80).split())
            assert "damaged" in text.lower() and said in text

        driven(path, project, drive)
        code, _, err = cli("view", path.name)
        assert code == 7 and said in err


def test_a_large_run_is_shown_at_once_and_checked_meanwhile(project, monkeypatch):
    monkeypatch.setattr(opened, "CHECKED_AT_ONCE", 100)
    folder = kept(project, result_of(["a", "b", "c"]))

    async def drive(app: Viewer, pilot) -> None:
        assert app.opened.unchecked and "layer │" in whole(app, 80)
        lazy = app.opened.result.arrays
        assert len(lazy._made) < len(lazy), "what is not looked at is not read"
        known = runs_beside(folder).read(folder.name).arrays
        assert set(lazy) == set(known)
        for name, values in known.items():
            assert np.array_equal(lazy[name], values) and lazy[name].dtype == values.dtype
        await settled(app, pilot)
        assert app.status == ""

    driven(folder, project, drive)
    array = folder / "artifacts" / "result.safetensors"
    array.write_bytes(array.read_bytes()[:-1] + b"\xff")

    async def damaged(app: Viewer, pilot) -> None:
        await settled(app, pilot)
        assert "is damaged" in app.status

    driven(folder, project, damaged)


def test_ten_thousand_runs_are_listed_and_found(project):
    folder = kept(project, result_of(["a", "b"]))
    for i in range(10_000):
        (project / "runs" / f"20200101T000000Z-old_recipe_{i % 100}-{i:08x}").mkdir()

    async def drive(app: Viewer, pilot) -> None:
        await pilot.press("8")
        assert app.panel.title == "Runs"
        listed = app.query_one(ListPane)
        assert listed.listing.count == 10_001 and "everything" in whole(app, 80)
        await pilot.press("ctrl+end")
        assert "old_recipe_0" in whole(app, 80)
        await pilot.press("slash", *"old_recipe_42", "enter")
        assert "old_recipe_42" in whole(app, 80).splitlines()[-5]
        await settled(app, pilot)
        assert "has no run.json" in " ".join(whole(app, 80).split())

    driven(folder, project, drive)


def test_jobs_and_studies_are_listed_as_they_stand(project):
    folder = kept(project, result_of(["a", "b"]))
    ledger = Ledger(project)
    ledger.claim(Entry("c0ffee00" * 4, "key", "host", "http://127.0.0.1", "lens", "m", 1, {}), 0)
    points = [PointRecord(0, "everything", "m", "ioi", {"x": 1}, 3, "local", "k" * 64),
              PointRecord(1, "other", "m", "ioi", {}, None, "local", "j" * 64)]  # fmt: skip
    records = StudyRecords(project)
    study = records.begin(StudyRecord("mine", "My study", "Why?", points), b"study: mine\n")
    points[0].state, points[0].run = "done", folder.name
    records.note(study, points[0])

    async def drive(app: Viewer, pilot) -> None:
        while app.panel.title != "Jobs":
            await pilot.press("tab")
        await settled(app, pilot)
        assert "c0ffee00" in whole(app, 80) and "submitting" in screen_text(app)
        ledger.update("c0ffee00" * 4, state="done", run=folder.name)
        app._tick()  # as every second
        await settled(app, pilot)
        assert "Enter opens it" in whole(app, 80)
        await pilot.press("shift+tab")
        assert "1 waiting, 1 done" in whole(app, 80)
        await pilot.press("enter")
        assert "everything" in whole(app, 80) and "My study" in screen_text(app)
        await pilot.press("escape")
        assert "1 waiting" in whole(app, 80)
        await pilot.press("enter", "enter")
        assert app.opened.folder == folder and app.at == 0

    driven(folder, project, drive)


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
        styles = {s.style.color.get_truecolor() for strip in app.screen._compositor.render_strips()
                  for f in [strip.apply_filter(app._filters[0], app.get_css_variables and
                            app.screen.styles.background)] for s in f
                  if s.style and s.style.color}  # fmt: skip
        assert all(len(set(color)) == 1 for color in styles), "greys only"

    driven(folder, project, drive)


def test_the_viewer_and_its_demo_need_neither_torch_nor_a_model(project, process):
    code = """
import asyncio, sys
from pathlib import Path
from remote_mi.opening import runs_beside
from remote_mi.report.viewer.app import Viewer
from remote_mi.report.viewer.demo import demo_run
async def main():
    app = Viewer(demo_run(), Path("."), runs_beside(demo_run()))
    async with app.run_test(size=(80, 24)) as pilot:
        for _ in app.panels:
            await pilot.press("tab", "g", "y")
        await pilot.press("w", "escape", "question_mark", "escape", "q")
asyncio.run(main())
print(sorted({m.partition(".")[0] for m in sys.modules} & {"torch", "nnsight", "transformers",
      "scipy", "sklearn", "pandas", "matplotlib"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
    shown = process("view", "demo", "--only", "recovery")
    assert shown.returncode == 0 and "largest: layer 19" in shown.stdout
    assert not any(demo_run().parent.parent.glob(".remote_mi")), "nothing is written beside it"


def test_the_recorded_runs_are_as_they_were_made_and_name_no_machine(project, cli):
    for folder in demo_run().parent.iterdir():
        code, out, err = cli("reproduce", folder, "--verify-only")
        assert code == 0, out + err
        for path in folder.rglob("*"):
            if path.suffix in (".json", ".yaml", ".jsonl"):
                assert not re.search(r"/(home|root|tmp|Users|work)\b", path.read_text())


def test_view_prints_several_runs_and_takes_ids_from_a_pipe(project, process):
    first, second = (kept(project, result_of(["a", "b"])) for _ in range(2))
    ids = [p.name.rsplit("-", 1)[-1] for p in (first, second)]
    done = subprocess.run([sys.executable, "-m", "remote_mi", "view", "-"], input="\n".join(ids),
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [x for x in ids if f"everything  {x} ✓" in done.stdout] == ids
    assert process("view", str(first), "--only", "effect").returncode == 0, "a folder is a run"
    empty = subprocess.run([sys.executable, "-m", "remote_mi", "view", "-"], input="",
                           capture_output=True, text=True, timeout=60)  # fmt: skip
    assert empty.returncode == 2 and "no ids on stdin" in empty.stderr


def test_the_page_about_the_viewer_names_every_key_of_the_help_page():
    page = (Path(__file__).parents[2] / "docs" / "viewer.md").read_text()
    missing = [
        name for key in keys.ALL for name in key.shown.split("  ") if f"`{name}`" not in page
    ]
    assert not missing
    for _, section in keys.SECTIONS:
        assert all(len(key.text) <= 38 for key in section), "one line each on 60 columns"

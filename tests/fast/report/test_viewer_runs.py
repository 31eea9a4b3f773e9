"""The viewer beside the figures: runs that failed, are damaged, large or many; studies and jobs."""

from __future__ import annotations

import json

import numpy as np

from remote_mi.backends.ledger import Entry, Ledger
from remote_mi.report.document.commands import command_for_run
from remote_mi.report.viewer import opened_run
from remote_mi.report.viewer.app import Viewer
from remote_mi.report.viewer.header_footer import screen_text
from remote_mi.report.viewer.panes import ListPane
from remote_mi.store.opening import sibling_runs
from remote_mi.store.studies import PointRecord, StudyRecord, StudyRecords

from .viewing import driven, failed, kept, result_of, settled, whole


def test_a_failed_run_opens_on_its_error(project, cli):
    folder = failed(project)

    async def drive(app: Viewer, pilot) -> None:
        text = whole(app, 80)
        assert "[1 Failure]" in text and "✗ failed" in text
        for said in (
            "mine.py:12: KeyError",
            "▸   12 │ line_12 = 12",
            "Traceback on the server",
            "␛[31mCUDA error",
            "fix the cause",
        ):
            assert said in text
        await pilot.press("2", "1", "3", "5", "6")  # every panel works without a result

    driven(folder, project, drive, (80, 34))
    code, out, err = cli("view", folder.name)
    assert code == 1 and out == "" and err.count("error:") == 1
    assert "mine.py:12" in err and "line_12" in err and "CUDA error" in err and "\x1b" not in err


def test_a_run_of_a_recipe_that_was_given_by_its_file_names_the_file(project):
    folder = failed(project)
    lock = {
        "recipe": {"name": "norms", "file": "mine.py"},
        "model": {"name": "m"},
        "parameters": {"k": 3},
        "prompts": {},
    }
    (folder / "config.lock.yaml").write_text(json.dumps(lock))
    assert command_for_run(folder) == "remote-mi run mine.py --model m -p k=3"
    lock["recipe"] = {"name": "logit_lens", "file": "logit_lens.py"}
    (folder / "config.lock.yaml").write_text(json.dumps(lock))
    assert command_for_run(folder) == "remote-mi run logit_lens --model m -p k=3"


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

    for path, said in (
        (folder, "SHA-256 is not the recorded one"),
        (newer, "schema 99"),
        (strange, "KeyError('recovery')"),
    ):

        async def drive(app: Viewer, pilot, said=said) -> None:
            text = " ".join(whole(app, 80).split())
            assert "damaged" in text.lower() and said in text

        driven(path, project, drive)
        code, _, err = cli("view", path.name)
        assert code == 7 and said in err


def test_a_large_run_is_shown_at_once_and_checked_meanwhile(project, monkeypatch):
    monkeypatch.setattr(opened_run, "CHECKED_AT_ONCE", 100)
    folder = kept(project, result_of(["a", "b", "c"]))

    async def drive(app: Viewer, pilot) -> None:
        assert app.opened.unchecked and "layer │" in whole(app, 80)
        lazy = app.opened.result.arrays
        mapped = [isinstance(values.base, np.memmap) for values in lazy._made.values()]
        assert all(mapped), "what is not looked at is not read"
        known = sibling_runs(folder).read(folder.name).arrays
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
        assert any("has no run.json" in said for said in listed.item.explanation)

    driven(folder, project, drive)


def test_jobs_and_studies_are_listed_as_they_stand(project):
    folder = kept(project, result_of(["a", "b"]))
    ledger = Ledger(project)
    ledger.claim(Entry("c0ffee00" * 4, "key", "host", "http://127.0.0.1", "lens", "m", 1, {}), 0)
    points = [
        PointRecord(0, "everything", "m", "ioi", {"x": 1}, 3, "local", "k" * 64),
        PointRecord(1, "other", "m", "ioi", {}, None, "local", "j" * 64),
    ]
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
        text = whole(app, 80)
        assert "My study" in text and "all: m  ioi" in text, "what is the same is said once"
        assert "0  everything  x=1  seed 3" in text and "1  other" in text
        await pilot.press("escape")
        assert "1 waiting" in whole(app, 80)
        await pilot.press("enter", "enter")
        assert app.opened.folder == folder and app.at == 0

    driven(folder, project, drive)


def test_the_comparison_is_of_the_runs_that_are_marked_and_as_wide_as_the_screen(project):
    tokens = ["The", " cat"]
    one, two, three = (kept(project, result_of(tokens, prompts=n)) for n in (1, 2, 3))

    async def drive(app: Viewer, pilot) -> None:
        while app.panel.title != "Compare":
            await pilot.press("tab")
        assert "mark two runs with x" in whole(app, 100)
        app.runs.marked[:] = [two]  # and the run that is shown
        await pilot.press("equals_sign")
        await settled(app, pilot)
        text = whole(app, 100)
        assert two.name[-8:] in text and one.name[-8:] in text and "configuration" in text
        app.runs.marked[:] = [two, three]
        await pilot.press("1", "equals_sign")
        await settled(app, pilot)
        assert three.name[-8:] in whole(app, 100) and "configuration" in screen_text(app)
        await pilot.resize_terminal(62, 24)
        await pilot.pause()
        await settled(app, pilot)
        rule = next(x for x in whole(app, 62).splitlines() if "configuration ─" in x)
        assert 50 < len(rule.rstrip()) <= 62, "laid out again"

    driven(one, project, drive, (100, 24))

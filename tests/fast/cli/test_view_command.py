"""`remote-mi view`: what it prints without a screen, what it needs, and what it says at the end."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

import remote_mi as mi
from remote_mi.cli.view import _view_command
from remote_mi.common.errors import RunFailed
from remote_mi.report.viewer.app import Viewer
from remote_mi.report.viewer.demo import demo_run
from remote_mi.report.viewer.opened_run import open_run
from remote_mi.report.viewer.pages import repeat_command

from ..report.viewing import driven, failed, kept, result_of, settled, whole


def test_the_viewer_and_its_demo_need_neither_torch_nor_a_model(project, process):
    code = """
import asyncio, sys
from pathlib import Path
from remote_mi.store.opening import sibling_runs
from remote_mi.report.viewer.app import Viewer
from remote_mi.cli.view import _view_command
from remote_mi.report.viewer.demo import demo_run
async def main():
    app = Viewer(demo_run(), Path("."), sibling_runs(demo_run()))
    async with app.run_test(size=(80, 24)) as pilot:
        for _ in app.panels:
            await pilot.press("tab", "g", "y")
        await pilot.press("w", "escape", "question_mark", "escape", "q")
asyncio.run(main())
print(sorted({m.partition(".")[0] for m in sys.modules} & {"torch", "nnsight", "transformers",
      "scipy", "sklearn", "pandas", "matplotlib"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
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
    done = subprocess.run(
        [sys.executable, "-m", "remote_mi", "view", "-"],
        input="\n".join(ids),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert [x for x in ids if f"everything  {x} ✓" in done.stdout] == ids
    assert process("view", str(first), "--only", "effect").returncode == 0, "a folder is a run"
    empty = subprocess.run(
        [sys.executable, "-m", "remote_mi", "view", "-"],
        input="",
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert empty.returncode == 2 and "no ids on stdin" in empty.stderr


def test_without_a_run_it_says_where_one_can_be_looked_at(project, cli):
    code, out, err = cli("view")
    assert (code, out) == (3, "") and "there are no runs in" in err
    assert "remote-mi view demo" in err


def test_what_is_typed_next_names_the_run_that_was_left(project, monkeypatch):
    folder = kept(project, result_of(["a", "b"]))
    id8 = folder.name.rsplit("-", 1)[-1]
    assert _view_command(open_run(folder)) == f"remote-mi view {id8}"
    assert repeat_command(open_run(folder)) == f"remote-mi reproduce {id8}"
    assert _view_command(open_run(demo_run())) == "remote-mi view demo"
    monkeypatch.setenv("REMOTE_MI_PROJECT", str(project / "elsewhere"))
    assert _view_command(open_run(folder)) == f"remote-mi view {folder}"
    assert repeat_command(open_run(folder)) == f"remote-mi reproduce {folder}"


def test_the_name_of_a_folder_cannot_act_either(project, cli):
    hostile = project / "\x1b]0;title\x07-\x1b[31mred"
    shutil.copytree(kept(project, result_of(["a", "b"])), hostile)

    async def drive(app: Viewer, pilot) -> None:
        assert "␛[31mred ✓" in whole(app, 80)
        while app.panel.title != "Provenance":
            await pilot.press("tab")
            await settled(app, pilot)
        assert "␛]0;title␇" in whole(app, 80)
        await pilot.press("e")
        assert "exported exports/" in whole(app, 80)

    driven(hostile, project, drive)
    code, out, _ = cli("view", hostile)
    assert code == 0 and "\x1b" not in out and "\x07" not in out


def test_what_reads_numbers_says_of_a_failed_run_that_it_failed(project, cli):
    name = failed(project).name
    good = kept(project, result_of(["a", "b"])).name
    for words in (("export", name, "--figure", "effect", "-o", "f.svg"), ("compare", good, name)):
        code, _, err = cli(*words)
        assert code == 1 and f"the run {name} failed: " in err and "remote-mi view" in err
    with pytest.raises(RunFailed, match="failed"):
        mi.load_run(name, project)


def test_a_study_that_was_not_run_yet_is_told_from_one_that_there_is_not(project, cli):
    for words in (("study", "show"), ("report",)):
        code, _, err = cli(*words, "facts_small")
        assert code == 3 and "has not been run here yet" in err and "study run facts_small" in err
    assert "has not been run here yet" not in cli("study", "show", "fact_small")[2]


@pytest.mark.parametrize(
    "change",
    [
        lambda info: info["document"]["parts"][0].pop("clean"),
        lambda info: info["document"].pop("axes"),
        lambda info: info["provenance"].update(record=None, parameters=[]),
        lambda info: info["recipe"]["figures"][0].pop("output"),
    ],
    ids=["prompts", "axes", "record", "figure"],
)
def test_a_run_json_that_lacks_parts_is_damaged_wherever_it_is_read(project, cli, change):
    good = kept(project, result_of(["a", "b"], prompts=2)).name
    bad = kept(project, result_of(["a", "b"], prompts=2))
    info = json.loads((bad / "run.json").read_text())
    change(info)
    (bad / "run.json").write_text(json.dumps(info))
    codes = set()
    for words in (
        ("view", bad.name, "--plain"),
        ("report", bad.name, "-o", "r.html", "--force"),
        ("compare", good, bad.name),
        ("export", bad.name, "--table", "gap"),
        ("export", bad.name, "--figure", "recovery", "-o", "f.svg"),
        ("runs", "ls"),
    ):
        code, _, err = cli(*words)
        assert "unexpected" not in err, (words, err)
        codes.add(code)
    assert 7 in codes and codes <= {0, 3, 7}

"""Claims and comparisons of a study: frozen, evaluated, shown in every medium."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import remote_mi as mi
from remote_mi.common.errors import NotFound
from remote_mi.store.studies import StudyRecords
from remote_mi.store.study_comparisons import compared_points
from remote_mi.store.study_results import claim_findings

#: Numbers that depend on the prompt a little, and on the parameter: no model is needed for them.
KNOWN = '''"""Numbers that are known beforehand."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi import Ratio, recipe
from remote_mi.interventions import Pair


@recipe(
    over="pair",
    returns={"map": ("layer", "position"), "score": (), "gap": ()},
    summaries={"share": Ratio("map", gap="gap")},
)
def known(lm: Any, pair: Pair, *, shift: float = 0.0) -> dict[str, Any]:
    """Each layer's number at the last position, with a little of each prompt's own."""
    own = 0.01 * ((sum(pair.clean.ids) % 7) - 3)
    layers = torch.arange(4.0)[:, None] * torch.ones(len(pair.clean.ids))
    layers = layers * (torch.arange(len(pair.clean.ids)) == pair.clean.end)
    return {
        "map": layers + own + shift * (layers == 3),
        "score": torch.tensor(1.0 + shift + own),
        "gap": torch.tensor(2.0 + own),
    }
'''
CLAIMS = [
    {
        "id": "late",
        "says": "The last layer carries it",
        "holds": {
            "recipe": "known",
            "parameters": {"shift": 0},
            "output": "map",
            "at": {"layer": ">=2", "position": "end"},
            "every": "> 1.5",
        },
    },
    {
        "id": "everywhere",
        "says": "Every layer carries it",
        "holds": {"recipe": "known", "output": "map", "at": {"position": "end"}, "every": "> 1.5"},
    },
    {
        "id": "exactly",
        "says": "The score is above one",
        "holds": {"recipe": "known", "output": "score", "value": "> 1"},
    },
    {
        "id": "shifted",
        "says": "The score is higher with the shift",
        "holds": {
            "recipe": "known",
            "parameters": {"shift": [0, 1]},
            "output": "score",
            "value": "> 1.5",
        },
    },
]
COMPARE = [
    {
        "show": "lines",
        "output": "map",
        "x": "layer",
        "at": {"position": "end"},
        "title": "by layer",
    },
    {"show": "lines", "output": "score", "x": "shift", "title": "by shift"},
    {"show": "table", "output": ["score", "gap"], "title": "all scores"},
    {"show": "agreement", "output": "map", "top": 3, "title": "maps"},
    {
        "show": "differences",
        "output": "score",
        "across": "shift",
        "title": "what the shift does",
    },
]


def study_of(project: Path, model: Path, **more: Any) -> Path:
    (project / "recipes").mkdir(exist_ok=True)
    (project / "recipes" / "known.py").write_text(KNOWN)
    content = {
        "study": "expected",
        "models": [str(model)],
        "phenomena": [{"name": "ioi:store", "n": 8}],
        "recipes": [{"known": {"shift": [0.0, 1.0]}}],
        "claims": CLAIMS,
        "compare": COMPARE,
        **more,
    }
    folder = project / "recipes" / "studies"
    folder.mkdir(exist_ok=True)
    path = folder / "expected.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_llama) -> Path:
    """A project and a cache in which the study has run once, for all tests to copy."""
    from remote_mi.cli.main import run_command

    folder = tmp_path_factory.mktemp("ran")
    (folder / "project").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMOTE_MI_PROJECT", str(folder / "project"))
        patch.setenv("REMOTE_MI_CACHE", str(folder / "cache"))
        patch.chdir(folder / "project")
        study_of(folder / "project", tiny_llama)
        assert run_command(["study", "run", "expected", "-q"]) == 0
    return folder


@pytest.fixture
def done(project, cache, ran) -> Path:
    """A project of the test's own in which the study has run."""
    for name, own in (("project", project), ("cache", cache)):
        shutil.copytree(ran / name, own, dirs_exist_ok=True)
    return project


def record(project: Path):
    return StudyRecords(project).read("expected")


def statuses(project: Path) -> dict[str, str]:
    return {claim.id: claim.status for claim in record(project).claims}


# -- verdicts ------------------------------------------------------------------------------------


def test_claims_of_a_study_hold_fail_or_are_undecided_in_each_of_their_points(done):
    findings = {found.claim.id: found for found in mi.load_study("expected").claims}
    verdicts = {name: found.verdict for name, found in findings.items()}
    assert verdicts == {
        "late": "holds",
        "everywhere": "fails",
        "exactly": "undecided",
        "shifted": "fails",
    }
    assert findings["shifted"].failing == ["shift=0.0"]
    assert findings["exactly"].undecided == ["shift=0.0"]
    late = findings["late"].judgement
    result = mi.load_study("expected").result(0)
    assert result is not None
    cell = result["map"].isel("layer", 2).isel("position", -1)
    assert late.estimate.value == pytest.approx(float(cell)) and late.estimate.n == 8
    assert late.estimate.low == pytest.approx(float(cell.low)) and late.cells == 2


def test_points_without_a_result_leave_a_claim_undecided_unless_another_refutes_it(done):
    lines = (record(done).path / "progress.jsonl").read_text().splitlines()
    second = record(done).points[1].key
    kept = [line for line in lines if second not in line]
    (record(done).path / "progress.jsonl").write_text("".join(f"{line}\n" for line in kept))
    findings = {found.claim.id: found for found in claim_findings(record(done))}
    assert findings["late"].verdict == "holds", "it speaks of the first point alone"
    assert findings["exactly"].verdict == "undecided"
    assert "no result yet" in findings["exactly"].judgement.reason
    assert findings["shifted"].verdict == "fails", "in the point that there is"
    missing = {found.comparison.title: found.missing for found in compared_points(record(done))}
    assert missing["all scores"] == ["shift=1.0"]


def test_a_failing_claim_is_an_exit_code_and_undecided_ones_are_named(done, cli, tiny_llama):
    code, out, err = cli("study", "show", "expected", "--check-claims")
    assert code == 7 and "2 claims fail of 4: everywhere, shifted" in err
    assert "undecided: exactly" in err and "late" in out
    study_of(done, tiny_llama, claims=[CLAIMS[0], CLAIMS[2]])
    assert cli("study", "run", "expected", "-q")[0] == 0
    code, _, err = cli("study", "show", "expected", "--check-claims")
    assert code == 0 and "undecided: exactly" in err
    study_of(done, tiny_llama, claims=[])
    assert cli("study", "run", "expected", "-q")[0] == 0
    code, _, err = cli("study", "show", "expected", "--check-claims")
    assert code == 3 and "makes no claims" in err


# -- registered and exploratory ------------------------------------------------------------------


def test_claims_made_before_the_first_run_are_registered_and_later_ones_exploratory(
    done, cli, tiny_llama
):
    assert set(statuses(done).values()) == {"registered"}
    before = {claim.id: claim for claim in record(done).claims}
    assert all(claim.frozen.endswith("Z") and len(claim.digest) == 64 for claim in before.values())
    reworded = {**CLAIMS[0], "says": "The late layers carry it"}
    new = {**CLAIMS[2], "id": "afterwards"}
    study_of(done, tiny_llama, claims=[reworded, *CLAIMS[1:3], new])
    code, out, err = cli("study", "show", "expected")
    assert "has changed since" in err and "late layers" not in out
    assert cli("study", "run", "expected", "-q")[0] == 0
    assert statuses(done) == {
        "late": "exploratory",
        "everywhere": "registered",
        "exactly": "registered",
        "afterwards": "exploratory",
    }
    after = {claim.id: claim for claim in record(done).claims}
    assert after["exactly"].frozen == before["exactly"].frozen
    assert after["late"].digest != before["late"].digest, "its words are part of it"
    code, out, _ = cli("study", "show", "expected", "--width", "200")
    assert code == 0 and "late is exploratory: it was added or changed after" in out
    assert "No longer claimed: late, registered" in out and "No longer claimed: shifted" in out
    # The first words again: that claim was registered.
    study_of(done, tiny_llama)
    assert cli("study", "run", "expected", "-q")[0] == 0
    assert set(statuses(done).values()) == {"registered"} and not record(done).withdrawn


def test_spacing_and_order_do_not_change_a_claim_but_other_points_do(done, cli, tiny_llama):
    holds = {**CLAIMS[0]["holds"], "every": ">1.50", "at": {"position": "end", "layer": ">= 2"}}
    study_of(done, tiny_llama, claims=[{**CLAIMS[0], "holds": holds}, *CLAIMS[1:]])
    assert cli("study", "run", "expected", "-q")[0] == 0
    assert set(statuses(done).values()) == {"registered"}
    # Without the point in which it fails, a claim speaks of something else.
    more = {"recipes": [{"known": {"shift": [1.0]}}], "compare": []}
    study_of(done, tiny_llama, claims=[CLAIMS[2]], **more)
    assert cli("study", "run", "expected", "-q")[0] == 0
    [claim] = record(done).claims
    assert claim.status == "exploratory" and "0 added, 1 left out" in claim.why
    [found] = claim_findings(record(done))
    assert found.verdict == "holds"


def test_a_claim_about_results_that_exist_already_is_exploratory(done, cli, tiny_llama):
    path = study_of(done, tiny_llama, study="again")
    path.rename(path.with_name("again.yaml"))
    assert cli("study", "run", "again", "-q")[0] == 0
    claims = StudyRecords(done).read("again").claims
    assert {claim.status for claim in claims} == {"exploratory"}
    assert claims[1].why == "2 of the 2 results it speaks of existed before it"


def test_what_was_frozen_is_only_ever_added_to(done, cli, tiny_llama):
    path = record(done).path / "claims.jsonl"
    before = path.read_text()
    assert len(before.splitlines()) == 4
    study_of(done, tiny_llama, claims=[{**CLAIMS[0], "says": "Other words"}])
    assert cli("study", "run", "expected", "-q")[0] == 0
    assert path.read_text().startswith(before) and len(path.read_text().splitlines()) == 5
    path.write_text(path.read_text() + '{"id": "cut')
    assert statuses(done) == {"late": "exploratory"} and len(record(done).withdrawn) == 4


# -- comparisons ---------------------------------------------------------------------------------


def shown(project: Path) -> dict[str, Any]:
    return {found.comparison.title: found for found in compared_points(record(project))}


def test_comparisons_have_the_numbers_of_their_points(done):
    study = mi.load_study("expected")
    first, second = (study.result(point) for point in (0, 1))
    assert first is not None and second is not None
    found = {name: one.shown for name, one in shown(done).items()}
    lines = found["by layer"].array
    assert lines.dims == ("shift", "layer") and list(lines.coords["shift"]) == ["0.0", "1.0"]
    for row, result in enumerate((first, second)):
        array = result["map"].isel("position", -1)
        assert np.allclose(lines.values[row], array.values)
        assert np.allclose(lines.low[row], array.low) and np.allclose(lines.high[row], array.high)
    along = found["by shift"].array
    assert list(along.coords["shift"]) == [0.0, 1.0]
    assert np.allclose(along.values[0], [float(first["score"]), float(second["score"])])
    assert [name for name, _ in found["all scores"].rows] == ["shift=0.0", "shift=1.0"]
    assert found["all scores"].rows[1][1][0].value == pytest.approx(float(second["score"]))
    [row] = found["what the shift does"]
    assert (row.one, row.other) == ("0.0", "1.0") and row.difference.n == 8
    assert row.difference.value == pytest.approx(1.0) and row.p == 2 / 2**8
    same = found["maps"].cells[0][1]
    assert same == first.compare(second).agreement("map", top=3)


def test_claims_and_comparisons_are_in_every_medium(done, cli):
    code, out, _ = cli("study", "show", "expected", "--width", "160")
    assert code == 0
    for text in ("fails in shift=0.0", "holds", "undecided", "registered", "by layer"):
        assert text in out
    assert out.index("claims ─") < out.index("by layer ─") < out.index("points ─")
    data = json.loads(cli("study", "show", "expected", "--json")[1])
    verdicts = {claim["id"]: claim["verdict"] for claim in data["claims"]}
    assert verdicts["late"] == "holds" and verdicts["shifted"] == "fails"
    assert [one["title"] for one in data["compare"]] == [one["title"] for one in COMPARE]
    for name, heading in (("report.html", "<h{} >"), ("report.md", "#")):
        code, _, err = cli("report", "expected", "-o", name)
        assert code == 0, err
        page = (done / name).read_text()
        results = page.index("Run" if heading == "#" else "run <code>")
        places = [page.index(text) for text in ("The last layer carries it", "what the shift does")]
        assert places[0] < page.index("Method") < places[1] < results or heading != "#"
        assert places[0] < places[1] < results
        assert "fails in shift=0.0" in page and "0.0078" in page and "registered" in page
    assert any(done.glob("report_files/*by-layer*.svg"))
    assert (done / "report.html").read_text().count('class="curves"') >= 2
    text = repr(mi.load_study("expected"))
    assert "everywhere" in text and "what the shift does" in text


def test_claims_and_comparisons_are_exported_for_a_paper(done, cli):
    for what, name in (
        *(("claims", "claims.csv"), ("claims", "claims.tex"), ("3", "scores.csv")),
        *(("by layer", "lines.svg"), ("by layer", "lines.csv"), ("maps", "maps.tex")),
    ):
        code, out, err = cli("study", "export", "expected", what, "-o", name)
        assert code == 0 and out.strip() == name, err
    with (done / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["point"] for row in rows] == ["shift=0.0", "shift=1.0"]
    assert float(rows[1]["score"]) == pytest.approx(2, abs=0.05) and rows[0]["score n"] == "8"
    with (done / "claims.csv").open() as file:
        assert {row["id"]: row["verdict"] for row in csv.DictReader(file)}["late"] == "holds"
    assert "toprule" in (done / "claims.tex").read_text()
    assert (done / "lines.svg").read_text().count("line:") >= 2
    code, _, err = cli("study", "export", "expected", "claims", "-o", "claims.svg")
    assert code == 2 and ".tex" in err
    code, _, err = cli("study", "export", "expected", "by leyer", "-o", "x.csv")
    assert code == 3 and "by layer" in err


def test_two_runs_on_the_same_prompts_are_compared_pair_by_pair(done, cli):
    a, b = (point.run.rpartition("-")[2] for point in record(done).points)
    code, out, _ = cli("compare", a, b, "--width", "120")
    assert code == 0 and "paired by prompt" in out and "0.0078" in out
    rows = {row["output"]: row for row in json.loads(cli("compare", a, b, "--json")[1])["paired"]}
    assert rows["score"]["difference"] == pytest.approx(1.0) and rows["score"]["n"] == 8
    assert "paired by prompt" not in cli("compare", a, a)[1]


def test_a_study_that_has_not_run_or_does_not_exist_cannot_be_loaded(project, tiny_llama):
    study_of(project, tiny_llama)
    with pytest.raises(NotFound, match="has not been run"):
        mi.load_study("expected")
    with pytest.raises(NotFound, match="no study named"):
        mi.load_study("expeted")


def test_a_plan_shows_the_claims_and_freezes_nothing(project, cli, tiny_llama):
    study_of(project, tiny_llama)
    code, out, _ = cli("study", "plan", "expected")
    assert code == 0 and "claim shifted, of 2 points: The score is higher" in out
    assert not (project / "runs").exists()

"""A run's document is read once: what is wrong with it is told with its file and its place."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remote_mi.common.errors import Mismatch, NotFound, RunFailed, UsageError
from remote_mi.store.arrays import arrays_to_bytes
from remote_mi.store.environment import Environment
from remote_mi.store.opening import find_run, find_run_or_study, load_run
from remote_mi.store.provenance import Provenance
from remote_mi.store.run_folder import RunFolder
from remote_mi.store.run_info import ARRAYS, DamagedRun, read_info
from remote_mi.store.runs import Runs
from remote_mi.store.studies import PointRecord, StudyRecord, StudyRecords
from remote_mi.store.typed_json import WrongJson

from ..report.shown import kept, provenance, result

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def run(project: Path) -> RunFolder:
    found = kept(project, result())
    assert found.path is not None
    return RunFolder(found.path)


def changed(run: RunFolder, change: Change) -> RunFolder:
    """The run with another run.json."""
    data = copy.deepcopy(run.data)
    change(data)
    (run.path / "run.json").write_text(json.dumps(data))
    return RunFolder(run.path)


def test_what_a_run_says_is_known_by_names(run):
    info = run.info
    assert (info.status, info.failed, info.error) == ("done", False, None)
    assert info.card.name == "probing" and info.card.figures == result().figures
    assert info.made.environment == Environment("local-cpu", "0.8.1", "5.22", "2.13")
    assert (info.made.model.name, info.made.record.dtype) == ("tiny", "float32")
    assert info.made.prompts.name == "" and info.made.parameters == {"site": "here"}
    assert info.parsed_document.parts[0].tokens == ["When", " Mary", " and", " to"]
    assert info.missing_fields == ["code", "backend"]
    assert run.lock["recipe"] == {"name": "probing"} and run.id8 == "aaaa1111"
    assert run.result().made == info.made and run.result().id8 == run.id8


def with_array(run: RunFolder, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change an array of the run, and its hash in run.json."""
    content = arrays_to_bytes({**run.arrays(), name: change(run.arrays()[name])})
    (run.path / ARRAYS).write_bytes(content)
    changed(
        run, lambda data: data["artifacts"].update({ARRAYS: hashlib.sha256(content).hexdigest()})
    )


@pytest.mark.parametrize("name", ["effect", "effect:low", "effect:high", "score"])
@pytest.mark.parametrize("dtype", [np.bool_, np.int64, np.uint8, np.complex64])
def test_an_estimate_of_no_real_numbers_is_a_damage(run, cli, name, dtype):
    with_array(run, name, lambda values: values.astype(dtype))
    code, _, err = cli("view", "--plain")
    assert code == 7 and f"its array holds {np.dtype(dtype)}, not " in err


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (lambda d: d.pop("provenance"), "provenance", "KeyError('provenance')"),
        (lambda d: d.update(status=3), "status", "is a whole number, not a text"),
        (lambda d: d.update(recipe=[]), "recipe", "is a list, not an object"),
        (lambda d: d["recipe"].pop("name"), "recipe.name", "KeyError('name')"),
        (lambda d: d["recipe"]["returns"]["top"].pop("dims"), "recipe.returns.top.dims", "dims"),
        (
            lambda d: d["recipe"]["returns"]["top"].update(kind="sound"),
            "recipe.returns.top.kind",
            "'sound' is not a kind of output",
        ),
        (lambda d: d["recipe"]["figures"][1].pop("output"), "recipe.figures[1]", "TypeError"),
        (lambda d: d["recipe"]["figures"][0].pop("figure"), "recipe.figures[0]", "KeyError"),
        (lambda d: d["recipe"]["figures"][0].update(output=3), "recipe.figures[0]", "not a text"),
        (lambda d: d["recipe"]["figures"][0].update(figure=1.5), "recipe.figures[0]", "not the na"),
        (lambda d: d["recipe"]["figures"][1].update(most="x"), "recipe.figures[1]", "most='x'"),
        (lambda d: d["recipe"]["figures"][6].update(columns=[1]), "recipe.figures[6]", "columns="),
        (lambda d: d["recipe"].pop("returns"), "recipe.returns", "KeyError('returns')"),
        (lambda d: d["recipe"].pop("summaries"), "recipe.summaries", "KeyError('summaries')"),
        (
            lambda d: d["recipe"].update(summaries={"s": {"effect": None, "dims": []}}),
            "recipe.summaries.s.effect",
            "null",
        ),
        (
            lambda d: d["recipe"].update(controls={"effect": "curve"}),
            "recipe.controls.effect",
            "which are not the leading ones",
        ),
        (lambda d: d["recipe"].update(controls={"effect": "x"}), "recipe.controls.effect", "'x'"),
        (
            lambda d: d["recipe"]["returns"]["score"].update(of="all"),
            "recipe.returns.score.of",
            "'all'",
        ),
        (lambda d: d["document"].pop("vocabulary"), "document.vocabulary", "KeyError"),
        (
            lambda d: d["document"]["axes"]["effect"]["layer"].pop(),
            "document.axes.effect",
            "(layer: 3, position: 4) are not those of the shape (4, 4)",
        ),
        (
            lambda d: d["document"]["parts"][1]["tokens"].append("x"),
            "document.parts[1].tokens",
            "effect has 4 entries along 'position', and the prompt has 5 tokens",
        ),
        (lambda d: d["recipe"].update(labels={"x": "y"}), "recipe.labels.x", "labels names 'y'"),
        (
            lambda d: d["recipe"]["returns"]["top"].update(dims=["layer", "a\x1b[2J", "c"]),
            "recipe.returns.top.dims",
            "is not a name",
        ),
        (
            lambda d: d["recipe"]["returns"]["curve"]["dims"].pop(),
            "recipe.returns.curve.dims",
            "1 names for the 2 dimensions",
        ),
        (
            lambda d: d["recipe"]["returns"].update({"x" * 9000: {"dims": [], "kind": "number"}}),
            "recipe.returns",
            "is not a name",
        ),
        (lambda d: d["document"]["parts"][2].pop("clean"), "document.parts[2].clean", "clean"),
        (
            lambda d: d["document"]["parts"][0].update(tokens="x"),
            "document.parts[0].tokens",
            "list",
        ),
        (lambda d: d["document"].update(notes=[1]), "document.notes[0]", "not a text"),
        (lambda d: d["document"].update(vocabulary={"0": None}), "document.vocabulary.0", "null"),
        (lambda d: d["document"]["axes"].pop("effect"), "document.axes", "KeyError('effect')"),
        (lambda d: d["provenance"].update(record=None), "provenance.record", "is null"),
        (lambda d: d["provenance"].update(parameters=[]), "provenance.parameters", "is a list"),
        (lambda d: d["provenance"]["model"].update(name=1), "provenance.model.name", "not a text"),
        (
            lambda d: d["provenance"]["environment"].pop("torch"),
            "provenance.environment.torch",
            "KeyError('torch')",
        ),
        (
            lambda d: d["document"]["parts"].append(d["document"]["parts"][0]),
            "document.parts",
            "@3",
        ),
    ],
)
def test_damage_is_told_with_its_file_and_its_place(run, cli, change, where, what):
    broken = changed(run, change)
    with pytest.raises(DamagedRun) as caught:
        broken.result()
    error = caught.value
    assert (error.path, error.where) == (run.path / "run.json", where)
    assert what in error.what and f"run.json is damaged: {where}: " in error.message
    for words in (
        ("view", "--plain"),
        ("export", "--table", "effect"),
        ("compare", "aaaa", "aaaa"),
        ("reproduce", "aaaa", "--verify-only"),
    ):
        code, out, err = cli(*words)
        assert code == 7 and where in out + err and "Traceback" not in err, (words, err)


@pytest.mark.parametrize(
    ("name", "alter", "where", "what"),
    [
        ("effect@1", lambda a: a[:, :-1], "document.parts[1].tokens", "3 entries along 'position'"),
        ("effect@1", lambda a: a[None], "recipe.returns.effect.dims", "2 names for the 3 dim"),
        ("top@0", lambda a: a.astype(np.float32), "recipe.returns.top", "holds float32, not tok"),
        ("effect", lambda a: a[:-1], "document.axes.effect", "not those of the shape (3, 4)"),
        ("effect", lambda a: a.reshape(-1), "document.axes.effect", "the shape (16,)"),
        ("effect:low", lambda a: a[..., :2], "document.axes.effect", "an interval of the shape"),
        ("effect:high", lambda a: None, "document.axes.effect", "an interval of the shape None"),
        ("score@2", lambda a: a.reshape(1), "recipe.returns.score.dims", "0 names for the 1 dim"),
        ("curve@0", lambda a: None, "document.parts", "there is no array curve@0"),
    ],
)
def test_arrays_that_the_rest_of_a_run_contradicts_are_damage(run, cli, name, alter, where, what):
    arrays = dict(run.arrays())
    arrays[name] = alter(arrays[name])
    arrays = {n: a for n, a in arrays.items() if a is not None}
    run.arrays_file.write_bytes(arrays_to_bytes(arrays))
    digest = hashlib.sha256(run.arrays_file.read_bytes()).hexdigest()
    broken = changed(run, lambda d: d["artifacts"].update({ARRAYS: digest}))
    with pytest.raises(DamagedRun) as caught:
        broken.result()
    assert caught.value.where == where and what in caught.value.what
    for words in (("view", "--plain"), ("export", "--table", "top"), ("compare", "aaaa", "aaaa")):
        code, _, err = cli(*words)
        assert code == 7 and where in err, (words, err)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": 1}', "[" * 100_000])
def test_what_is_no_document_is_damaged_too(run, text):
    (run.path / "run.json").write_text(text)
    with pytest.raises(DamagedRun, match="is damaged"):
        _ = RunFolder(run.path).info


def test_other_versions_are_told_from_damage(run):
    data = run.data
    for schema in (0, 2, "1", None):
        (run.path / "run.json").write_text(json.dumps({**data, "schema": schema}))
        with pytest.raises(Mismatch, match=f"has schema {schema}, this version reads 1") as caught:
            _ = RunFolder(run.path).info
        assert not isinstance(caught.value, DamagedRun)


def test_what_a_later_version_adds_does_not_hinder(run):
    def add(data: dict[str, Any]) -> None:
        for part in (data, data["recipe"], data["document"], data["provenance"]):
            part["of a later version"] = {"a": [1]}

    assert changed(run, add).result().names() == run.result().names()


def test_a_provenance_of_few_words_is_one():
    assert Provenance.from_json({}) == Provenance()
    assert Provenance().where == "" and Provenance().kind == "?"
    far = Provenance.from_json({**provenance(), "backend": "ndif https://far.example"})
    assert (far.host, far.where) == ("https://far.example", "local-cpu https://far.example")
    with pytest.raises(WrongJson, match=r"provenance\.record\.seconds: is a text"):
        Provenance.from_json({"record": {"seconds": "1"}})


def test_lists_say_what_is_damaged_and_need_no_more_than_they_show(run, project):
    changed(run, lambda data: data["document"].clear())
    (row,) = Runs(project).rows()
    assert (row.status, row.recipe, row.model) == ("done", "probing", "tiny")
    changed(run, lambda data: data["provenance"]["model"].update(name=["x"]))
    (row,) = Runs(project).rows()
    assert row.status == "damaged" and "provenance.model.name" in (row.problem or "")


def test_a_file_that_is_not_as_recorded_is_named(run):
    run.check()
    assert list(run.changed_files()) == []
    (run.path / "config.lock.yaml").write_text("other")
    assert [part for part, _ in run.changed_files()] == ["config.lock.yaml"]
    with pytest.raises(Mismatch, match=r"config\.lock\.yaml is damaged: its SHA-256"):
        run.check()
    (run.path / ARRAYS).unlink()
    assert dict(run.changed_files(ARRAYS)) == {ARRAYS: "cannot be read: No such file or directory"}


def test_whatever_names_a_run_finds_it(run, project, tmp_path):
    newer = RunFolder(kept(project, result(), "bbbb2222").path)  # type: ignore[arg-type]
    for named in (run.name, run.id8, "aaaa", str(run.path), run.path, f"runs/{run.name}"):
        assert find_run(named, project).path == run.path
    assert find_run(None, project).path == newer.path
    assert isinstance(find_run_or_study("aaaa", project), RunFolder)
    assert find_run_or_study(None, project) == newer
    point = PointRecord(0, "probing", "tiny", "p", {}, None, "local", "")
    StudyRecords(project).begin(StudyRecord("mine", "t", "q", [point]), b"")
    assert find_run_or_study("mine", project) == StudyRecords(project).read("mine")
    with pytest.raises(NotFound):
        find_run("mine", project)
    kept(project, result(), "aaaa3333")
    with pytest.raises(UsageError, match="matches 2 runs"):
        find_run("aaaa", project)


def test_a_run_that_failed_has_no_result(project):
    kept(project, result(), error="no memory")
    with pytest.raises(RunFailed, match="no memory"):
        load_run(None, project)
    assert read_info(find_run(None, project).path / "run.json").failed


def test_prompts_whose_values_have_other_sizes_than_their_mean_are_damage(tmp_path):
    from ..report.shown import kept, result

    found = result()
    found.arrays["curve@1"] = np.zeros((2, 3), np.float32)
    folder = kept(tmp_path, found).path
    with pytest.raises(Mismatch, match="prompt 2 has 3 along 'layer', the mean 4"):
        load_run(str(folder))

"""Runs computed again from their folders alone, and folders checked without computing anything."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import remote_mi as mi
from remote_mi.common.errors import Mismatch, NotFound, UsageError
from remote_mi.jobs.job import Job
from remote_mi.jobs.reproduction.rebuild import JobWithRecordedCode, read_kept, recorded_job
from remote_mi.jobs.reproduction.verify import ARRAYS, verify
from remote_mi.store.arrays import arrays_from_bytes, arrays_to_bytes
from remote_mi.store.lock import LOCK
from remote_mi.store.run_record import id8_of
from remote_mi.store.studies import PointRecord, StudyRecord, StudyRecords

PROMPT = "When Mary and John went to the store"
RECIPE = '''
from measures.sizes import size
from remote_mi.interventions import run
from remote_mi import recipe
import torch

@recipe(over="OVER", returns={"norm": DIMS})
def norms(lm, prompt, *, power: float = 2.0):
    """Norms of the stream."""
    BODY
'''
EACH = 'return {"norm": torch.stack([size(s[0], power) for s in run(lm, prompt, "resid_post").values])}'
ALL = (
    'return {"norm": [torch.stack([size(s[0], power) for s in run(lm, p, "resid_post").values])'
    " for p in prompt]}"
)


def own_recipe(project, over="prompt"):
    """A recipe of the project with a local package, whose name in Python hides nothing."""
    folder = project / "recipes"
    (folder / "measures").mkdir(parents=True, exist_ok=True)
    dims = '("layer", "position")' if over == "prompt" else '("prompt", "layer", "position")'
    text = RECIPE.replace("OVER", over).replace("DIMS", dims)
    (folder / "norms.py").write_text(text.replace("BODY", EACH if over == "prompt" else ALL))
    (folder / "measures" / "__init__.py").write_text("FACTOR = 3.0\n")
    (folder / "measures" / "sizes.py").write_text(
        "from measures import FACTOR\n\ndef size(x, power):\n"
        "    return FACTOR * x.abs().pow(power).sum(-1)\n"
    )


def run_own(project, model, over="prompt"):
    own_recipe(project, over)
    return mi.run("norms", model=str(model), pairs=[{"prompt": PROMPT}, {"prompt": "Mary and"}])


def taken_away(result, place):
    """The run's folder copied to where nothing else of its project is."""
    folder = place / "handed-in" / result.path.name
    shutil.copytree(result.path, folder)
    return folder


def rewrite(folder, file, change):
    """Change a JSON or YAML file of a run."""
    load, dump = (
        (json.loads, json.dumps) if file == "run.json" else (yaml.safe_load, yaml.safe_dump)
    )
    data = load((folder / file).read_text())
    change(data)
    (folder / file).write_text(dump(data))


def hash_again(folder, *files):
    """Record the hashes of files as they are now: a forgery that is consistent so far."""

    def change(info):
        for file in files:
            sha = hashlib.sha256((folder / file).read_bytes()).hexdigest()
            info["artifacts"][file] = sha

    rewrite(folder, "run.json", change)


@pytest.mark.parametrize("over", ["prompt", "prompts"])
def test_a_run_is_computed_again_from_its_folder_alone(
    project, cache, cli, tmp_path, monkeypatch, tiny_llama, over
):
    result = run_own(project, tiny_llama, over)
    folder = taken_away(result, tmp_path)
    shutil.rmtree(project)
    shutil.rmtree(cache)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "measures").mkdir(parents=True)
    (elsewhere / "measures" / "__init__.py").write_text("raise ImportError('not this one')\n")
    monkeypatch.setenv("REMOTE_MI_PROJECT", str(elsewhere))
    monkeypatch.chdir(elsewhere)
    found = mi.reproduce(folder)
    assert found.matches and found.comparison.worst.relative == 0 and not found.notes
    again = found.comparison.b
    assert (
        again.provenance["cache"] == "miss" and again.provenance["key"] == result.provenance["key"]
    )
    assert again.provenance["record"]["parts_from_cache"] == 0
    assert not (elsewhere / "runs").exists() and not (cache / "v1" / "ac").exists()


def test_neither_runs_nor_cache_answer_and_the_new_run_is_kept_on_request(
    project, cli, tmp_path, tiny_llama
):
    result = mi.run("logit_lens", model=str(tiny_llama), prompt=PROMPT)
    code, out, err = cli("reproduce", result.run_id[-8:], "--keep", tmp_path / "again")
    assert code == 0 and "reproduced: all values are the same" in out and "kept in" in err
    (kept,) = (tmp_path / "again").iterdir()
    assert mi.load_run(str(kept)).provenance["record"]["forward_passes"] > 0
    assert [p.name for p in (project / "runs").glob("2*")] == [result.run_id]
    assert verify(kept).holds


def test_numbers_that_the_model_does_not_give_are_noticed(project, cli, tiny_llama):
    result = mi.run("logit_lens", model=str(tiny_llama), prompt=PROMPT)
    arrays = arrays_from_bytes((result.path / ARRAYS).read_bytes(), result.path)
    arrays["kl"] = arrays["kl"] + np.float32(0.01)
    (result.path / ARRAYS).write_bytes(arrays_to_bytes(arrays))
    hash_again(result.path, ARRAYS)
    assert verify(result.path).holds, "a careful forgery is consistent in itself"
    code, out, err = cli("reproduce", result.run_id)
    assert code == 7 and "beyond the tolerance of 0.0001: kl" in out and "1 of 1" in err
    code, out, _ = cli("reproduce", result.run_id, "--json", "--tolerance", "0.1")
    assert code == 0 and json.loads(out)["runs"][0]["matches"] is True


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def comment(path):
    path.write_text(path.read_text() + "\n# a comment\n")


@pytest.mark.parametrize(
    "file, edit",
    [
        (ARRAYS, cut),
        (LOCK, comment),
        ("source/norms.py", comment),
        ("source/measures/sizes.py", Path.unlink),
        ("source/other.py", lambda path: path.write_text("x = 1\n")),
        ("events.jsonl", Path.unlink),
        ("run.json", cut),
    ],
)
def test_an_edited_file_is_noticed_and_named(project, cli, tiny_llama, file, edit):
    result = run_own(project, tiny_llama)
    assert cli("reproduce", result.run_id, "--verify-only")[0] == 0
    edit(result.path / file)
    code, out, err = cli("reproduce", result.run_id, "--verify-only")
    assert code == 7 and file in out + err and "Traceback" not in err
    assert cli("reproduce", result.run_id)[0] == 7, "nor is it executed"


def swap(data, path, value):
    for name in path[:-1]:
        data = data[name]
    data[path[-1]] = value


@pytest.mark.parametrize(
    "file, path, value, said",
    [
        (LOCK, ["parameters", "power"], 1.0, "parameters"),
        (LOCK, ["prompts", "examples", 0, "clean"], "John and Mary", "prompts"),
        (LOCK, ["drop_invalid"], True, "does not yield the recorded key"),
        (LOCK, ["recipe", "file"], "../norms.py", "recipe.file"),
        (LOCK, ["key"], "0" * 64, "key"),
        ("run.json", ["provenance", "key"], "0" * 64, "key"),
        ("run.json", ["provenance", "record"], {}, "lacks: record"),
        ("run.json", ["status"], "failed", "the run is failed"),
        ("run.json", ["document", "axes", "norm", "layer"], [0], "norm"),
        ("run.json", ["artifacts", "../run.json"], "0" * 64, "outside"),
    ],
)
def test_a_lie_that_hashes_right_contradicts_the_rest(
    project, cli, tiny_llama, file, path, value, said
):
    result = run_own(project, tiny_llama)
    rewrite(result.path, file, lambda data: swap(data, path, value))
    hash_again(result.path, LOCK)
    code, out, err = cli("reproduce", result.path, "--verify-only")
    assert code == 7 and said in out and "Traceback" not in err


def test_a_run_of_an_older_version_is_checked_as_far_as_it_goes(project, cli, tiny_llama):
    result = run_own(project, tiny_llama)
    rewrite(result.path, "run.json", lambda d: d.update(artifacts={ARRAYS: d["artifacts"][ARRAYS]}))
    code, out, _ = cli("reproduce", result.run_id, "--verify-only")
    assert code == 0 and "an older run" in out
    rewrite(result.path, LOCK, lambda d: d["prompts"]["examples"][0].update(template="other"))
    code, out, _ = cli("reproduce", result.run_id, "--verify-only")
    assert code == 7 and "does not yield the recorded key" in out


def test_another_version_of_the_kit_is_said_and_is_no_edit(project, cli, tiny_llama):
    result = run_own(project, tiny_llama)
    kept = read_kept(result.path)
    job = recorded_job(kept, result.path / "source", project)
    older = JobWithRecordedCode(
        **{f.name: getattr(job, f.name) for f in fields(Job)}, digests={"norms": "1" * 64}
    )
    rewrite(
        result.path, LOCK, lambda d: (d.update(key=older.key), d["recipe"].update(code="1" * 64))
    )
    rewrite(result.path, "run.json", lambda d: d["provenance"].update(key=older.key, code="1" * 64))
    hash_again(result.path, LOCK)
    where = kept.info.made.environment
    folder = result.path.with_name(result.run_id[:-8] + id8_of(older.key, where))
    result.path.rename(folder)
    code, out, _ = cli("reproduce", folder, "--verify-only")
    assert code == 0 and "remote_mi's own code" in out
    found = mi.reproduce(folder)
    assert found.matches and "remote_mi's own code" in found.notes[0]


def test_a_model_folder_may_move_and_may_not_change(project, cli, tmp_path, tiny_llama):
    model = tmp_path / "here"
    shutil.copytree(tiny_llama, model)
    result = mi.run("logit_lens", model=str(model), prompt=PROMPT)
    model.rename(tmp_path / "there")
    with pytest.raises(NotFound, match="--model FOLDER"):
        mi.reproduce(result)
    assert mi.reproduce(result, model=tmp_path / "there").matches
    (tmp_path / "there" / "generation_config.json").write_text("{}")
    with pytest.raises(Mismatch, match="not the one"):
        mi.reproduce(result, model=tmp_path / "there")
    assert cli("reproduce", result.run_id, "--verify-only")[0] == 0, "that needs no model"


def test_all_that_a_prompt_can_have_comes_back_from_the_lock(project, tiny_llama):
    pairs = [
        {
            "clean": PROMPT,
            "corrupt": PROMPT.replace("John", "Mary"),
            "answers": [" Mary", " John"],
            "wrongs": [" Rome", " Paris"],
            "labels": {"place": "store"},
            "template": "t",
            "label": "one",
            "group": "g",
        },
        {
            "clean": PROMPT,
            "corrupt": PROMPT.replace("Mary", "John"),
            "answer": " Mary",
            "wrong": " John",
        },
    ]
    result = mi.run("head_patching", model=str(tiny_llama), pairs=pairs)
    job = recorded_job(read_kept(result.path), result.path / "source", project)
    assert job.key == result.provenance["key"]
    first = job.prompts.examples[0]
    assert first.answers == (" Mary", " John") and first.corrupt_labels == first.labels != {}
    assert (first.template, first.label, first.group) == ("t", "one", "g")
    assert replace(job, drop_invalid=True).key != job.key


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe, given",
    [
        ("patchscopes", {"prompt": PROMPT, "inspection": "Mary and John", "steps": 2}),
        ("head_detectors", {}),
        ("linear_probe", {"phenomenon": "gendered_pronoun", "n": 12}),
        ("activation_patching", {"phenomenon": "ioi", "n": 3}),
    ],
)
def test_built_in_recipes_of_every_kind_are_reproduced(project, tiny_llama, recipe, given):
    result = mi.run(recipe, model=str(tiny_llama), **given)
    assert verify(result.path).holds
    assert mi.reproduce(result).matches


def test_a_recipe_of_a_notebook_says_why_it_cannot_be_run_from_a_folder(
    project, cli, tiny_llama, tmp_path
):
    result = mi.run("logit_lens", model=str(tiny_llama), prompt=PROMPT)
    rewrite(result.path, LOCK, lambda d: d["recipe"].update(file=None))
    hash_again(result.path, LOCK)
    with pytest.raises(UsageError, match="notebook"):
        mi.reproduce(result)
    code, out, _ = cli("reproduce", result.run_id, "--verify-only")
    assert code == 0 and "cannot be computed again" in out


def a_study(project, *results):
    """A study whose points are these runs, and one that is not finished."""
    points = [
        PointRecord(i, r.recipe["name"], "tiny", "p", {}, None, "local", r.provenance["key"])
        for i, r in enumerate(results)
    ]
    waiting = PointRecord(len(points), "logit_lens", "tiny", "p", {}, None, "local", "f" * 64)
    records = StudyRecords(project)
    record = records.begin(StudyRecord("both", "", "", [*points, waiting]), b"study: both\n")
    for point, result in zip(points, results, strict=True):
        point.state, point.run = "done", result.run_id
        records.note(record, point)
    return record.path


def test_every_finished_run_of_a_study_is_computed_again(
    project, cli, tmp_path, monkeypatch, tiny, tiny_llama
):
    runs = [
        mi.run("logit_lens", model=str(m), prompt=PROMPT, top=top)
        for m, top in ((tiny_llama, 2), (tiny("gpt2"), 2), (tiny_llama, 3))
    ]
    a_study(project, *runs)
    (project / "both.yaml").write_text("study: both\n")
    for wanted in ("both", "study-both", "both.yaml"):
        code, out, err = cli("reproduce", wanted, "--verify-only")
        assert code == 0 and out.count("verified") == 3 and "1 of 4 points" in err
    moved = tmp_path / "copy"
    shutil.copytree(project / "runs", moved)
    monkeypatch.setenv("REMOTE_MI_PROJECT", str(tmp_path))
    code, out, err = cli("reproduce", moved / "study-both")
    assert code == 0 and out.count("reproduced: all values are the same") == 3
    assert [line.split()[0] for line in out.splitlines()] == [r.run_id for r in runs]
    assert err.count("loading") <= 2, "each model is loaded once"
    path = moved / runs[1].run_id / ARRAYS
    cut(path)
    code, out, err = cli("reproduce", moved / "study-both", "-q")
    assert code == 7 and out.count("all values are the same") == 2 and runs[1].run_id in err
    code, out, err = cli("reproduce", moved / "study-both", "--verify-only", "--json")
    assert code == 7 and [r["holds"] for r in json.loads(out)["runs"]] == [True, False, True]
    shutil.rmtree(moved / runs[2].run_id)
    assert cli("reproduce", moved / "study-both")[0] == 7


def test_a_run_of_another_job_in_a_studys_place_is_noticed(project, cli, tiny_llama):
    one, other = (mi.run("logit_lens", model=str(tiny_llama), prompt=PROMPT, top=t) for t in (1, 2))
    path = a_study(project, one)
    line = json.loads((path / "progress.jsonl").read_text())
    (path / "progress.jsonl").write_text(json.dumps({**line, "run": other.run_id}) + "\n")
    code, _, err = cli("reproduce", "both", "--verify-only")
    assert code == 7 and "belongs to a different job than the study says" in err

"""The cache and the runs: whole or not at all, checked when read, safe with several processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time

import numpy as np
import pytest

import remote_mi as mi
from remote_mi.common.digests import digest
from remote_mi.common.errors import Mismatch, NotFound, StoreError
from remote_mi.common.paths import cache_root
from remote_mi.store.cache import Cache
from remote_mi.store.environment import Environment
from remote_mi.store.result import Result
from remote_mi.store.run_record import RunRecord, id8_of
from remote_mi.store.runs import Runs

from ...conftest import MARY
from ...warm import python

HERE = Environment("local-cpu", "0.8.1", "5.22.2", "2.13.0")
KEY = "ab" * 32


def filled(tmp_path):
    store = Cache(tmp_path / "store")
    store.put(KEY, HERE, {"a": 1}, {"x": np.arange(3.0), "n": np.float32(2)}, {"s": 1})
    return store


def test_what_is_put_is_got(tmp_path):
    entry = filled(tmp_path).get(KEY, HERE)
    assert entry is not None
    assert entry.document == {"a": 1} and entry.record == {"s": 1}
    assert entry.arrays["x"].tolist() == [0, 1, 2]
    assert entry.arrays["n"].shape == ()


def test_an_entry_serves_the_same_class_and_minor_versions_only(tmp_path):
    store = filled(tmp_path)
    assert store.get(KEY, Environment("local-cpu", "0.8.9", "5.22.0", "2.13.1+cpu"))
    for other in (
        Environment("local-cuda", "0.8.1", "5.22.2", "2.13.0"),
        Environment("local-cpu", "0.9.0", "5.22.2", "2.13.0"),
        Environment("local-cpu", "0.8.1", "5.21.2", "2.13.0"),
        Environment("ndif http://127.0.0.1", "0.8.1", "5.22.2", "2.13.0"),
    ):
        assert store.get(KEY, other) is None


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "empty"])
@pytest.mark.parametrize("where", ["cas", "ac"])
def test_damage_is_noticed_set_aside_and_mended(tmp_path, harm, where):
    store = filled(tmp_path)
    for path in [p for p in (store.root / where).rglob("*") if p.is_file()]:
        content = bytearray(path.read_bytes())
        if harm == "delete":
            path.unlink()
            continue
        if harm == "flip":
            content[len(content) // 2] ^= 0xFF
        path.write_bytes({"truncate": content[:-3], "empty": b""}.get(harm, content))
    assert store.get(KEY, HERE) is None
    store.put(KEY, HERE, {"a": 1}, {"x": np.arange(3.0)}, {})
    entry = store.get(KEY, HERE)
    assert entry is not None and entry.arrays["x"].tolist() == [0, 1, 2]


def test_a_cache_that_cannot_be_written_says_so():
    store = Cache(cache_root().__class__("/proc/no-such-place"))
    with pytest.raises(StoreError, match="REMOTE_MI_CACHE"):
        store.put(KEY, HERE, {}, {"x": np.zeros(1)}, {})
    assert store.get(KEY, HERE) is None


def run_small(model, **options):
    given = {**MARY, **options}
    return mi.run("activation_patching", model=str(model), **given)


def test_a_repeated_job_is_a_hit_and_makes_no_second_run(project, tiny_llama):
    first = run_small(tiny_llama)
    again = run_small(tiny_llama)
    assert first.provenance["cache"] == "miss" and again.provenance["cache"] == "hit"
    assert first.run_id == again.run_id
    np.testing.assert_array_equal(first["recovery"].values, again["recovery"].values)
    other = run_small(tiny_llama, site="mlp_out")
    assert other.provenance["cache"] == "miss"


def test_another_project_gets_its_own_copy_from_the_cache(project, tiny_llama, tmp_path):
    first = run_small(tiny_llama)
    elsewhere = tmp_path / "elsewhere"
    second = run_small(tiny_llama, project=elsewhere)
    assert second.provenance["cache"] == "hit"
    assert second.path is not None and second.path.parent == elsewhere / "runs"
    assert second.path.name.endswith(first.run_id[-8:])
    np.testing.assert_array_equal(first["recovery"].values, second["recovery"].values)


@pytest.mark.parametrize(
    "forge",
    [
        lambda document: document.pop("axes"),
        lambda document: document["axes"]["recovery"].update(layer=[0]),
        lambda document: document["parts"][0]["tokens"].append("x"),
        lambda document: document.update(vocabulary=3),
    ],
)
def test_an_entry_with_all_its_hashes_that_is_no_result_of_the_recipe_is_set_aside(
    project, tiny_llama, cache, forge
):
    first = run_small(tiny_llama)
    shutil.rmtree(project / "runs")
    store = Cache(cache_root())
    path = next(p for p in store.entry_paths() if "part" not in json.loads(p.read_bytes())["about"])
    entry = json.loads(path.read_bytes())
    document = json.loads(store.blob_path(entry["document"]).read_bytes())
    forge(document)
    content = json.dumps(document).encode()
    entry["document"] = hashlib.sha256(content).hexdigest()
    store.blob_path(entry["document"]).parent.mkdir(exist_ok=True)
    store.blob_path(entry["document"]).write_bytes(content)
    del entry["check"]
    path.write_text(json.dumps({**entry, "check": digest(entry)}))
    assert store.read_verified(path).document == document
    again = run_small(tiny_llama)
    assert again.provenance["cache"] == "miss"
    np.testing.assert_array_equal(first["recovery"].values, again["recovery"].values)
    assert [p for p in (store.root / "quarantine").iterdir() if p.name.endswith(path.name)]


def test_a_run_folder_is_complete_and_survives_without_the_cache(project, tiny_llama, cache):
    path = run_small(tiny_llama).path
    assert path is not None
    names = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert {
        "run.json",
        "config.lock.yaml",
        "events.jsonl",
        "artifacts/result.safetensors",
        "source/activation_patching.py",
    } <= names
    shutil.rmtree(cache)
    assert run_small(tiny_llama).provenance["hit_from"] == "run"
    loaded = mi.load_run(path.name[-8:])
    assert loaded["recovery"].shape == (3, 14)


def test_added_pairs_compute_only_what_is_new(project, tiny_llama):
    first = mi.run("head_patching", model=str(tiny_llama), phenomenon="ioi:store", n=3)
    more = mi.run("head_patching", model=str(tiny_llama), phenomenon="ioi:store", n=5)
    assert first.provenance["record"]["parts_from_cache"] == 0
    assert more.provenance["record"]["parts_from_cache"] == 3
    np.testing.assert_array_equal(first.each("effect")[2].values, more.each("effect")[2].values)


def test_a_damaged_run_is_noticed_and_the_job_served_from_the_cache(project, tiny_llama):
    first = run_small(tiny_llama)
    assert first.path is not None
    target = first.path / "artifacts" / "result.safetensors"
    content = bytearray(target.read_bytes())
    content[-1] ^= 0xFF
    target.write_bytes(content)
    with pytest.raises(Mismatch, match="damaged"):
        mi.load_run(first.run_id)
    again = run_small(tiny_llama)
    assert again.provenance["hit_from"] == "cache"
    np.testing.assert_array_equal(first["recovery"].values, again["recovery"].values)


def test_a_run_of_a_newer_schema_is_refused_with_advice(project, tiny_llama):
    path = run_small(tiny_llama).path
    assert path is not None
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**info, "schema": 99}))
    with pytest.raises(Mismatch, match="update remote_mi"):
        mi.load_run(path.name)


def test_runs_are_found_by_prefix_and_unknown_ones_refused(project, tiny_llama):
    name = run_small(tiny_llama).run_id
    runs = Runs(project)
    assert runs.find(None) == runs.find(name[-8:]) == runs.find(name[-8:][:4]) == name
    with pytest.raises(NotFound, match="runs ls"):
        runs.find("zzzz")


def test_one_percent_of_the_cache_damaged_is_noticed_and_mended(tmp_path):
    store, generator = Cache(tmp_path / "store"), random.Random(0)
    keys = [f"{index:064x}" for index in range(300)]
    for index, key in enumerate(keys):
        store.put(key, HERE, {"i": index}, {"x": np.full(3, float(index))}, {}, {"recipe": "r"})
    files = sorted(p for w in ("ac", "cas") for p in (store.root / w).rglob("*") if p.is_file())
    for number, path in enumerate(generator.sample(files, len(files) // 100 + 3)):
        content = bytearray(path.read_bytes())
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        if number % 3 == 2:
            path.unlink()
        else:
            path.write_bytes(content if number % 3 == 0 else content[: len(content) // 2])
    missed = []
    for index, key in enumerate(keys):
        entry = store.get(key, HERE)
        if entry is None:
            missed.append(key)
            store.put(key, HERE, {"i": index}, {"x": np.full(3, float(index))}, {})
            entry = store.get(key, HERE)
        assert entry is not None and entry.document == {"i": index}
        assert entry.arrays["x"].tolist() == [index] * 3
    assert len(missed) == len(files) // 100 + 3


def test_what_is_damaged_of_a_job_is_computed_again_and_the_rest_is_taken(
    project, tiny_llama, cache
):
    first = mi.run("head_patching", model=str(tiny_llama), phenomenon="ioi:store", n=4)
    shutil.rmtree(project / "runs")
    entries = list(Cache(cache / "v1").entry_paths())
    parts = [p for p in entries if json.loads(p.read_text())["about"].get("part")]
    assert len(parts) == 4 and len(entries) == 5
    for path in entries:
        if path not in parts:
            path.unlink()
    parts[0].write_bytes(parts[0].read_bytes()[:-20])
    again = mi.run("head_patching", model=str(tiny_llama), phenomenon="ioi:store", n=4)
    assert again.provenance["cache"] == "miss"
    assert again.provenance["record"]["parts_from_cache"] == 3
    np.testing.assert_array_equal(first["recovery"].values, again["recovery"].values)


def without_an_output(arrays):
    del arrays[min(arrays)]


def with_another_output(arrays):
    arrays["recovery@9"] = np.zeros(3)


def of_another_dimension(arrays):
    arrays["effect"] = arrays["effect"][None]


def of_no_real_numbers(arrays):
    arrays["effect"] = arrays["effect"].astype(np.complex64)


@pytest.mark.parametrize(
    "forge", [without_an_output, with_another_output, of_another_dimension, of_no_real_numbers]
)
def test_outputs_of_a_call_that_the_recipe_does_not_return_are_computed_again(
    project, tiny_llama, cache, forge
):
    """An entry with all its hashes, as whoever can write the cache may make it."""
    first = mi.run("head_patching", model=str(tiny_llama), phenomenon="ioi:store", n=3)
    shutil.rmtree(project / "runs")
    store = Cache(cache / "v1")
    parts = 0
    for path in list(store.entry_paths()):
        entry = store.read_verified(path)
        if not json.loads(path.read_text())["about"].get("part"):
            path.unlink()
        elif not parts:
            parts += 1
            forge(entry.arrays)
            about = json.loads(path.read_text())["about"]
            store.put(entry.key, entry.environment, {}, entry.arrays, {}, about)
    again = mi.run("head_patching", model=str(tiny_llama), phenomenon="ioi:store", n=3)
    assert again.provenance["record"]["parts_from_cache"] == 2
    assert len(list((store.root / "quarantine").iterdir())) == 1
    np.testing.assert_array_equal(first["recovery"].values, again["recovery"].values)


def toy_run(runs, key, *, id8=None, value=1.0, error=None, where=HERE):
    """A run as the runner writes one, without a model."""
    provenance = {
        "key": key,
        "environment": where.to_json(),
        "model": {"name": "m"},
        "prompts": {"origin": "ioi"},
        "parameters": {"site": "a"},
        "time": "2026",
    }
    recipe = {"name": "toy", "returns": {}, "summaries": {}}
    document = {"parts": [], "axes": {}, "notes": [], "vocabulary": {}}
    result = Result(recipe, document, {"score": np.float64(value)}, provenance)
    return runs.write(RunRecord(id8 or id8_of(key, where), result, {}, error=error)).run_id


def test_two_jobs_that_share_their_digits_are_told_apart(tmp_path, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # all within the second, however busy it is
    runs = Runs(tmp_path)
    names = [toy_run(runs, key, id8="abcdef12", value=v) for key, v in (("a", 1.0), ("b", 2.0))]
    assert len(set(names)) == 2 and runs.ids() == sorted(names)
    for key, value in (("a", 1.0), ("b", 2.0)):
        found = runs.lookup(key, HERE)
        assert found is not None and float(found.arrays["score"]) == value
    assert runs.lookup("c", HERE) is None
    other = Environment("local-cuda", "0.8.1", "5.22.2", "2.13.0")
    assert runs.lookup("a", other) is None
    assert toy_run(runs, "a", id8="abcdef12") in names  # the same run within the second


def test_a_run_that_failed_is_no_hit_and_does_not_hide_its_repetition(tmp_path):
    runs = Runs(tmp_path)
    failed = toy_run(runs, "a", error="no memory")
    assert runs.lookup("a", HERE) is None and runs.latest_done() == {}
    done = toy_run(runs, "a")
    assert failed != done and runs.latest_done() == {("a", HERE.id): done}
    assert [(r.name, r.status) for r in runs.rows()] == [(failed, "failed"), (done, "done")]


def test_the_index_of_runs_follows_what_is_done_to_the_folder_by_hand(tmp_path):
    runs, other = Runs(tmp_path), Runs(tmp_path / "other")
    first = toy_run(runs, "a")
    (runs.folder / "study-mine").mkdir()
    assert [r.name for r in runs.rows()] == [first] and runs.rows()[0].scalars == {"score": 1.0}
    copied = toy_run(other, "b")
    shutil.copytree(
        other.folder / copied, runs.folder / copied, ignore=shutil.ignore_patterns("run.json")
    )
    assert runs.lookup("b", HERE) is None
    assert {r.name: r.status for r in runs.rows()}[copied] == "damaged"
    shutil.copy(other.folder / copied / "run.json", runs.folder / copied)
    assert runs.lookup("b", HERE) is not None
    assert set(runs.latest_done().values()) == {first, copied}
    shutil.rmtree(runs.folder / first)
    assert runs.lookup("a", HERE) is None and [r.name for r in runs.rows()] == [copied]
    (runs.folder / copied / "run.json").write_text("{")
    assert [r.status for r in runs.rows()] == ["damaged"]


@pytest.mark.parametrize("harm", ["delete", "garbage", "truncate", "rows", "version", "folder"])
def test_an_index_of_runs_that_is_lost_or_damaged_changes_nothing(tmp_path, harm):
    runs = Runs(tmp_path)
    name = toy_run(runs, "a")
    index = tmp_path / ".remote_mi" / "runs.sqlite"
    assert runs.lookup("a", HERE) is not None and index.exists()
    if harm in ("delete", "folder"):
        shutil.rmtree(index.parent)
    if harm == "folder":
        index.parent.write_text("")  # where nothing can be written
    elif harm == "garbage":
        index.write_bytes(b"no database" * 500)
    elif harm == "truncate":
        index.write_bytes(index.read_bytes()[:5000])
    elif harm in ("rows", "version"):
        import sqlite3

        said = {"rows": "UPDATE runs SET row = '{'", "version": "PRAGMA user_version = 7"}
        with sqlite3.connect(index) as db:
            db.execute(said[harm])
        db.close()
    again = Runs(tmp_path)
    assert [r.name for r in again.rows()] == [name]
    assert again.latest_done() == {("a", HERE.id): name}
    assert again.lookup("a", HERE) is not None and again.lookup("b", HERE) is None
    assert index.exists() == (harm != "folder")


def test_a_hit_is_remembered_as_use_without_an_index(tmp_path):
    store = filled(tmp_path)
    (path,) = store.entry_paths()
    os.utime(path, (1, 1))
    assert store.get(KEY, HERE) is not None
    assert time.time() - path.stat().st_mtime < 60


WORKER = """
import os, sys
import remote_mi as mi
r = mi.run("head_patching", model=sys.argv[1], phenomenon="ioi:store", n=24)
print(r.run_id)
"""


def start(model, project, cache, script=WORKER):
    environment = {
        **os.environ,
        "REMOTE_MI_CACHE": str(cache),
        "REMOTE_MI_PROJECT": str(project),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [*python(), "-c", script, str(model)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def everything_readable(cache):
    store = Cache(cache / "v1")
    for path in (store.root / "ac").rglob("*.json"):
        data = json.loads(path.read_text())
        assert store.get(data["key"], Environment(**data["environment"])) is not None
    assert not list((store.root / "quarantine").glob("*"))


def test_two_processes_running_one_job_at_once_both_succeed(project, cache, tiny_llama):
    both = [start(tiny_llama, project, cache) for _ in range(2)]
    said = [p.communicate(timeout=360) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    everything_readable(cache)
    result = mi.run("head_patching", model=str(tiny_llama), phenomenon="ioi:store", n=24)
    assert result.provenance["cache"] == "hit"


@pytest.mark.slow
def test_a_run_killed_at_random_moments_leaves_no_half_result(project, cache, tiny_llama):
    killed_at_random(project, cache, tiny_llama, times=3, seed=0)


def killed_at_random(project, cache, model, times, seed):
    """Kill the same job at random moments, then check the store and the final numbers."""
    reference = mi.run(
        "head_patching",
        model=str(model),
        phenomenon="ioi:store",
        n=24,
        project=project / "reference",
    )["recovery"].values
    shutil.rmtree(cache, ignore_errors=True)
    generator = random.Random(seed)
    for _ in range(2):  # what comes after the second begins as quickly as all others
        assert start(model, project, cache, "pass").wait(timeout=360) == 0
    begun = time.monotonic()
    whole = start(model, project / "timed", cache / "timed")
    assert whole.wait(timeout=360) == 0
    duration = time.monotonic() - begun
    for _ in range(times):
        process = start(model, project, cache)
        time.sleep(generator.uniform(0.5, 1.0) * duration)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=240)
        everything_readable(cache)
        for name in Runs(project).ids():
            mi.load_run(name, project)  # whatever is listed is whole
    final = mi.run("head_patching", model=str(model), phenomenon="ioi:store", n=24)
    np.testing.assert_array_equal(final["recovery"].values, reference)
    assert not list((project / "runs").glob(".partial-*"))


@pytest.mark.parametrize(
    "change",
    [
        {"about": [1]},
        {"about": 3},
        {"about": {"recipe": 1, "model": {"name": "m"}}},
        {"about": {"recipe": "r", "model": "m"}},
        {"document": "../../../project/mine.txt"},
        {"arrays": 5},
        {"record": []},
        {"time": "now"},
        {"environment": {"kind": 1, "nnsight": "0", "transformers": "0", "torch": "0"}},
    ],
)
def test_an_entry_that_somebody_altered_hinders_no_command(project, cli, cache, change):
    mine = project / "mine.txt"
    mine.write_text("mine")
    store = Cache(cache_root())
    store.put(KEY, HERE, {"a": 1}, {"x": np.arange(3.0)}, {"s": 1})
    path = next(store.entry_paths())
    entry = {**json.loads(path.read_bytes()), **change}
    del entry["check"]
    path.write_text(json.dumps({**entry, "check": digest(entry)}))
    for words in (("info",), ("info", "--json"), ("gc", "--max-size", "1kB"), ("verify", "-q")):
        code, out, err = cli("cache", *words)
        assert code in (0, 7) and "bug in remote_mi" not in err, (words, err)
        assert "--json" not in words or json.loads(out)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("value", [b"\x00", 3, 1.5, "", "x", "[]", '{"name": 3, "status": "done"}'])
@pytest.mark.parametrize("column", ["name", "key", "environment", "status", "row", "stamp"])
def test_an_index_of_runs_that_somebody_altered_changes_nothing(project, column, value):
    runs = Runs(project)
    name = toy_run(runs, "a")
    before = runs.rows()
    with contextlib.closing(sqlite3.connect(project / ".remote_mi" / "runs.sqlite")) as db:
        db.execute(f"UPDATE runs SET {column} = ?", (value,))
        db.commit()
    rows = Runs(project).rows()
    assert before[0] in rows
    assert all(isinstance(row.name, str) and isinstance(row.tags, list) for row in rows)
    found = Runs(project).lookup("a", HERE)
    assert found is None or found.run_id == name

"""`remote-mi cache` and `runs`: what is kept, why a result was missed, checking it, making room."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time

import numpy as np
import pytest

import remote_mi as mi
from remote_mi.common.paths import cache_root
from remote_mi.jobs.explain import describe_environment, differences
from remote_mi.store.cache import Cache
from remote_mi.store.cache_index import CacheIndex
from remote_mi.store.cache_upkeep import plan_sweep, sweep
from remote_mi.store.environment import Environment

from ...conftest import MARY

HERE = Environment("local-cpu", "0.8.1", "5.22.2", "2.13.0")
MINE = '''
import remote_mi as mi
from helpers import doubled

SCALE = 2.0

@mi.recipe(over="prompt", returns={"length": ()})
def mine(lm, prompt, *, factor: float = 1.0):
    """Counts.

    Args:
        factor: of the count.
    """
    import torch
    with lm.trace(prompt.ids):
        pass
    return {"length": torch.tensor(doubled(len(prompt.ids)) * factor * SCALE)}
'''
HELPERS = "def doubled(x):\n    return 2.0 * x\n"


@pytest.fixture
def filled(cache):
    """Twenty entries of a kB each, used one after the other; two of them name the same bytes."""
    store = Cache(cache_root())
    for index in range(20):
        values = np.full(250, float(max(index, 1)), np.float32)
        store.put(
            f"{index:064x}",
            HERE,
            {},
            {"x": values},
            {},
            {
                "recipe": f"r{index % 2}",
                "model": {"name": "m"},
                "part": index > 9,
                "code_parts": {"a": "b"},
            },
        )
    for path in [*store.entry_paths(), *store.blob_paths()]:
        os.utime(path, (1000, 1000))
    for path in store.entry_paths():
        moment = 1000 + int(path.parent.name, 16)
        os.utime(path, (moment, moment))
    return store


def kept(store):
    """Which of the twenty are whole, looked at without counting as use."""
    found = []
    for path in store.entry_paths():
        store.read_verified(path)
        found.append(int(path.parent.name, 16))
    return sorted(found)


@pytest.mark.parametrize("harm", ["none", "delete", "garbage", "folder"])
def test_info_counts_what_is_there_with_or_without_its_index(filled, cli, harm):
    before = json.loads(cli("cache", "info", "--json")[1])
    index = filled.root / "index.sqlite"
    assert index.exists()
    if harm == "garbage":
        index.write_bytes(b"no database" * 500)
    elif harm != "none":
        index.unlink()
    if harm == "folder":
        index.mkdir()
    code, out, err = cli("cache", "info", "--json")
    found = json.loads(out)
    assert code == 0 and not err and found == before
    assert (found["entries"], found["results"], found["parts"]) == (20, 10, 10)
    files = [*filled.entry_paths(), *filled.blob_paths()]
    assert found["bytes"] == sum(path.stat().st_size for path in files)
    assert [group["entries"] for group in found["by"]["recipes"]] == [10, 10]
    assert (found["oldest_use"], found["newest_use"]) == (1000, 1019)
    next(iter(filled.entry_paths())).unlink()
    assert json.loads(cli("cache", "info", "--json")[1])["entries"] == 19


def test_gc_takes_the_least_recently_used_first_and_bytes_only_when_nobody_names_them(filled, cli):
    total = sum(p.stat().st_size for p in [*filled.entry_paths(), *filled.blob_paths()])
    loose = filled.blob_path("ab" * 32)
    loose.parent.mkdir(parents=True, exist_ok=True)
    loose.write_bytes(b"x" * 5000)
    os.utime(loose, (1000, 1000))
    code, out, _ = cli("cache", "gc", "--max-size", str(total // 2), "--dry-run", "--json")
    said = json.loads(out)
    assert code == 0 and said["removed"] is False and kept(filled) == list(range(20))
    code, out, _ = cli("cache", "gc", "--max-size", str(total // 2), "--json")
    assert json.loads(out) == {**said, "removed": True}
    left = kept(filled)  # every one of them whole
    assert left == list(range(20 - len(left), 20)) and 5 < len(left) < 15
    after = sum(p.stat().st_size for p in [*filled.entry_paths(), *filled.blob_paths()])
    assert after <= total // 2 and after == total + 5000 - said["bytes"]
    assert not loose.exists()
    assert cli("cache", "gc")[1].startswith("0 entries and 0 other files removed")


def test_gc_spares_what_was_used_lately_and_says_so(filled, cli):
    assert filled.get(f"{0:064x}", HERE) is not None  # used now, though it is the oldest
    young = filled.blob_path("cd" * 32)
    young.parent.mkdir(parents=True, exist_ok=True)
    young.write_bytes(b"of a write under way")
    code, _, err = cli("cache", "gc", "--max-size", "0")
    assert code == 0 and kept(filled) == [0] and "kept 1 more entries" in err and young.exists()
    time.sleep(0.02)
    assert cli("cache", "gc", "--max-size", "0", "--spare", "0")[0] == 0
    assert kept(filled) == [] and not list(filled.blob_paths())
    assert cli("cache", "gc", "--max-size", "much")[0] == 2


def test_gc_never_takes_the_bytes_of_an_entry_that_is_being_written(cache, monkeypatch):
    from remote_mi.store import cache as module

    store, swept = Cache(cache_root()), []
    write = module.write_atomically

    def write_after_gc(target, content, tmp):
        if target.suffix == ".json":  # the worst moment: bytes are there, and nobody names them
            time.sleep(0.02)
            plan = plan_sweep(store, 0, 0, [])
            sweep(store, plan)
            swept.extend(plan.blobs)
        return write(target, content, tmp)

    monkeypatch.setattr(module, "write_atomically", write_after_gc)
    for number in range(3):
        store.put(f"{number:064x}", HERE, {}, {"x": np.full(3, 1.0)}, {})
        assert kept(store) == [number]
    assert len(swept) >= 6


def test_what_is_named_after_gc_has_decided_stays(filled):
    plan = plan_sweep(filled, 0, 60, [])
    assert len(plan.entries) == 20
    assert filled.get(f"{5:064x}", HERE) is not None  # used meanwhile
    filled.put("f" * 64, HERE, {}, {"x": np.full(250, 9.0, np.float32)}, {})  # the bytes of 9
    sweep(filled, plan)
    assert kept(filled) == [5, int("f" * 64, 16)]


def test_gc_and_a_writer_at_once_leave_only_whole_entries(cache):
    store, stop = Cache(cache_root()), threading.Event()

    def write():
        number = 0
        while not stop.is_set():  # the same bytes again and again, under ever new keys
            store.put(f"{number:064x}", HERE, {}, {"x": np.full(3, float(number % 2))}, {})
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            sweep(store, plan_sweep(store, 0, 0, ["tmp"]))
    finally:
        stop.set()
        writer.join(timeout=240)
    assert kept(store) == sorted(kept(store))


def test_verify_sets_aside_what_is_damaged_and_ends_with_code_7(filled, cli):
    assert cli("cache", "verify")[0] == 0
    entries, blobs = sorted(filled.entry_paths()), sorted(filled.blob_paths())
    arrays = filled.blob_path(json.loads(entries[7].read_text())["arrays"])
    arrays.write_bytes(arrays.read_bytes()[:-1])
    entries[3].write_bytes(entries[3].read_bytes().replace(b'"kind"', b'"kine"'))
    code, out, err = cli("cache", "verify", "--json")
    damaged = json.loads(out)["damaged"]
    assert code == 7 and "computed again" in err
    assert set(damaged) == {
        p.relative_to(filled.root).as_posix() for p in (arrays, entries[3], entries[7])
    }
    assert json.loads(out)["blobs"] == len(blobs)
    assert cli("cache", "verify")[0] == 0 and len(kept(filled)) == 18
    assert json.loads(cli("cache", "info", "--json")[1])["quarantine"] == 3
    cli("cache", "gc", "--quarantine")
    assert json.loads(cli("cache", "info", "--json")[1])["quarantine"] == 0


def test_runs_survive_an_empty_cache_are_verified_tagged_and_removed(project, tiny_llama, cli):
    first = mi.run("logit_lens", model=str(tiny_llama), prompt="The city of")
    second = mi.run("logit_lens", model=str(tiny_llama), prompt="When Mary and John")
    time.sleep(0.02)
    assert cli("cache", "gc", "--max-size", "0", "--spare", "0")[0] == 0
    again = mi.run("logit_lens", model=str(tiny_llama), prompt="The city of")
    assert again.provenance["hit_from"] == "run"
    assert cli("cache", "verify", "--runs")[0] == 0
    assert first.path is not None and second.path is not None
    lock = second.path / "config.lock.yaml"
    lock.write_text(lock.read_text() + "\n")
    code, out, err = cli("cache", "verify", "--runs")
    assert code == 7 and second.run_id in out and "config.lock.yaml" in out
    assert cli("runs", "tag", first.run_id[-8:], "good", "one")[0] == 0
    cli("runs", "tag", first.run_id[-8:], "one", "--remove")
    (tagged,) = json.loads(cli("runs", "ls", "--tag", "good", "--json")[1])["runs"]
    assert tagged["run"] == first.run_id and tagged["tags"] == ["good"]
    assert cli("runs", "tag", first.run_id[-8:], "a b")[0] == 2
    newest = max(first.run_id, second.run_id)
    assert cli("runs", "ls", "-q", "-n", "1")[1].split() == [newest[-8:]]
    code, out, err = cli("runs", "rm", second.run_id[-8:])
    assert code == 2 and "--yes" in err and second.path.exists()
    assert cli("runs", "rm", second.run_id[-8:], "--yes")[0] == 0
    assert not second.path.exists() and cli("runs", "ls", "-q")[1].split() == [first.run_id[-8:]]


def test_explain_names_what_differs_from_the_nearest_result(project, tiny_llama, cli):
    recipes = project / "recipes"
    recipes.mkdir()
    (recipes / "mine.py").write_text(MINE)
    (recipes / "helpers.py").write_text(HELPERS)
    model = project / "models" / "tiny"
    shutil.copytree(tiny_llama, model)
    words = ["mine", "--model", model, "-p", "prompt=The city of Paris"]

    def explained(*more, given=words):
        code, out, err = cli("cache", "explain", *given, *more)
        assert code == 0 and ("next:" in err or "--json" in more), err
        return out

    assert "none: the cache has no result of this recipe" in explained()
    assert cli("run", *words, "-q")[0] == 0
    assert "hit" in explained() and "is its result" in explained()
    assert "- parameter factor: 1.0 there, 3.0 here" in explained("--factor", "3")
    assert "- the model's chat: False there, True here" in explained("--chat")
    other = explained(given=[*words[:-1], "prompt=The city of Rome"])
    assert "- prompt 1 differs in clean: 'The city of Paris' there, 'The city of" in other
    assert "miss" in other and "nearest      a result" in other
    (recipes / "helpers.py").write_text(HELPERS.replace("2.0", "3.0"))
    assert explained().splitlines()[-1].strip() == "- the code of `doubled` in helpers.py changed"
    (recipes / "helpers.py").write_text(HELPERS)
    (recipes / "mine.py").write_text(MINE.replace("SCALE = 2.0", "SCALE = 4.0"))
    assert explained().splitlines()[-1].strip() == "- the code of `SCALE` in mine.py changed"
    (recipes / "mine.py").write_text(MINE)
    (model / "extra.json").write_text("{}")
    assert explained().splitlines()[-1].strip() == "- the model's files changed"
    (model / "extra.json").unlink()
    assert json.loads(explained("--json"))["hit"] is True


def test_explain_tells_which_prompts_are_there_already(project, tiny_llama, cli):
    words = ["head_patching", "--model", tiny_llama, "--phenomenon", "ioi:store"]
    assert cli("run", *words, "-n", "2", "-q")[0] == 0
    out = cli("cache", "explain", *words, "-n", "3")[1]
    assert "2 of 3 parts are cached" in out and "- 2 prompts there, 3 here; 2 are the same" in out


def test_a_result_of_another_environment_is_named_and_taken_on_request_only(
    project, tiny_llama, cli
):
    words = ["activation_patching", "--model", tiny_llama]
    words += [word for name, text in MARY.items() for word in ("-p", f"{name}={text}")]
    assert cli("run", *words, "-q")[0] == 0
    shutil.rmtree(project / "runs")
    store = Cache(cache_root())
    there = Environment("local-cuda", "0.8.1", "5.22.2", "2.12.0")
    for row in CacheIndex(store).rows():
        entry = store.get(row.key, row.environment)
        assert entry is not None
        record = {**entry.record, "environment": there.to_json()}
        store.put(entry.key, there, entry.document, entry.arrays, record, row.about)
        (store.root / row.path).unlink()
    out = cli("cache", "explain", *words)[1]
    assert "same key, computed in another environment: local-cuda" in out and "2.12.0" in out
    assert "not reused, because numbers may differ" in out and "--reuse-any" in out
    code, out, err = cli("run", *words, "--reuse-any", "--json")
    found = json.loads(out)["provenance"]
    assert code == 0 and "local-cuda" in found["reused"] and found["cache"] == "hit"
    assert found["environment"]["kind"] == "local-cuda" and "local-cuda" in err
    again = json.loads(cli("run", *words, "--reuse-any", "--json")[1])
    assert again["run"] == json.loads(out)["run"] and again["provenance"]["hit_from"] == "run"
    result = mi.run("activation_patching", model=tiny_llama, reuse_any=True, **MARY)
    assert result.run_id == again["run"] and "local-cuda" in result.provenance["reused"]
    shutil.rmtree(store.root / "ac")
    assert "in another environment: local-cuda" in cli("cache", "explain", *words)[1]
    kept = json.loads(cli("run", *words, "--reuse-any", "--json")[1])
    assert kept["run"] == again["run"], "a run is taken whether the cache has it or not"
    here = json.loads(cli("run", *words, "--json")[1])["provenance"]
    assert here["cache"] == "miss" and here["environment"]["kind"] == "local-cpu"
    taken = json.loads(cli("run", *words, "--reuse-any", "--json")[1])["provenance"]
    assert "reused" not in taken and taken["environment"]["kind"] == "local-cpu"


def test_every_kind_of_difference_has_its_words():
    def prompt(digest, **fields):
        return {"digest": digest, "fields": fields, "begins": digest}

    here = {
        "schema": 1,
        "file": "f.py",
        "code": "c",
        "parameters": {"a": 1},
        "drop_invalid": False,
        "code_parts": {"recipe:f": "1", "remote_mi.interventions.sites:read": "2", "m.n:": "3"},
        "declared": {"over": "pair", "returns": {}, "summaries": {}},
        "model": {"name": "m", "content": "x", "dtype": "auto"},
        "prompts": [prompt("p", clean="1"), prompt("q", clean="2")],
        "templates": "t",
        "classes": "",
    }

    def said(**changed):
        return differences({**here, **changed}, here)

    assert said() == []
    assert said(code_parts={}, code="d") == [
        "the code that the recipe reaches changed; it is not known which part"
    ]
    assert said(code_parts={**here["code_parts"], "m.n:": "4", "recipe:g": "5"}) == [
        "the module-level code of m/n.py changed",
        "the code of `g` in f.py was reached before, but is not now",
    ]
    parts = {**here["code_parts"], "remote_mi.interventions.sites:read": "9"}
    del parts["recipe:f"]
    assert said(code_parts=parts) == [
        "the code of `f` in f.py is reached now, but was not before",
        "the code of `read` in remote_mi.interventions.sites changed",
    ]
    assert said(parameters={}) == ["parameter a: nothing there, 1 here"]
    assert said(model={**here["model"], "name": "n", "content": "y"}) == ["model: n there, m here"]
    assert said(model={**here["model"], "dtype": "float16"}) == [
        "the model's dtype: float16 there, auto here"
    ]
    assert said(prompts=here["prompts"][::-1]) == ["the same prompts are in a different order"]
    changed = [prompt("p", clean="1"), {**prompt("z", clean="2", answer="3"), "begins": "q"}]
    assert said(prompts=changed) == ["prompt 2 differs in answer"]
    assert said(schema=0)[0].startswith("the format of keys: 0 there, 1 here")
    assert said(templates="u") == ["the names of the prompts' templates"]
    assert said(classes="u") == ["the classes or groups of the prompts"]
    assert "left out there, refused here" in said(drop_invalid=True)[0]
    assert said(declared={**here["declared"], "over": "prompt"}) == [
        "the recipe's declaration of over"
    ]
    older = Environment("local-cpu", "0.8.1", "5.22.2", "2.12.1")
    assert describe_environment(older, HERE).endswith(
        "numbers may differ; this one has torch 2.13.0"
    )


def test_looking_after_the_cache_imports_no_torch(filled, project):
    import subprocess
    import sys

    script = """
import sys
from remote_mi.cli.main import run_command
words = ["cache explain logit_lens -p prompt=Hello", "cache info", "cache verify --runs", "cache gc",
         "runs ls"]
codes = [run_command(word.split()) for word in words]
assert codes == [0] * len(words), codes
heavy = {"torch", "transformers", "scipy", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ},
        text=True,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr

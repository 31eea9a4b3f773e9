"""Altered files for tests/soak/fuzz.py: each kind writes some into a project, and says what to run.

A case is made from a random generator alone. Files that are known by a hash are altered with their
hash and without, so that both the check and what comes after it are tried.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from remote_mi.backends.ledger import STATES, Entry, Ledger
from remote_mi.common.digests import digest
from remote_mi.common.paths import cache_root
from remote_mi.jobs.building import make_job
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.choice import PromptChoice
from remote_mi.store.arrays import arrays_from_bytes, arrays_to_bytes
from remote_mi.store.cache import Cache
from remote_mi.store.cache_index import CacheIndex
from remote_mi.store.environment import local_environment
from remote_mi.store.opening import load_run
from remote_mi.store.run_info import ARRAYS, RUN_JSON
from remote_mi.store.runs import Runs
from remote_mi.store.studies import PointRecord, StudyRecord, StudyRecords
from tests.fast.report.shown import CARD, provenance, result
from tests.hostile import EVIL, make_hostile

ROOT = Path(__file__).resolve().parents[2]
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 10**50, -(10**50), 1.5, 1e308, float("nan"), float("inf")),
    *("", " ", "x", "a.b", "../x", "none", "NaN", "\ud800", "é\u0301", [], {}, [[]], {"a": {}}),
    *([None], [1, "x"], {"": 1}, [[[[[[]]]]]], *EVIL.values()),
)

Words = tuple[str, ...]
Case = Callable[[random.Random, Path], list[Words]]


# --- altering -------------------------------------------------------------------------------------


def places(data: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in nested objects and lists."""
    yield where
    if isinstance(data, (dict, list)):
        for key in data if isinstance(data, dict) else range(len(data)):
            yield from places(data[key], (*where, key))


def alter(rng: random.Random, data: Any, times: int = 1) -> Any:
    """A copy with some of its values replaced, removed, added or moved."""
    data = copy.deepcopy(data)
    for _ in range(times):
        *where, last = rng.choice([p for p in places(data) if p] or [("x",)])
        parent: Any = data
        for step in where:
            parent = parent[step]
        value = copy.deepcopy(rng.choice(VALUES))
        what = rng.random()
        if type(parent) not in (dict, list):
            continue
        if isinstance(parent, list) and not parent:  # nothing is left to alter
            parent.append(value)
        elif what < 0.55:
            parent[last] = value
        elif what < 0.75:
            del parent[last]
        elif what < 0.85 and isinstance(parent, dict):
            parent[rng.choice(["x", "schema", "", EVIL["html"], EVIL["ansi"], last])] = value
        elif what < 0.95 and isinstance(text := parent[last], str):
            parent[last] = text + rng.choice(list(EVIL.values()))
        elif isinstance(parent, list):
            parent.insert(rng.randrange(len(parent) + 1), value)
    return data


def damage(rng: random.Random, content: bytes) -> bytes:
    """Bytes with a piece removed, doubled, swapped or overwritten."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        piece = rng.choice([b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 3000, b"'", b'"'])
        piece = rng.choice([piece, content[a:b] * 2, rng.randbytes(4), b": &a *a {", b"\n\t- "])
        content = content[:a] + piece + content[min(b, a + 40) :]
    return content


def write_json(path: Path, data: Any) -> None:
    """Write JSON as Python has it: with NaN, and surrogates as escapes."""
    path.write_text(json.dumps(data))


def write_arrays(rng: random.Random, content: bytes) -> bytes:
    """The arrays of a safetensors file with some of them altered: other values, shapes, names."""
    arrays = dict(arrays_from_bytes(content, Path("arrays")))
    for _ in range(rng.choice([1, 1, 3])):
        name = rng.choice(sorted(arrays))
        arrays[name] = altered_array(rng, arrays[name])
        if rng.random() < 0.1:
            arrays[rng.choice(["x", "effect@9", *arrays])] = arrays.pop(name)
    return arrays_to_bytes(arrays)


def altered_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """An array with other values, of another shape or dtype."""
    change = rng.randrange(9)
    if change == 0 and array.dtype.kind == "f":
        return np.full_like(array, rng.choice([np.nan, np.inf, -np.inf, 0, 3e38]))
    if change == 1 and array.dtype.kind == "f":
        holes = np.random.default_rng(rng.randrange(9)).random(array.shape) < 0.5
        return np.where(holes, np.float32(np.nan), array)
    if change == 2:
        return array[..., :0] if array.ndim else array.reshape(1)
    if change == 3:
        return array[:0] if array.ndim else array
    if change == 4:
        return array[None]
    if change == 5:
        return array[..., :-1] if array.ndim else array
    if change == 6:
        return array.astype(rng.choice([np.int64, np.uint8, np.float64, np.bool_, np.float16]))
    if change == 7 and array.dtype.kind == "i":
        return np.full_like(array, rng.choice([-1, -5, 10**6, 2**40, 0]))
    return np.concatenate([array, array]) if array.ndim else array


def write_yaml(rng: random.Random, path: Path, data: Any) -> None:
    """Write altered YAML: its values, or its bytes."""
    if rng.random() < 0.65:
        text = json.dumps(alter(rng, data, rng.choice([1, 1, 2])))  # JSON is YAML
        path.write_text(text)
    else:
        path.write_bytes(damage(rng, yaml.safe_dump(data, sort_keys=False).encode()))


# --- kinds of cases: each writes files into a project, and says what to run -----------------------


def fresh_runs(project: Path) -> list[Path]:
    """Two valid runs in an otherwise empty project."""
    shutil.rmtree(project / ".remote_mi", ignore_errors=True)
    shutil.rmtree(project / "runs", ignore_errors=True)
    shutil.copytree(project.parent / "runs", project / "runs")
    return sorted((project / "runs").iterdir())


READING: tuple[Words, ...] = (
    ("view", "--plain", "aaaa"),
    ("runs", "ls"),
    ("runs", "ls", "--json"),
    ("runs", "show", "aaaa"),
    ("view", "--plain", "aaaa"),
    ("view", "--plain", "--item", "2", "--at", "layer=1", "aaaa"),
    ("compare", "aaaa", "bbbb"),
    ("compare", "aaaa", "bbbb", "--json"),
    ("export", "aaaa", "--table", "effect"),
    ("export", "aaaa", "--table", "top", "-o", "t.tex"),
    ("export", "aaaa", "--table", "said", "-o", "t.json"),
    ("reproduce", "aaaa", "--verify-only"),
    ("reproduce", "aaaa", "--verify-only", "--json"),
    ("report", "aaaa", "-o", "r.html"),
    ("reproduce", "aaaa", "--verify-only", "-q"),
    ("view", "--plain", "--width", "40", "--only", "effect", "aaaa"),
    ("view", "--plain", "--only", "curve", "aaaa"),
    ("export", "aaaa", "--table", "pattern", "--each"),
    ("runs", "tag", "aaaa", "c"),
    ("cache", "verify", "--runs", "--json"),
)
#: Slower than all others together.
DRAWING: tuple[Words, ...] = (
    ("report", "aaaa", "-o", "r.md"),
    ("report", "aaaa", "bbbb", "-o", "r.md", "--json"),
    *(
        ("export", "aaaa", "--figure", name, "-o", "t.svg")
        for name in ("effect", "largest effect", "curve over layers", "pattern", "top", "text")
    ),
)


def reading(rng: random.Random, count: int = 3) -> list[Words]:
    """Some commands that read runs."""
    drawn = [rng.choice(DRAWING)] if rng.random() < 0.06 else []
    return rng.sample(READING, count) + drawn


def alter_run(rng: random.Random, project: Path) -> list[Words]:
    """Alter run.json or another file of a run."""
    folder = fresh_runs(project)[0]
    name = rng.choice([RUN_JSON] * 6 + ["tags.json", "config.lock.yaml", ARRAYS, "events.jsonl"])
    path = folder / name
    if name == "tags.json":
        write_json(path, alter(rng, {"schema": 1, "tags": ["a", "b"]}))
    elif name == "config.lock.yaml" and rng.random() < 0.7:
        path.write_text(json.dumps(alter(rng, yaml.safe_load(path.read_text()))))
        rehash(folder, name)
    elif name != RUN_JSON or rng.random() < 0.1:
        path.write_bytes(damage(rng, path.read_bytes()))
    else:
        data = json.loads(path.read_bytes())
        write_json(path, alter(rng, data, rng.choice([1, 1, 1, 3])))
    return reading(rng)


def alter_arrays(rng: random.Random, project: Path) -> list[Words]:
    """Other arrays in a run, with their hash."""
    folder = fresh_runs(project)[0]
    path = folder / ARRAYS
    path.write_bytes(write_arrays(rng, path.read_bytes()))
    rehash(folder, ARRAYS)
    return reading(rng)


def rehash(folder: Path, name: str) -> None:
    """Record the hash of a run's altered file."""
    data = json.loads((folder / RUN_JSON).read_bytes())
    data["artifacts"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    write_json(folder / RUN_JSON, data)


def hostile_run(rng: random.Random, project: Path) -> list[Words]:
    """Every text of a run, with a hostile one after it."""
    evil = "".join(rng.sample(list(EVIL.values()), rng.choice([1, 1, 2])))
    for folder in fresh_runs(project):
        make_hostile(folder, evil)
    words = reading(rng)
    name = sorted(load_run("aaaa").names())[2]
    return [("export", "aaaa", "--table", name), *words]


def alter_phenomenon(rng: random.Random, project: Path) -> list[Words]:
    """A built-in phenomenon, altered, in the project."""
    path = rng.choice(sorted((ROOT / "recipes" / "phenomena").glob("*.yaml")))
    (project / "phenomena").mkdir(exist_ok=True)
    write_yaml(rng, project / "phenomena" / "odd.yaml", yaml.safe_load(path.read_text()))
    return [
        ("phenomena", "show", "odd", *rng.choice([(), ("--json",), ("-n", "9" * 50)])),
        ("phenomena", "ls", *rng.choice([(), ("--json",)])),
    ]


STUDY = {
    "study": "odd",
    "title": "A title",
    "question": "Which?",
    "models": ["smollm2-135m-q4_1", {"name": "here", "dtype": "float32"}],
    "recipes": [
        "logit_lens",
        {"name": "activation_patching", "parameters": {"site": ["resid_pre"]}},
    ],
    "phenomena": ["ioi", {"name": "country_capital:city", "n": 4}, {"prompt": "Hello"}],
    "seeds": [0, 1],
    "exclude": [{"recipe": "logit_lens", "seed": 1}],
    "figures": {"logit_lens": ["top"]},
}


def alter_study(rng: random.Random, project: Path) -> list[Words]:
    """A study file, altered."""
    (project / "studies").mkdir(exist_ok=True)
    write_yaml(rng, project / "studies" / "odd.yaml", STUDY)
    return [
        ("study", "ls", *rng.choice([(), ("--json",)])),
        ("study", "plan", "odd", *rng.choice([(), ("--json",)])),
    ]


SETTINGS = {
    "prefer": ["local", "ndif"],
    "hosts": ["here", "https://api.ndif.us"],
    "limits": {"memory": "16GB", "download": "10GB", "ask_above": "200MB", "upload": 10},
    "studies": {"max_remote": 8},
}


def alter_settings(rng: random.Random, project: Path) -> list[Words]:
    """A settings file, altered."""
    write_yaml(rng, project / "remote-mi.yaml", SETTINGS)
    return [
        ("config", "show", *rng.choice([(), ("--json",)])),
        ("plan", "logit_lens", "--prompt", "Hello"),
    ]


PAIR = {
    "clean": "Mary and John",
    "corrupt": "John and Mary",
    "answer": " a",
    "wrong": " b",
    "labels": {"x": "Mary"},
    "template": "t",
    "label": "l",
    "group": "g",
}


def alter_pairs(rng: random.Random, project: Path) -> list[Words]:
    """A file of pairs, altered, read as a job's prompts."""
    lines = [
        json.dumps(alter(rng, rng.choice([PAIR, {"prompt": "Hello", "target": " x"}])))
        for _ in range(3)
    ]
    content = "\n".join(lines).encode()
    content = damage(rng, content) if rng.random() < 0.3 else content
    (project / "odd.jsonl").write_bytes(content)
    given = ("activation_patching", "--pairs", "odd.jsonl", "--backend", "local")
    return [
        ("run", *given, "--dry-run"),
        ("cache", "explain", *given, *rng.choice([(), ("--json",)])),
    ]


RECIPE = '''"""A recipe."""
from __future__ import annotations
from typing import Annotated, Literal
from remote_mi import Heatmap, Range, recipe

@recipe(over="pair", returns={"x": ("layer", "position"), "y": ()},
        figures=[Heatmap("x", unit="nats")], controls={"x": "y"}, references=("a",))
def odd(model, pair, *, n: Annotated[int, Range(1, 9)] = 3, how: Literal["a", "b"] = "a"):
    """What it is.

    Args:
        n: how many.
    """
    return {"x": 1, "y": 2}
'''
_TOKEN = re.compile(r'"[^"\n]*"|\w+|[^\w\s]')
_INSTEAD = (
    *("None", "1", "-1", "'x'", "[]", "{}", "()", "{1}", "lambda: 1", "x", "1/0", "*", "**", "..."),
    *('-"x"', '"a" | "b"', "[1, 2]", '{"x": "layer"}', "float('nan')", "10**50", "(" * 200, "b'x'"),
    *(f"{EVIL['html']!r}", f"{EVIL['ansi']!r}", "int", "str", "Literal[1, 'a']", "Annotated[int]"),
)


def alter_recipe(rng: random.Random, project: Path) -> list[Words]:
    """A recipe's declaration, altered token by token."""
    (project / "recipes").mkdir(exist_ok=True)
    text = RECIPE
    for _ in range(rng.choice([1, 1, 2])):
        token = rng.choice(list(_TOKEN.finditer(text)))
        text = text[: token.start()] + rng.choice(_INSTEAD) + text[token.end() :]
    (project / "recipes" / "odd.py").write_text(text)
    return [
        ("recipes", "show", "odd", *rng.choice([(), ("--json",)])),
        ("recipes", "ls", *rng.choice([(), ("--json",)])),
        ("run", "odd", "--help"),
        ("cache", "explain", "odd", "--clean", "a b", "--corrupt", "a c", "--backend", "local"),
    ]


def fill_records(project: Path) -> StudyRecord:
    """A study with two runs, a failed point and one that waits, in a fresh project."""
    names = [folder.name for folder in fresh_runs(project)]
    points = [
        PointRecord(i, "probing", "tiny", "ioi:store", {"site": "here"}, i, "auto", f"{i}" * 64)
        for i in range(4)
    ]
    record = StudyRecord("odd", "A title", "Which?", points, {"probing": ["effect"]})
    records = StudyRecords(project)
    records.begin(record, b"study: odd\n")
    states = [("done", names[0], None), ("done", names[1], None), ("failed", None, "it fails\nso")]
    for point, (state, run, error) in zip(points, states, strict=False):
        point.state, point.run, point.error, point.where = state, run, error, "local"
        records.note(record, point)
    return record


def alter_record(rng: random.Random, project: Path) -> list[Words]:
    """The record of a study, or of its progress."""
    folder = fill_records(project).path
    path = folder / rng.choice(["study.json", "study.json", "progress.jsonl"])
    if rng.random() < 0.15:
        path.write_bytes(damage(rng, path.read_bytes()))
    else:
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        altered = alter(rng, lines, rng.choice([1, 1, 2]))
        path.write_text("\n".join(map(json.dumps, altered)))
    words: list[Words] = [
        ("study", "ls"),
        ("study", "ls", "--json"),
        ("study", "show", "odd"),
        ("study", "show", "odd", "--json"),
        ("study", "show", "odd", "--figures", "--all"),
        ("report", "odd", "-o", "r.md"),
        ("report", "study-odd", "-o", "r.html", "--json"),
        ("reproduce", "odd", "--verify-only"),
        ("reproduce", "odd", "--verify-only", "--json"),
    ]
    return rng.sample(words, 3)


# --- SQLite: an index that is rebuilt from files, and the ledger of jobs --------------------------


def alter_database(rng: random.Random, path: Path, tables: Mapping[str, Any]) -> None:
    """Alter a cell of a database, or its bytes.

    Args:
        tables: name → a value for each of some of its columns, of which altered ones are written.
    """
    if rng.random() < 0.15:
        path.write_bytes(damage(rng, path.read_bytes()))
        return
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        table = rng.choice(sorted(tables))
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        column = rng.choice(columns)
        value: Any = rng.choice(VALUES)
        old = db.execute(f"SELECT {column} FROM {table}").fetchone()
        try:
            content = json.loads(old[0]) if isinstance(old[0], str) else None
        except ValueError:
            content = None
        if column in tables[table] and rng.random() < 0.3:
            value = rng.choice(tables[table][column])
        elif isinstance(content, (dict, list)) and content and rng.random() < 0.8:
            value = json.dumps(alter(rng, content))
        elif isinstance(old[0], str) and rng.random() < 0.3:
            value = old[0] + rng.choice(list(EVIL.values()))
        elif isinstance(value, (dict, list)) or abs(int(isinstance(value, int) and value)) > 2**62:
            value = rng.choice([json.dumps(value), rng.randbytes(5)])
        with contextlib.suppress(sqlite3.Error, UnicodeEncodeError):  # NULL where none may be
            db.execute(f"UPDATE {table} SET {column} = ?", (value,))


def alter_run_index(rng: random.Random, project: Path) -> list[Words]:
    """The index of a project's runs."""
    fresh_runs(project)
    Runs(project).rows()
    alter_database(rng, project / ".remote_mi" / "runs.sqlite", {"runs": {}, "folder": {}})
    words: list[Words] = [("runs", "ls"), ("runs", "ls", "--json"), ("view", "--plain")]
    words += [("runs", "ls", "-q"), ("runs", "ls", "--tag", "a"), ("study", "plan", "lens")]
    (project / "studies").mkdir(exist_ok=True)
    text = {"study": "lens", "recipes": ["logit_lens"], "phenomena": [{"prompt": "Hello"}]}
    (project / "studies" / "lens.yaml").write_text(json.dumps(text))
    return rng.sample(words, 3)


JOB_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def alter_ledger(rng: random.Random, project: Path) -> list[Words]:
    """The ledger of remote jobs."""
    run = fresh_runs(project)[0]
    ledger = Ledger(project)
    url = "http://127.0.0.1:9"
    entry = Entry(JOB_ID, "0" * 64, "ndif 127.0.0.1:9", url, "probing", "tiny", 2, DRAFT)
    ledger.claim(entry, 0.0)
    said = {"kind": "RunFailed", "message": "it fails", "hint": None, "said": "so\nand so"}
    state = rng.choice(STATES)
    ledger.note_status(JOB_ID, "RUNNING", "it runs\nnow")
    ledger.update(
        JOB_ID, state=state, deadline=2e9, bytes_down=10, meta={"gpu": 1}, error=said, run=run.name
    )
    with contextlib.closing(sqlite3.connect(ledger.path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    del ledger
    alter_database(
        rng, project / ".remote_mi" / "jobs.sqlite", {"jobs": {"state": STATES}, "statuses": {}}
    )
    words: list[Words] = [
        ("jobs", "ls", "--all"),
        ("jobs", "ls", "--json", "--all"),
        ("jobs", "ls", "-q"),
        ("jobs", "show"),
        ("jobs", "show", JOB_ID[:8]),
        ("jobs", "show", "--json"),
        ("jobs", "logs"),
        ("jobs", "fetch"),
        ("jobs", "fetch", "--json"),
        ("jobs", "forget", JOB_ID),
    ]
    return rng.sample(words, 3)


DRAFT: dict[str, Any] = {
    **{"recipe": CARD.to_json(), "file": "probing.py", "key": "0" * 64, "id8": "aaaa1111"},
    **{"keys": ["1" * 64], "missing": [0], "lock": {}, "sources": {"probing.py": ""}},
    **{"model": {"name": "tiny"}, "parts": [], "notes": [], "provenance": provenance()},
    "environment": provenance()["environment"],
}


# --- the cache of results -------------------------------------------------------------------------

PROBING = '''"""A recipe."""
from remote_mi import Bars, Heatmap, Lines, Table, Text, TokenGrid, Tokens, recipe

@recipe(over="pair", returns=RETURNS, figures=FIGURES, controls={"effect": "control"})
def probing(model, pair):
    """What it is."""
'''
GIVEN = ("probing", "--pairs", "good.jsonl", "--model", "nobody/none", "--backend", "local")


def declared() -> str:
    """The source of a recipe that declares what tests/fast/report/shown.py has results of."""
    outputs = {
        name: f"Tokens{output.dims!r}".replace(",)", ")")
        if output.kind == "token"
        else repr(output.dims)
        for name, output in CARD.returns.items()
    }
    returns = "{" + ", ".join(f"{name!r}: {text}" for name, text in outputs.items()) + "}"
    figures = "[" + ", ".join(map(repr, CARD.figures)) + "]"
    return PROBING.replace("RETURNS", returns).replace("FIGURES", figures)


def fill_cache(project: Path) -> Path:
    """The entry of a job's result in an otherwise empty cache."""
    root = cache_root()
    shutil.rmtree(root, ignore_errors=True)
    (project / "recipes").mkdir(exist_ok=True)
    (project / "recipes" / "probing.py").write_text(declared())
    pairs = [{**PAIR, "clean": "".join(part["tokens"])} for part in shown().prompts]
    (project / "good.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    job = make_job(
        "probing", ModelSpec("nobody/none"), PromptChoice(pairs="good.jsonl"), {}, project
    )
    environment = local_environment("cpu")
    made = {**shown().provenance, "key": job.key, "code": job.code, "backend": "local"}
    made["environment"] = environment.to_json()
    found, cache = shown(), Cache(root)
    cache.put(job.key, environment, found.document, found.arrays, made, job.key_description())
    return next(cache.entry_paths())


@functools.cache
def shown() -> Any:
    """The result that is in the cache."""
    return result(n=2, layers=2)


def alter_cache(rng: random.Random, project: Path) -> list[Words]:
    """An entry of the cache, one of its blobs, or its index."""
    path = fill_cache(project)
    what = rng.choice(["entry", "entry", "document", "document", "arrays", "bytes", "index"])
    if what == "index":
        cache = Cache(cache_root())
        CacheIndex(cache).rows()
        alter_database(rng, cache.root / "index.sqlite", {"entries": {}})
    elif what == "bytes":
        other = rng.choice([path, *Cache(cache_root()).blob_paths()])
        other.write_bytes(damage(rng, other.read_bytes()))
    else:
        alter_entry(rng, path, what)
    words: list[Words] = [
        ("run", *GIVEN),
        ("run", *GIVEN, "--json"),
        ("cache", "explain", *GIVEN, "--json"),
        ("cache", "explain", *GIVEN, "--seed", "3"),
        ("cache", "explain", "probing", "--clean", "a", "--corrupt", "b", "--backend", "local"),
        ("cache", "info"),
        ("cache", "info", "--json"),
        ("cache", "verify", "--json"),
        ("cache", "gc", "--max-size", "1kB", "--spare", "0", "--json"),
        ("run", *GIVEN, "--reuse-any"),
    ]
    return rng.sample(words, 3)


def alter_entry(rng: random.Random, path: Path, what: str) -> None:
    """Alter an entry, its document or its arrays, mostly with all hashes."""
    data = json.loads(path.read_bytes())
    data.pop("check")
    if what == "entry":
        data = alter(rng, data, rng.choice([1, 1, 3]))
    else:
        blob = Cache(cache_root()).blob_path(data[what])
        content = blob.read_bytes()
        content = (
            write_arrays(rng, content)
            if what == "arrays"
            else json.dumps(alter(rng, json.loads(content), rng.choice([1, 1, 3]))).encode()
        )
        data[what] = hashlib.sha256(content).hexdigest()
        new = Cache(cache_root()).blob_path(data[what])
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)
    if rng.random() < 0.8:
        with contextlib.suppress(ValueError, TypeError, UnicodeEncodeError):
            data["check"] = digest(data)
    write_json(path, data)


KINDS: dict[str, Case] = {
    "runs": alter_run,
    "arrays": alter_arrays,
    "hostile": hostile_run,
    "phenomena": alter_phenomenon,
    "studies": alter_study,
    "settings": alter_settings,
    "pairs": alter_pairs,
    "recipes": alter_recipe,
    "records": alter_record,
    "run index": alter_run_index,
    "cache": alter_cache,
    "ledger": alter_ledger,
}

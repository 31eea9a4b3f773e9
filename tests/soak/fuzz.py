"""Alter run folders, phenomena, studies, settings, prompts and recipes, and run commands on them.

    python tests/soak/fuzz.py [--count 10000] [--seed 0] [--only KIND] [--at KIND:NUMBER]

Every case is made from the seed, its kind and its number alone. Whatever was altered, a command
ends within ten seconds, with a result or a message: no traceback, nothing unexpected, valid JSON
where JSON was asked for, and neither markup nor control characters of foreign texts in its output.
Prints a table, and how to repeat each case that was not so; exits with 1 if there is one. Run by
hand; the suite has hostile run folders in tests/fast/report/test_hostile_runs.py.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from remote_mi.cli.main import run_command  # noqa: E402
from remote_mi.store.opening import load_run  # noqa: E402
from tests.fast.report.shown import kept, result  # noqa: E402
from tests.hostile import ACTING, EVIL, make_hostile, markup_in  # noqa: E402

LIMIT_S = 10
FAULTS = ("traceback", "unexpected", "slow", "bad JSON", "markup", "control")
_UNEXPECTED = re.compile(r"unexpected \w*(Error|Exception|Warning)\b|bug in remote_mi|mistake of")
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
        if what < 0.55:
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
    ("report", "aaaa", "-o", "r.md"),
    ("report", "aaaa", "-o", "r.html"),
    ("cache", "verify", "--runs", "--json"),
)


def alter_run(rng: random.Random, project: Path) -> list[Words]:
    """Alter run.json or another file of a run."""
    folder = fresh_runs(project)[0]
    name = rng.choice(["run.json"] * 6 + ["tags.json", "config.lock.yaml", "artifacts", "events"])
    path = folder / {"artifacts": "artifacts/result.safetensors", "events": "events.jsonl"}.get(
        name, name
    )
    if name == "tags.json":
        write_json(path, alter(rng, {"schema": 1, "tags": ["a", "b"]}))
    elif name != "run.json" or rng.random() < 0.1:
        path.write_bytes(damage(rng, path.read_bytes()))
    else:
        data = json.loads(path.read_bytes())
        write_json(path, alter(rng, data, rng.choice([1, 1, 1, 3])))
    return rng.sample(READING, 3)


def hostile_run(rng: random.Random, project: Path) -> list[Words]:
    """Every text of a run, with a hostile one after it."""
    evil = "".join(rng.sample(list(EVIL.values()), rng.choice([1, 1, 2])))
    for folder in fresh_runs(project):
        make_hostile(folder, evil)
    words = rng.sample(READING[:7] + READING[10:14], 3)
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
    return [("study", "ls", *rng.choice([(), ("--json",)])), ("study", "show", "odd")]


SETTINGS = {
    "prefer": ["local", "ndif"],
    "hosts": ["here", "https://api.ndif.us"],
    "limits": {"memory": "16GB", "download": "10GB", "ask_above": "200MB", "upload": 10},
    "studies": {"max_remote": 8},
}


def alter_settings(rng: random.Random, project: Path) -> list[Words]:
    """A settings file, altered."""
    write_yaml(rng, project / "remote-mi.yaml", SETTINGS)
    return [("config", "show", *rng.choice([(), ("--json",)]))]


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
    return [
        ("run", "activation_patching", "--pairs", "odd.jsonl", "--backend", "nowhere", "--dry-run")
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
        ("recipes", "show", "odd"),
        ("recipes", "ls", *rng.choice([(), ("--json",)])),
        ("run", "odd", "--help"),
    ]


KINDS: dict[str, Case] = {
    "runs": alter_run,
    "hostile": hostile_run,
    "phenomena": alter_phenomenon,
    "studies": alter_study,
    "settings": alter_settings,
    "pairs": alter_pairs,
    "recipes": alter_recipe,
}


# --- running and judging --------------------------------------------------------------------------


class TooLong(BaseException):
    """A command computed for longer than `LIMIT_S`."""


def _watch(seconds: float) -> None:
    """Interrupt what follows after so many seconds of computing, or six times as long of waiting."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 6 * seconds)


def _interrupt(*_: Any) -> None:
    raise TooLong


def faults_of(words: Words, project: Path) -> list[tuple[str, str]]:
    """What is wrong with a command's outcome: (fault, detail)."""
    out, err, found = io.StringIO(), io.StringIO(), []
    for name in ("r.md", "r.html", "t.tex", "t.json"):
        (project / name).unlink(missing_ok=True)
    _watch(LIMIT_S)
    code: int | None = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_command(list(words))
    except TooLong:
        found.append(("slow", traceback.format_exc(limit=-25)))
    except BaseException:
        found.append(("traceback", traceback.format_exc(limit=-4)))
    finally:
        _watch(0)
    said, told = out.getvalue(), err.getvalue()
    if "Traceback (most recent" in told:
        found.append(("traceback", told[-400:]))
    if unexpected := _UNEXPECTED.search(told):
        found.append(("unexpected", told[unexpected.start() :][:300]))
    if code == 0 and ("--json" in words or words[:2] == ("runs", "show")):
        try:
            json.loads(said, parse_constant=_no_json)
        except ValueError as error:
            found.append(("bad JSON", str(error)))
    written = {p.name: p.read_text() for p in project.iterdir() if p.name[:2] in ("r.", "t.")}
    for where, text in {"stdout": said, "stderr": told, **written}.items():
        if acting := ACTING.search(text):
            found.append(("control", f"{where}: {text[max(0, acting.start() - 60) :][:120]!r}"))
    for name in ("r.md", "r.html"):
        if name in written and (acts := markup_in(written[name], name == "r.md")):
            found.append(("markup", f"{name}: {acts}"))
    return found


def _no_json(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def run_case(kind: str, number: int, seed: int, project: Path) -> list[tuple[str, Words, str]]:
    """Make one case, and judge its commands: (fault, command, detail)."""
    rng = random.Random(f"{seed}/{kind}/{number}")
    for name in ("phenomena", "studies", "recipes", "runs", ".remote_mi"):
        shutil.rmtree(project / name, ignore_errors=True)
    (project / "remote-mi.yaml").unlink(missing_ok=True)
    return [
        (fault, words, detail)
        for words in KINDS[kind](rng, project)
        for fault, detail in faults_of(words, project)
    ]


def main() -> None:
    """Run the cases, print the table and how to repeat what failed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=10_000, help="alterations, of all kinds")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", choices=KINDS, help="alter only these")
    arguments.add_argument("--at", metavar="KIND:NUMBER", help="one case, with its details")
    arguments.add_argument("--minutes", type=float, default=0, help="stop after so long")
    given = arguments.parse_args()
    kinds = [given.only] if given.only else list(KINDS)
    cases = [(kinds[i % len(kinds)], i // len(kinds)) for i in range(given.count)]
    if given.at:
        kind, _, number = given.at.partition(":")
        cases = [(kind, int(number))]
    for timer in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(timer, _interrupt)
    table: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    failed: dict[tuple[str, str, str], str] = {}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        project.mkdir()
        os.environ["REMOTE_MI_CACHE"] = str(Path(folder) / "cache")
        os.environ["REMOTE_MI_PROJECT"] = str(project)
        os.chdir(project)
        for id8 in ("aaaa1111", "bbbb2222"):
            kept(project.parent, result(n=2, layers=2), id8)
        for kind, number in cases:
            if given.minutes and time.monotonic() - begun > 60 * given.minutes:
                break
            counts = table.setdefault(kind, Counter())
            counts["cases"] += 1
            for fault, words, detail in run_case(kind, number, given.seed, project):
                counts[fault] += 1
                failed.setdefault(
                    (fault, kind, _shape(words, detail)),
                    _repeat(fault, kind, number, given.seed, words, detail),
                )
        os.chdir(ROOT)
    _print_table(table, failed, time.monotonic() - begun)
    sys.exit(1 if failed else 0)


def _shape(words: Words, detail: str) -> str:
    """What faults of one cause have in common."""
    return f"{words[0]} {re.sub(r'[0-9]+', '0', detail)[-120:]}"


def _repeat(fault: str, kind: str, number: int, seed: int, words: Words, detail: str) -> str:
    command = " ".join(ascii(word) if not word.isascii() else word[:40] for word in words)
    shown = detail.encode("ascii", "backslashreplace").decode().strip()
    return (
        f"{fault}: remote-mi {command}\n"
        f"  python tests/soak/fuzz.py --seed {seed} --at {kind}:{number}\n    "
        + shown.replace("\n", "\n    ")
    )


def _print_table(
    table: dict[str, Counter[str]], failed: dict[tuple[str, str, str], str], seconds: float
) -> None:
    for text in failed.values():
        print(text.replace("\x1b", "\\x1b"), end="\n\n")
    print(f"{'':12}" + "".join(f"{name:>12}" for name in ("cases", *FAULTS)))
    for kind, counts in table.items():
        print(f"{kind:12}" + "".join(f"{counts[name]:>12,}" for name in ("cases", *FAULTS)))
    total = sum(counts["cases"] for counts in table.values())
    print(f"{total:,} alterations in {seconds:.0f} s; {len(failed)} distinct faults")


if __name__ == "__main__":
    main()

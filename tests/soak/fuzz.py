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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from remote_mi.cli.main import run_command  # noqa: E402
from tests.fast.report.shown import kept, result  # noqa: E402
from tests.hostile import ACTING, markup_in  # noqa: E402
from tests.soak.alterations import KINDS, Words  # noqa: E402

LIMIT_S = 10
FAULTS = ("traceback", "unexpected", "slow", "bad JSON", "markup", "control")
_UNEXPECTED = re.compile(r"unexpected \w*(Error|Exception|Warning)\b|bug in remote_mi|mistake of")
#: What commands are told to write.
_WRITTEN = ("r.md", "r.html", "t.tex", "t.json", "t.svg")


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
    found: list[tuple[str, str]] = []
    for name in _WRITTEN:
        (project / name).unlink(missing_ok=True)
    code: int | None = None
    with _streams() as (out, err):
        try:
            _watch(LIMIT_S)
            code = run_command(list(words))
        except TooLong:
            found.append(("slow", traceback.format_exc(limit=-25)))
        except BaseException:
            found.append(("traceback", traceback.format_exc(limit=-4)))
        finally:
            _watch(0)
    said, told = (stream.buffer.getvalue().decode() for stream in (out, err))
    if "Traceback (most recent" in told:
        found.append(("traceback", told[-400:]))
    if unexpected := _UNEXPECTED.search(told):
        found.append(("unexpected", told[unexpected.start() :][:300]))
    if (code == 0 or said.strip()) and ("--json" in words or words[:2] == ("runs", "show")):
        try:
            json.loads(said, parse_constant=_no_json)
        except ValueError as error:
            found.append(("bad JSON", str(error)))
    written = {name: (project / name).read_text() for name in _WRITTEN if (project / name).exists()}
    for where, text in {"stdout": said, "stderr": told, **written}.items():
        if acting := ACTING.search(text):
            found.append(("control", f"{where}: {text[max(0, acting.start() - 60) :][:120]!r}"))
    for name in ("r.md", "r.html"):
        if name in written and (acts := markup_in(written[name], name == "r.md")):
            found.append(("markup", f"{name}: {acts}"))
    return found


@contextlib.contextmanager
def _streams() -> Iterator[tuple[Any, Any]]:
    """Stdout and stderr as a command has them in a pipe, kept in memory."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", "remote_mi.replace") for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        yield streams[0], streams[1]
    for stream in streams:
        stream.flush()


def _no_json(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def run_case(kind: str, number: int, seed: int, project: Path) -> list[tuple[str, Words, str]]:
    """Make one case, and judge its commands: (fault, command, detail)."""
    rng = random.Random(f"{seed}/{kind}/{number}")
    for name in ("phenomena", "studies", "recipes", "runs", ".remote_mi"):
        shutil.rmtree(project / name, ignore_errors=True)
    for path in [p for p in project.iterdir() if p.is_file()]:
        path.unlink()
    return [
        (fault, words, detail)
        for words in KINDS[kind](rng, project)
        for fault, detail in faults_of(words, project)
    ]


def set_up(project: Path) -> None:
    """Make the project of the cases the working folder, and the runs that they alter beside it."""
    for timer in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(timer, _interrupt)
    project.mkdir(exist_ok=True)
    os.chdir(project)
    for id8 in ("aaaa1111", "bbbb2222"):
        kept(project.parent, result(n=2, layers=2), id8)


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
    table: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    failed: set[tuple[str, str, str]] = set()
    begun = time.monotonic()
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported, which is later
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        os.environ["REMOTE_MI_CACHE"] = str(Path(folder) / "cache")
        os.environ["REMOTE_MI_PROJECT"] = str(project)
        set_up(project)
        for done, (kind, number) in enumerate(cases):
            if given.minutes and time.monotonic() - begun > 60 * given.minutes:
                break
            if done and done % 1000 == 0:
                print(f"{done:,} after {time.monotonic() - begun:.0f} s", flush=True)
            counts = table.setdefault(kind, Counter())
            counts["cases"] += 1
            for fault, words, detail in run_case(kind, number, given.seed, project):
                counts[fault] += 1
                shape = (fault, kind, _shape(words, detail))
                if shape not in failed:
                    failed.add(shape)
                    print(_repeat(fault, kind, number, given.seed, words, detail), flush=True)
        os.chdir(ROOT)
    _print_table(table, len(failed), time.monotonic() - begun)
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
        + shown.replace("\n", "\n    ").replace("\x1b", "\\x1b")
        + "\n"
    )


def _print_table(table: dict[str, Counter[str]], faults: int, seconds: float) -> None:
    print(f"{'':12}" + "".join(f"{name:>12}" for name in ("cases", *FAULTS)))
    for kind, counts in table.items():
        print(f"{kind:12}" + "".join(f"{counts[name]:>12,}" for name in ("cases", *FAULTS)))
    total = sum(counts["cases"] for counts in table.values())
    print(f"{total:,} alterations in {seconds:.0f} s; {faults} distinct faults")


if __name__ == "__main__":
    main()

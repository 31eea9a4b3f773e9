"""Long work says how far it is: in words with what remains, and as lines of JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

import remote_mi as mi
from remote_mi.backends.local import passes
from remote_mi.common import progress
from remote_mi.common.progress import describe_progress

from ...conftest import MARY

SLOW = """
import torch
from remote_mi import recipe
from remote_mi.interventions import run

@recipe(over="prompt", returns={"norm": ("position",)})
def slow(lm, prompt):
    "The norm of the stream, read several times."
    for _ in range(5):
        kept = run(lm, prompt, "resid_post").values
    return {"norm": kept[0][0].norm(dim=-1)}
"""


class Kept:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, str]] = []

    def stage(self, text: str) -> None:
        pass

    def advance(self, done: int, total: int, unit: str) -> None:
        self.told.append((done, total, unit))

    def note(self, text: str) -> None:
        pass


def recipe_file(project) -> str:
    (project / "slow.py").write_text(SLOW)
    return str(project / "slow.py")


def test_calls_are_told_while_they_are_short(project, tiny_llama):
    watch = Kept()
    pairs = [{"prompt": "Mary went"}, {"prompt": "John went"}]
    mi.run(recipe_file(project), model=tiny_llama, pairs=pairs, watch=watch)
    assert watch.told == [(0, 2, "calls"), (1, 2, "calls"), (2, 2, "calls")]


def test_passes_are_told_once_a_call_is_long_with_an_estimate_of_their_number(
    project, tiny_llama, monkeypatch
):
    monkeypatch.setattr(passes, "LONG_S", 0.0)
    monkeypatch.setattr(passes, "_PAUSE_S", 0.0)
    watch = Kept()
    pairs = [{"prompt": "Mary went"}, {"prompt": "John went"}]
    mi.run(recipe_file(project), model=tiny_llama, pairs=pairs, watch=watch)
    each = watch.told[-1][0] // 2
    assert each >= 5 and watch.told[0] == (0, 2, "calls")
    first = [(done, 0, "passes") for done in range(1, each + 1)]
    second = [(done, 2 * each, "passes") for done in range(each, 2 * each)]
    # As long as a call goes on, it is not said to be done.
    last = [(2 * each, 2 * each + 1, "passes"), (2 * each, 2 * each, "passes")]
    assert watch.told[1:] == [*first, *second, *last]


@pytest.mark.parametrize(
    "given, said",
    [
        ((37, 120, "passes", 42.4), "37 of about 120 passes, about 0:42 left"),
        ((37, 0, "passes", None), "37 passes"),
        ((120, 120, "passes", 0.0), "120 of 120 passes"),
        ((3, 8, "calls", 3725.0), "3 of 8 calls, about 1:02:05 left"),
        ((2_000_000, 9_000_000, "bytes", None), "2 of 9 MB"),
    ],
)
def test_progress_in_words(given, said):
    assert describe_progress(*given) == said


def test_what_remains_is_the_pace_so_far(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace = progress.Pace()
    now[0] += 1
    assert pace.seconds_left(1, 4) is None, "too short to tell"
    now[0] += 9
    assert pace.seconds_left(1, 4) == 30
    assert pace.seconds_left(4, 4) == 0
    assert pace.seconds_left(3, 0) is None and pace.seconds_left(0, 4) is None


def lines_of(err: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in err.splitlines() if line.startswith("{")]


def test_progress_as_lines_of_json(project, tiny_llama, cli):
    pair = [x for k, v in MARY.items() for x in ("-p", f"{k}={v}")]
    code, out, err = cli(
        "run", "activation_patching", "--model", tiny_llama, *pair, "--progress", "json", "-q"
    )
    assert code == 0 and out.strip(), err
    told = lines_of(err)
    assert any(line["event"] == "stage" and "running" in line["text"] for line in told)
    last = [line for line in told if line["event"] == "progress"][-1]
    assert (last["done"], last["total"], last["unit"]) == (1, 1, "calls")
    assert {"seconds", "seconds_left"} <= set(last)


def test_a_studys_progress_as_lines_of_json(project, tiny_llama, cli):
    (project / "s.yaml").write_text(
        f"study: s\nmodels: [{tiny_llama}]\nrecipes: [logit_lens]\nphenomena:\n"
        "  - {prompt: Mary went}\n"
    )
    code, out, err = cli("study", "run", "s.yaml", "--progress", "json", "-q")
    assert code == 0, err
    told = lines_of(err)
    assert told[0] == {"event": "study", "name": "s", "points": 1, "done": 0}
    ended = [line for line in told if line["event"] == "point"][-1]
    assert ended["state"] == "done" and ended["run"] == out.strip()

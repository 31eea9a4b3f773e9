"""Studies: planned at once, run in lanes, resumed after any end, with no finished job run twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from remote_mi.jobs import studies
from remote_mi.jobs.studies.plan import plan_study, state_of
from remote_mi.store.runs import Runs
from remote_mi.store.studies import StudyRecords

pytestmark = pytest.mark.usefixtures("warm_children")

#: Counts each call in a file of the project, and takes the time that it is asked to.
COUNTING = '''"""Counts its calls."""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from remote_mi.interventions import Prompt
from remote_mi import recipe


@recipe(over="prompt", returns={"first": ("position",)})
def counting(lm: Any, prompt: Prompt, *, number: int = 0, fail: bool = False,
             crash: bool = False) -> dict[str, Any]:
    """The first number of the stream after layer 0, plus the number."""
    if fail:
        raise ValueError("meant to fail")
    if crash:
        os.kill(os.getpid(), 9)
    with lm.trace(input_ids=torch.tensor([prompt.ids])):
        first = (lm.layers[0].output[0, :, 0] + number).save()
    time.sleep(0.02)
    with open("calls.txt", "a") as file:
        file.write(f"{number} {prompt.ids[1]}\\n")
    return {"first": first}
'''


def study_of(project: Path, model: Path, name: str = "grid", **more: object) -> Path:
    (project / "recipes").mkdir(exist_ok=True)
    (project / "recipes" / "counting.py").write_text(COUNTING)
    content = {
        "study": name,
        "title": "A grid",
        "models": [str(model)],
        "phenomena": [{"prompt": "When Mary and John went"}],
        "recipes": [{"counting": {"number": [1, 2, 3]}}],
        **more,
    }
    path = project / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def calls(project: Path) -> Counter[str]:
    try:
        return Counter((project / "calls.txt").read_text().splitlines())
    except FileNotFoundError:
        return Counter()


def planned(project: Path, path: Path):
    return plan_study(studies.read(path, project), project)


def test_a_study_is_planned_run_shown_and_resumed(project, cli, tiny_llama):
    path = study_of(project, tiny_llama)
    code, out, err = cli("study", "plan", path.name)
    assert code == 0 and "3 local" in out and "nothing was run" in err
    code, out, err = cli("study", "run", path.name)
    assert code == 0, err
    assert "3 done" in err and "[3/3]" in err and len(Runs(project).ids()) == 3
    assert calls(project) == {f"{n} {k.split()[1]}": 1 for n in (1, 2, 3) for k in calls(project)}
    code, out, _ = cli("study", "run", path.name, "-q")
    assert code == 0 and len(out.splitlines()) == 3 and sum(calls(project).values()) == 3
    code, out, _ = cli("study", "show", "grid", "--json")
    shown = json.loads(out)
    assert shown["counts"]["done"] == 3 and shown["title"] == "A grid"
    code, out, _ = cli("study", "show", "grid", "--figures")
    assert code == 0 and out.count("first") >= 3
    assert cli("study", "ls")[0] == 0
    # More points compute only what is new.
    study_of(project, tiny_llama, recipes=[{"counting": {"number": [1, 2, 3, 4]}}])
    states = Counter(state_of(p) for p in planned(project, path).points)
    assert states == {"there": 3, "local": 1}
    assert cli("study", "run", path.name)[0] == 0 and sum(calls(project).values()) == 4


@pytest.mark.slow
def test_failures_are_reported_at_the_end_and_the_rest_goes_on(project, cli, tiny_llama):
    path = study_of(
        project,
        tiny_llama,
        recipes=[{"counting": {"number": [1]}}],
        include=[
            {
                "recipe": "counting",
                "model": str(tiny_llama),
                "phenomenon": {"prompt": "When Mary"},
                "parameters": {"number": n, **how},
            }
            for n, how in ((5, {"fail": True}), (6, {"crash": True}), (7, {}))
        ],
    )
    code, _, err = cli("study", "run", path.name)
    assert code == 1 and "Traceback" not in err
    assert "meant to fail" in err and "exit code -9" in err and "2 done, 2 failed" in err
    record = StudyRecords(project).read("grid")
    assert [p.state for p in record.points] == ["done", "failed", "failed", "done"]
    assert {c.split()[0] for c in calls(project)} == {"1", "7"}


def test_a_point_that_can_run_nowhere_is_part_of_the_plan(project, cli, tiny_llama):
    path = study_of(project, tiny_llama)
    (project / "remote-mi.yaml").write_text("limits: {memory: 1kB}\n")
    code, out, _ = cli("study", "plan", path.name)
    assert code == 0 and "3 cannot run" in out
    code, _, err = cli("study", "run", path.name)
    assert code == 1 and "the limit set" in err


@pytest.mark.slow
def test_what_the_cache_has_needs_no_lane(project, cli, tiny_llama, tmp_path, monkeypatch):
    path = study_of(project, tiny_llama)
    assert cli("study", "run", path.name)[0] == 0
    import shutil

    shutil.rmtree(project / "runs")
    assert {state_of(p) for p in planned(project, path).points} == {"cached"}
    assert cli("study", "run", path.name)[0] == 0
    assert sum(calls(project).values()) == 3 and len(Runs(project).ids()) == 3
    # Another study of the same jobs has nothing to run, and its record knows that.
    study_of(project, tiny_llama, "twin")
    assert cli("study", "run", "twin.yaml")[0] == 0 and sum(calls(project).values()) == 3
    assert StudyRecords(project).read("twin").counts()["done"] == 3


def test_the_same_study_does_not_run_twice_at_once(project, cli, tiny_llama):
    from filelock import FileLock

    path = study_of(project, tiny_llama)
    locks = project / ".remote_mi" / "locks"
    locks.mkdir(parents=True)
    with FileLock(locks / "study-grid"):
        code, _, err = cli("study", "run", path.name)
    assert code == 2 and "already running" in err


def forty(project: Path, model: Path) -> Path:
    return study_of(project, model, "forty", recipes=[{"counting": {"number": list(range(40))}}])


@pytest.mark.slow
def test_a_study_of_forty_jobs_killed_at_random_moments_ends_as_if_undisturbed(
    project, cache, tiny_llama
):
    killed_at_random(project, tiny_llama, times=3, seed=0)


def killed_at_random(project: Path, model: Path, times: int, seed: int) -> None:
    """Kill the same study again and again, then let it end, and count what ran."""
    path = forty(project, model)
    generator = random.Random(seed)

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "remote_mi", "study", "run", path.name],
            cwd=project,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    for _ in range(times):
        before = sum(calls(project).values())
        process = start()
        deadline = time.monotonic() + 240
        goal = before + generator.randint(1, 8)  # moments in which something runs
        while sum(calls(project).values()) < min(goal, 40) and time.monotonic() < deadline:
            if process.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=240)
    process = start()
    _, err = process.communicate(timeout=480)
    assert process.returncode == 0, err
    runs = Runs(project)
    for name in runs.ids():
        runs.read(name)  # whatever is listed is whole
    kept = Counter(name.rsplit("-", 1)[-1] for name in runs.ids())
    assert len(kept) == 40 and set(kept.values()) == {1}
    # A job that was finished never runs again; one that a kill cut off may have been counted.
    assert sum(calls(project).values()) <= 40 + times
    record = StudyRecords(project).read("forty")
    assert record.counts()["done"] == 40
    firsts = [runs.read(p.run)["first"].values for p in record.points if p.run]
    for number, values in enumerate(firsts):
        np.testing.assert_allclose(values, firsts[0] + number, atol=1e-5)

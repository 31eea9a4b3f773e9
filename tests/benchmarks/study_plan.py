"""How long a study of many points takes to plan, and to resume when all of it is done.

    python tests/benchmarks/study_plan.py --points 10000

Whole processes, on a project of its own: the points are real jobs on the embedded model, and "done"
is a run folder for each, written by the store with a result of one number.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml


def main() -> None:
    """Time planning, then mark every point as done, then time planning and resuming again."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--points", type=int, default=10_000)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        os.environ["REMOTE_MI_PROJECT"] = str(project)
        seeds = -(-given.points // 8)
        study = {
            "study": "many",
            "title": "Many",
            "models": ["smollm2-135m-q4_1"],
            "phenomena": [{"name": "ioi:store", "n": 24}],
            "recipes": [
                {
                    "activation_patching": {
                        "seed": list(range(seeds)),
                        "direction": ["denoise", "noise"],
                        "site": ["resid_pre", "resid_mid", "attn_out", "mlp_out"],
                    }
                }
            ],
        }
        path = project / "many.yaml"
        path.write_text(yaml.safe_dump(study))
        print(f"{8 * seeds} points")
        timed("plan, nothing done", project, "study", "plan", "many.yaml")
        finish_all(project, path)
        timed("plan, all done, first look at the runs", project, "study", "plan", "many.yaml")
        timed("plan, all done", project, "study", "plan", "many.yaml")
        timed("run, all done", project, "study", "run", "many.yaml", "-q")
        timed("run, all done, again", project, "study", "run", "many.yaml", "-q")


def timed(what: str, project: Path, *arguments: str) -> None:
    """Run a command and print how long its process took."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "remote_mi", *arguments],
        cwd=project,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(f"{what}: {time.perf_counter() - begun:.2f} s")


def finish_all(project: Path, path: Path) -> None:
    """A run for each point, as the store writes it."""
    from remote_mi.jobs import studies
    from remote_mi.jobs.studies.plan import plan_study
    from remote_mi.store.environment import local_environment
    from remote_mi.store.result import Result
    from remote_mi.store.run_record import RunRecord, id8_of
    from remote_mi.store.runs import Runs

    environment, runs = local_environment("cpu"), Runs(project)
    empty = {"parts": [], "axes": {}, "notes": [], "vocabulary": {}}
    os.fsync = lambda _: None  # type: ignore[assignment] - ten thousand times, for a benchmark
    for point in plan_study(studies.read(path, project), project).points:
        job = point.job
        assert job is not None
        provenance = {
            "key": job.key,
            "environment": environment.to_json(),
            "prompts": {},
            "model": {"name": "m"},
            "parameters": dict(job.parameters),
        }
        result = Result(job.card.to_json(), empty, {"gap": np.zeros(())}, provenance)
        runs.write(RunRecord(id8_of(job.key, environment), result, {"key": job.key}))


if __name__ == "__main__":
    main()

"""`auto` and studies with a genuine server: what is too large here goes there, and numbers agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from remote_mi.backends.ledger import Ledger
from remote_mi.backends.ndif_server import Server
from remote_mi.store.runs import Runs
from remote_mi.store.studies import StudyRecords

from .conftest import TINY_LLAMA, Terminal, terminal_for

WORDS = ("--phenomenon", "ioi:store", "-n", "2", "--model", TINY_LLAMA)


@pytest.fixture
def here(ndif_server: Server, project: Path, cache: Path):
    """A terminal whose `auto` may take the server."""
    yield from terminal_for(ndif_server, project)


def settings(project: Path, server: Server, memory: str) -> None:
    (project / "remote-mi.yaml").write_text(
        yaml.safe_dump({"hosts": [server.url], "limits": {"memory": memory}})
    )


def test_auto_takes_the_server_beyond_the_local_limit_and_this_machine_otherwise(
    here: Terminal, ndif_server: Server, project: Path
):
    settings(project, ndif_server, "1kB")
    # A personal server deploys with the first job; `auto` takes what is deployed.
    first = here.run(
        "run",
        "logit_lens",
        "-p",
        "prompt=When Mary",
        "--model",
        TINY_LLAMA,
        "--backend",
        "ndif",
        "-q",
    )
    assert first.returncode == 0, first.stderr
    plan = here.run("plan", "activation_patching", *WORDS, "--json")
    assert plan.returncode == 0, plan.stderr
    shown = json.loads(plan.stdout)
    assert shown["backend"] == f"ndif:{ndif_server.url}"
    assert "the limit set" in next(o["why"] for o in shown["options"] if o["backend"] == "local")
    there = here.run("run", "activation_patching", *WORDS, "-q")
    assert there.returncode == 0, there.stderr
    assert len(Ledger(project).all()) == 2
    # Parity in one command: the same job here, held against the run from there.
    same = here.run("compare", there.stdout.strip(), "local", "--tolerance", "1e-5")
    assert same.returncode == 0, same.stdout + same.stderr
    study = {
        "study": "auto",
        "title": "Auto",
        "models": [TINY_LLAMA],
        "phenomena": [{"name": "ioi:store", "n": 2}],
        "recipes": ["baseline"],
    }
    (project / "auto.yaml").write_text(yaml.safe_dump(study))
    done = here.run("study", "run", "auto.yaml", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    sent = Runs(project).read(done.stdout.split()[-1]).provenance
    assert sent["backend"].startswith("ndif") and sent["reason"] != "requested", sent["reason"]
    settings(project, ndif_server, "100GB")  # it fits now, and the comparison has fetched it
    plan = here.run("plan", "head_patching", *WORDS, "--json")
    assert json.loads(plan.stdout)["backend"] == "local", plan.stdout


def test_a_study_split_over_both_gives_the_numbers_of_all_local(
    here: Terminal, ndif_server: Server, project: Path
):
    recipes = ["logit_lens", {"activation_patching": {"site": ["resid_pre", "mlp_out"]}}]
    common = {
        "title": "Both",
        "models": [TINY_LLAMA],
        "phenomena": [{"name": "ioi:store", "n": 2}],
        "recipes": recipes,
    }
    for name, backend in (("far", f"ndif:{ndif_server.url}"), ("near", "local")):
        more = {
            "include": [
                {
                    "recipe": "head_patching",
                    "model": TINY_LLAMA,
                    "backend": "local",
                    "phenomenon": {"name": "ioi:store", "n": 2},
                }
            ]
        }
        text = yaml.safe_dump({"study": name, "backend": backend, **common, **more})
        (project / f"{name}.yaml").write_text(text)
        done = here.run("study", "run", f"{name}.yaml", "--max-remote", "2")
        assert done.returncode == 0, done.stdout + done.stderr
    far, near = (StudyRecords(project).read(name) for name in ("far", "near"))
    assert {p.where for p in far.points} == {"", f"ndif:{ndif_server.url}"}
    runs = Runs(project)
    for ours, theirs in zip(near.points, far.points, strict=True):
        assert ours.run and theirs.run and ours.key == theirs.key
        a, b = runs.read(ours.run), runs.read(theirs.run)
        for name in a.arrays:
            np.testing.assert_allclose(a.arrays[name], b.arrays[name], atol=1e-5, rtol=1e-5)
    again = here.run("study", "run", "far.yaml", "-q")
    assert again.returncode == 0 and len(again.stdout.split()) == 4
    assert len(Ledger(project).all()) == 3

"""`doctor`, `models --backend` and `login` on a genuine server that checks no keys."""

from __future__ import annotations

import json

from remote_mi.backends.ndif_server import personal
from remote_mi.backends.ndif_server.record import Record

from .conftest import TINY_LLAMA

RUN = [
    "run",
    "logit_lens",
    "--model",
    TINY_LLAMA,
    "--backend",
    "ndif",
    "-q",
    "-p",
    "prompt=When Mary and John",
]


def checks(done):
    document = json.loads(done.stdout)
    assert document["schema"] == 1 and document["exit_code"] == done.returncode, done.stderr
    return {check["name"]: check for check in document["checks"]}


def test_doctor_and_models_see_what_a_job_deployed(ndif_server, terminal):
    assert terminal.run(*RUN).returncode == 0

    done = terminal.run("doctor", "--json", "--model", TINY_LLAMA)
    found = checks(done)
    assert done.returncode == 0, done.stdout
    assert ndif_server.url in found["server"]["found"]
    assert "none needed" in found["key"]["found"]
    assert "1 model deployed" in found["compute backend"]["found"]
    for name in ("Python there", "nnsight there", "transformers there", "torch there"):
        assert found[name]["state"] == "ok", found[name]
    assert found["ndif there"]["found"] == "0.1.2"
    assert found["architecture"]["found"].startswith("LlamaForCausalLM, 3 layers")
    assert found["deployed there"]["state"] == "ok"
    assert "RUNNING, HOT, float32" in found["deployed there"]["found"]

    done = terminal.run("models", "ls", "--backend", "ndif", "--json")
    (model,) = json.loads(done.stdout)["models"]
    assert (model["repo_id"], model["revision"], model["state"], model["level"]) == (
        TINY_LLAMA,
        "main",
        "RUNNING",
        "HOT",
    )
    assert model["parameters"] > 10_000 and model["replicas"] == 1
    done = terminal.run("models", "--backend", f"ndif:{ndif_server.url}", COLUMNS="80")
    assert done.returncode == 0 and TINY_LLAMA in done.stdout, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert f"--model {TINY_LLAMA}" in done.stderr


def test_a_model_the_hub_does_not_have_is_a_problem_of_that_model_alone(terminal):
    done = terminal.run("doctor", "--json", "--model", "nobody/nothing")
    found = checks(done)
    assert done.returncode == 1 and "no model 'nobody/nothing'" in found["architecture"]["found"]
    assert [n for n, c in found.items() if c["state"] == "problem"] == ["architecture"]


def test_doctor_and_models_of_the_personal_server(ndif_server, terminal, tiny_llama):
    # The personal one's record names this server: nothing is started again.
    state = personal.state_folder()
    state.mkdir(parents=True)
    Record.read(ndif_server.state).write(state)
    assert terminal.run(*RUN).returncode == 0
    done = terminal.run("doctor", "--json", "--backend", "ndif:here", "--model", tiny_llama)
    found = checks(done)
    assert done.returncode == 0, done.stdout
    assert (
        found["personal server"]["state"] == "ok" and "redis" in found["personal server"]["found"]
    )
    assert found["deployed there"]["state"] == "ok", "the folder is known by what it is served as"
    done = terminal.run("models", "--backend", "ndif:here")
    assert done.returncode == 0 and TINY_LLAMA in done.stdout
    done = terminal.run("login", "--backend", "ndif:here")
    assert done.returncode == 2 and "creates its own keys" in done.stderr

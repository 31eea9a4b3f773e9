"""`doctor`, `models --backend` and `login` on genuine servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid

import pytest
import yaml

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


@pytest.fixture
def on_server(ndif_server, process, project):
    """Run a command with the server that checks no keys."""
    return lambda *words, **more: process(*words, **{**ndif_server.client_env(), **more})


@pytest.fixture
def on_sandbox(sandbox_server, project):
    """Run a command, with words on stdin, on the server that checks keys; nnsight's settings are
    the test's own, and no key is in the environment."""
    environment = {
        **os.environ,
        **sandbox_server.client_env(),
        "NNSIGHT_CONFIG": str(project / "nnsight.yaml"),
        "NDIF_API_KEY": "",
    }

    def run(*words, given="", **more):
        return subprocess.run(
            [sys.executable, "-m", "remote_mi", *words],
            input=given,
            capture_output=True,
            text=True,
            timeout=360,
            env={**environment, **more},
        )

    return run


def checks(done):
    document = json.loads(done.stdout)
    assert document["schema"] == 1 and document["exit_code"] == done.returncode, done.stderr
    return {check["name"]: check for check in document["checks"]}


def test_doctor_and_models_see_what_a_job_deployed(ndif_server, on_server):
    assert on_server(*RUN).returncode == 0

    done = on_server("doctor", "--json", "--model", TINY_LLAMA)
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

    done = on_server("models", "ls", "--backend", "ndif", "--json")
    (model,) = json.loads(done.stdout)["models"]
    assert (model["repo_id"], model["revision"], model["state"], model["level"]) == (
        TINY_LLAMA,
        "main",
        "RUNNING",
        "HOT",
    )
    assert model["parameters"] > 10_000 and model["replicas"] == 1
    done = on_server("models", "--backend", f"ndif:{ndif_server.url}")
    assert done.returncode == 0 and TINY_LLAMA in done.stdout, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert f"--model {TINY_LLAMA}" in done.stderr


def test_a_model_the_hub_does_not_have_is_a_problem_of_that_model_alone(on_server):
    done = on_server("doctor", "--json", "--model", "nobody/nothing")
    found = checks(done)
    assert done.returncode == 1 and "no model 'nobody/nothing'" in found["architecture"]["found"]
    assert [n for n, c in found.items() if c["state"] == "problem"] == ["architecture"]


def test_doctor_and_models_of_the_personal_server(ndif_server, on_server, project, tiny_llama):
    # The personal one's record names this server: nothing is started again.
    state = personal.state_folder()
    state.mkdir(parents=True)
    Record.read(ndif_server.state).write(state)
    assert on_server(*RUN).returncode == 0
    done = on_server("doctor", "--json", "--backend", "ndif:here", "--model", tiny_llama)
    found = checks(done)
    assert done.returncode == 0, done.stdout
    assert (
        found["personal server"]["state"] == "ok" and "redis" in found["personal server"]["found"]
    )
    assert found["deployed there"]["state"] == "ok", "the folder is known by what it is served as"
    done = on_server("models", "--backend", "ndif:here")
    assert done.returncode == 0 and TINY_LLAMA in done.stdout
    done = on_server("login", "--backend", "ndif:here")
    assert done.returncode == 2 and "creates its own keys" in done.stderr


def test_a_known_key_is_kept_and_an_unknown_one_is_not(sandbox_server, on_sandbox, project):
    settings = project / "nnsight.yaml"
    unknown = str(uuid.uuid4())

    def login(key):
        done = on_sandbox("login", "--key-stdin", given=key + "\n")
        assert key not in done.stdout + done.stderr
        return done

    done = login(sandbox_server.plain_key)
    assert done.returncode == 0 and done.stdout == f"{settings}\n", done.stderr
    assert "known as" in done.stderr and "sandboxed" in done.stderr
    found = checks(on_sandbox("doctor", "--json"))
    assert found["key"]["state"] == "ok" and str(settings) in found["key"]["found"]

    done = login(unknown)
    assert done.returncode == 4 and "does not know this key" in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert yaml.safe_load(settings.read_text())["API"]["APIKEY"] == sandbox_server.plain_key

    done = login(sandbox_server.trusted_key)
    assert done.returncode == 0 and "trusted" in done.stderr
    assert yaml.safe_load(settings.read_text())["API"]["APIKEY"] == sandbox_server.trusted_key


@pytest.mark.parametrize("key", ["", str(uuid.UUID(int=0)), "secret-of-mine"])
def test_doctor_says_what_is_wrong_with_a_key(on_sandbox, key):
    done = on_sandbox("doctor", "--json", NDIF_API_KEY=key)
    found = checks(done)
    assert done.returncode == 4 and found["key"]["state"] == "problem"
    assert not key or key not in done.stdout + done.stderr
    assert found["nnsight there"]["state"] == "ok", "the other checks go on"

"""A server as the public one is: it checks keys, and runs jobs of untrusted ones in a sandbox.

All tests of keys are here, since this server is this file's own.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import remote_mi as mi
from remote_mi.backends.ndif_server.launch import family
from remote_mi.backends.ndif_server.record import Record
from remote_mi.recipes import catalog

from ..conftest import MARY
from ..techniques import TECHNIQUES
from .conftest import TINY_LLAMA, client_of, terminal_for
from .test_parity import CASES, EVERY, OWN_METRICS, REMOTE, same_as_local
from .test_server_commands import checks

#: What a sandbox cannot run: gradients cannot be read there, nor attention weights with the
#: server's nnsight 0.8.0, which leaves the deployment's attention implementation in force.
REFUSED = {"gradients", "attention_weights"}


def _cases(trusted: bool) -> list[tuple[str, dict[str, Any]]]:
    """Cases that a key's jobs may be: one of each technique, with its last variant but where another
    is of a kind that no other technique has.

    A sandbox starts anew for each job. A trusted job runs where those of a server without keys do,
    so that only what is refused to others is needed.
    """
    chosen = {"ablation": ("kind", "mean"), "activation_patching": ("site", "resid_mid")}
    found = []
    for recipe in TECHNIQUES:
        needs = set(catalog.find(recipe, Path("/nowhere")).needs)
        if trusted == bool(needs & REFUSED):
            name, value = chosen.get(recipe, ("", None))
            found.append([c for c in CASES if c[0] == recipe and c[1].get(name) == value][-1])
    own = {**MARY, "metric": OWN_METRICS["margin"]}
    return found if trusted else [*found, ("activation_patching", own)]


@pytest.fixture
def terminal(sandbox_server, project, cache):
    """A terminal in a project, with the plain key of this server."""
    yield from terminal_for(sandbox_server, project)


@pytest.mark.parametrize("trust", ["plain", "trusted"])
def test_jobs_of_either_key_equal_the_local_run(sandbox_server, project, tiny_llama, trust):
    key = {"plain": sandbox_server.plain_key, "trusted": sandbox_server.trusted_key}[trust]
    cases = _cases(trust == "trusted")
    client = client_of(sandbox_server, project)
    found = client(EVERY, REMOTE, TINY_LLAMA, json.dumps(cases), NDIF_API_KEY=key, timeout=580)
    for (recipe, given), remote in zip(cases, found, strict=True):
        same_as_local(remote, recipe, tiny_llama, given)
        assert remote["cache"] == "miss"
    state = sandbox_server.state
    running = family(state, Record.read(state)).find().values()
    assert any("sandbox.runner" in line for line in running), "the server has a sandbox"


@pytest.mark.parametrize(
    "key",
    ["", "00000000-0000-4000-8000-5ec2e75ec2e7", "no-key-at-all-5ec2e75ec2e7"],
    ids=["missing", "wrong", "malformed"],
)
@pytest.mark.parametrize("recipe", ["logit_lens", "activation_patching"])
def test_a_key_that_the_server_does_not_take(terminal, cache, key, recipe):
    pair = [part for name, text in MARY.items() for part in ("-p", f"{name}={text}")]
    prompt = ["-p", f"prompt={MARY['clean']}"]
    done = terminal.run(
        *("run", recipe, "--model", TINY_LLAMA, "--backend", "ndif"),
        *(prompt if recipe == "logit_lens" else pair),
        NDIF_API_KEY=key,
    )
    assert done.returncode == 4 and "remote-mi login" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert "5ec2e75ec2e7" not in done.stdout + done.stderr
    for path in (*terminal.project.rglob("*"), *cache.rglob("*")):
        assert not path.is_file() or b"5ec2e75ec2e7" not in path.read_bytes(), path


GRADIENT = '''"""A recipe that needs gradients."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi.interventions import Prompt
from remote_mi import recipe


@recipe(over="prompt", returns={"saliency": ("position",)}, needs=("gradients",))
def input_gradient(lm: Any, prompt: Prompt) -> dict[str, Any]:
    """How much the largest logit changes with the stream after layer 0."""
    with lm.trace(input_ids=torch.tensor([prompt.ids])):
        stream = lm.layers[0].output
        stream.requires_grad_(True)
        top = lm.lm_head.output[0, -1].max()
        with top.backward():
            gradient = stream.grad
    return {"saliency": gradient[0].norm(dim=-1)}
'''


def test_gradients_are_refused_in_the_sandbox_and_work_for_a_trusted_key(
    sandbox_server, terminal, tiny_llama
):
    (terminal.project / "recipes" / "grad.py").write_text(GRADIENT)
    prompt = "When Mary and John went"
    command = [
        *("run", "input_gradient", "--model", TINY_LLAMA, "--backend", "ndif", "--json"),
        *("-p", f"prompt={prompt}"),
    ]
    local = mi.run("input_gradient", model=str(tiny_llama), prompt=prompt, project=terminal.project)
    refused = terminal.run(*command)
    assert refused.returncode == 5, refused.stderr
    assert "needs gradients" in refused.stderr and "--backend local" in refused.stderr
    assert terminal.ledger.all() == [], "nothing was sent"
    done = terminal.run(*command, NDIF_API_KEY=sandbox_server.trusted_key)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["outputs"]["saliency"]["values"]
    np.testing.assert_allclose(found, local["saliency"].values, rtol=1e-5, atol=1e-5)


def test_attention_weights_are_refused_in_the_sandbox(terminal):
    done = terminal.run(
        *("run", "attention_patterns", "--model", TINY_LLAMA, "--backend", "ndif"),
        *("-p", "prompt=When Mary and John went"),
    )
    assert done.returncode == 5, done.stderr
    assert "needs attention weights" in done.stderr and "--backend local" in done.stderr
    assert terminal.ledger.all() == [], "nothing was sent"


def test_a_known_key_is_kept_and_an_unknown_one_is_not(sandbox_server, terminal):
    """No key is in the environment, and nnsight's settings are the test's own."""
    settings = terminal.project / "nnsight.yaml"
    own = {"NNSIGHT_CONFIG": str(settings), "NDIF_API_KEY": ""}
    unknown = str(uuid.uuid4())

    def login(key):
        done = terminal.run("login", "--key-stdin", given=key + "\n", **own)
        assert key not in done.stdout + done.stderr
        return done

    done = login(sandbox_server.plain_key)
    assert done.returncode == 0 and done.stdout == f"{settings}\n", done.stderr
    assert "known as" in done.stderr and "sandboxed" in done.stderr
    found = checks(terminal.run("doctor", "--json", **own))
    assert found["key"]["state"] == "ok" and str(settings) in found["key"]["found"]

    done = login(unknown)
    assert done.returncode == 4 and "does not know this key" in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert yaml.safe_load(settings.read_text())["API"]["APIKEY"] == sandbox_server.plain_key

    done = login(sandbox_server.trusted_key)
    assert done.returncode == 0 and "trusted" in done.stderr
    assert yaml.safe_load(settings.read_text())["API"]["APIKEY"] == sandbox_server.trusted_key


@pytest.mark.parametrize("key", ["", str(uuid.UUID(int=0)), "secret-of-mine"])
def test_doctor_says_what_is_wrong_with_a_key(terminal, key):
    settings = str(terminal.project / "nnsight.yaml")
    done = terminal.run("doctor", "--json", NDIF_API_KEY=key, NNSIGHT_CONFIG=settings)
    found = checks(done)
    assert done.returncode == 4 and found["key"]["state"] == "problem"
    assert not key or key not in done.stdout + done.stderr
    assert found["nnsight there"]["state"] == "ok", "the other checks go on"

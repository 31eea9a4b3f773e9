"""A server as the public one is: it checks keys, and runs jobs of untrusted ones in a sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import remote_mi as mi
from remote_mi.backends.ndif_server.launch import family
from remote_mi.backends.ndif_server.record import Record
from remote_mi.recipes import catalog

from ..conftest import MARY
from .conftest import TINY_LLAMA
from .test_parity import CASES, EVERY, REMOTE, same_as_local

#: What a sandbox can run: gradients cannot be read there, nor attention weights with the server's
#: nnsight 0.8.0, which leaves the deployment's attention implementation in force.
SANDBOXED = [
    case
    for case in CASES
    if not {"gradients", "attention_weights"} & set(catalog.find(case[0], Path("/")).needs)
]


@pytest.mark.parametrize("trust", ["plain", "trusted"])
def test_jobs_of_either_key_equal_the_local_run(
    sandbox_server, sandbox_client, project, tiny_llama, trust
):
    key = {"plain": sandbox_server.plain_key, "trusted": sandbox_server.trusted_key}[trust]
    cases = SANDBOXED if trust == "plain" else CASES
    found = sandbox_client(
        EVERY, REMOTE, TINY_LLAMA, json.dumps(cases), NDIF_API_KEY=key, timeout=580
    )
    for (recipe, given), remote in zip(cases, found, strict=True):
        same_as_local(remote, recipe, tiny_llama, given)
        assert remote["cache"] == "miss"
    state = sandbox_server.state
    running = family(state, Record.read(state)).find().values()
    assert any("sandbox.runner" in line for line in running), "the server has a sandbox"


@pytest.mark.parametrize("key", ["", "00000000-0000-0000-0000-000000000000"])
def test_without_a_key_it_knows_nothing_runs(sandbox_server, project, process, key):
    environment = {**sandbox_server.client_env(), "NDIF_API_KEY": key}
    pair = [part for name, text in MARY.items() for part in ("-p", f"{name}={text}")]
    done = process(
        "run",
        "activation_patching",
        "--model",
        TINY_LLAMA,
        "--backend",
        "ndif",
        *pair,
        **environment,
    )
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr


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
    """`terminal` is on the server without keys, where everybody is trusted."""
    (terminal.project / "recipes" / "grad.py").write_text(GRADIENT)
    command = [
        "run",
        "input_gradient",
        "--model",
        TINY_LLAMA,
        "--backend",
        "ndif",
        "--json",
        "-p",
        "prompt=When Mary and John went",
    ]
    local = mi.run(
        "input_gradient",
        model=str(tiny_llama),
        prompt="When Mary and John went",
        project=terminal.project,
    )
    keyed = sandbox_server.client_env()
    refused = terminal.run(*command, **keyed)
    assert refused.returncode == 5, refused.stderr
    assert "needs gradients" in refused.stderr and "--backend local" in refused.stderr
    assert terminal.ledger.all() == [], "nothing was sent"
    for environment in ({**keyed, "NDIF_API_KEY": sandbox_server.trusted_key}, {}):
        done = terminal.run(*command, **environment)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["outputs"]["saliency"]["values"]
        np.testing.assert_allclose(found, local["saliency"].values, rtol=1e-5, atol=1e-5)


def test_attention_weights_are_refused_in_the_sandbox(sandbox_server, terminal):
    keyed = sandbox_server.client_env()
    done = terminal.run(
        "run",
        "attention_patterns",
        "--model",
        TINY_LLAMA,
        "--backend",
        "ndif",
        "-p",
        "prompt=When Mary and John went",
        **keyed,
    )
    assert done.returncode == 5, done.stderr
    assert "needs attention weights" in done.stderr and "--backend local" in done.stderr
    assert terminal.ledger.all() == [], "nothing was sent"

"""A server as the public one is: it checks keys, and runs jobs of untrusted ones in a sandbox."""

from __future__ import annotations

import json

import numpy as np
import pytest

import remote_mi as mi
from remote_mi.ndif_server.launch import family
from remote_mi.ndif_server.record import Record

from ..conftest import MARY
from .conftest import TINY_LLAMA
from .test_parity import CASES, REMOTE

#: Every case in one client, since its imports take longer than the jobs.
EVERY = """
import contextlib, io, json, sys
script, model, cases = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
found = []
for recipe, given in cases:
    sys.argv = ["", recipe, model, json.dumps(given)]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(script)
    found.append(json.loads(said.getvalue()))
print(json.dumps(found))
"""


@pytest.mark.parametrize("trust", ["plain", "trusted"])
def test_jobs_of_either_key_equal_the_local_run(
    sandbox_server, sandbox_client, project, tiny_llama, trust
):
    key = {"plain": sandbox_server.plain_key, "trusted": sandbox_server.trusted_key}[trust]
    found = sandbox_client(EVERY, REMOTE, TINY_LLAMA, json.dumps(CASES), NDIF_API_KEY=key)
    for (recipe, given), remote in zip(CASES, found, strict=True):
        local = mi.run(recipe, model=str(tiny_llama), backend="local", **given)
        assert set(remote["outputs"]) == {n for n in local.names() if n in local.arrays}
        for name, values in remote["outputs"].items():
            np.testing.assert_allclose(
                values, local[name].values, atol=1e-5, err_msg=f"{recipe} {given} {name}"
            )
        assert remote["cache"] == "miss"
        assert [status for status, _ in remote["record"]["timeline"]][-1] == "COMPLETED"
    state = sandbox_server.state
    running = family(state, Record.read(state)).find().values()
    assert any("sandbox.runner" in line for line in running), "the server has a sandbox"


@pytest.mark.parametrize("key", ["", "00000000-0000-0000-0000-000000000000"])
def test_without_a_key_it_knows_nothing_runs(sandbox_server, project, process, key):
    environment = {**sandbox_server.client_env(), "NDIF_API_KEY": key}
    pair = [part for name, text in MARY.items() for part in ("-p", f"{name}={text}")]
    done = process("run", "activation_patching", "--model", TINY_LLAMA, "--backend", "ndif",
                   *pair, **environment)  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr

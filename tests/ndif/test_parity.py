"""The same recipe, unmodified, on a genuine NDIF server and on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import remote_mi as mi
from remote_mi.recipes import catalog

from ..conftest import MARY
from ..techniques import TECHNIQUES, examples_for
from .conftest import TINY_LLAMA, client_of

REMOTE = """
import json, sys
import remote_mi as mi
recipe, model, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
result = mi.run(recipe, model=model, backend="ndif", timeout=360, **given)
outputs = {name: result[name].values.tolist() for name in result.names() if name in result.arrays}
print(json.dumps({"outputs": outputs, "record": result.provenance["record"],
                  "environment": result.provenance["environment"],
                  "cache": result.provenance["cache"]}))
"""


#: Metrics of the project's own, by function, and a technique for each.
OWN_METRICS = {
    name: f"{Path(__file__).with_name('own_metric.py')}:{name}" for name in ("margin", "reverse_kl")
}
OWN = {"activation_patching": "margin", "attribution_patching": "reverse_kl", "ablation": "margin"}


def _cases() -> list[tuple[str, dict[str, Any]]]:
    """Every variant of every technique with two examples, and more sites of patching."""
    found = []
    for recipe, variants in TECHNIQUES.items():
        examples = examples_for(catalog.find(recipe, Path("/nowhere")))
        few = examples if recipe in ("linear_probe", "mean_difference") else examples[:2]
        found += [(recipe, {**({"pairs": few} if few else {}), **given}) for given in variants]
    sites = ("resid_mid", "attn_out")
    found += [("activation_patching", {**MARY, "site": site}) for site in sites]
    metrics = {"activation_patching": "rank", "ablation": "kl", "attribution_patching": "js"}
    found += [(recipe, {**MARY, "metric": metric}) for recipe, metric in metrics.items()]
    found += [(recipe, {**MARY, "metric": OWN_METRICS[name]}) for recipe, name in OWN.items()]
    # Several of one length, so that calls share passes there, too.
    found += [
        (recipe, {"phenomenon": "ioi:store", "n": 4}) for recipe in ("baseline", "logit_lens")
    ]
    long = {**MARY, "answer": " Mary gave a", "wrong": " John gave"}
    unequal = {**MARY, "corrupt": MARY["corrupt"].replace(", Mary", ", the Mary"), "align": "ends"}
    found += [("activation_patching", {"pairs": [unequal, {**MARY}]}), ("baseline", unequal)]
    found += [("attribution_patching", {**unequal, "direction": "noise"})]
    return [*found, ("baseline", long), ("activation_patching", {**long, "metric": "log_prob"})]


CASES = _cases()
NAMES = [f"{recipe}-{number}" for number, (recipe, _) in enumerate(CASES)]
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


def same_as_local(remote: dict[str, Any], recipe: str, model: Path, given: dict[str, Any]) -> None:
    """Compare what a server gave with the run on this machine, number by number."""
    local = mi.run(recipe, model=str(model), backend="local", **given)
    assert set(remote["outputs"]) == {n for n in local.names() if n in local.arrays}
    for name, values in remote["outputs"].items():
        theirs = np.array(values, dtype=float)  # null stands for a number that is not given
        np.testing.assert_allclose(
            theirs, local[name].values, atol=1e-5, rtol=1e-5, err_msg=f"{recipe} {given} {name}"
        )
    assert [status for status, _ in remote["record"]["timeline"]][-1] == "COMPLETED"
    assert remote["environment"]["kind"].startswith("ndif http://127.0.0.1")


@pytest.fixture(scope="module")
def every(ndif_server, tmp_path_factory):
    """What the server gave for each case."""
    client = client_of(ndif_server, tmp_path_factory.mktemp("every"))
    return client(EVERY, REMOTE, TINY_LLAMA, json.dumps(CASES), timeout=580)


@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_one_job_on_the_server_equals_the_local_run(every, project, tiny_llama, number):
    recipe, given = CASES[number]
    same_as_local(every[number], recipe, tiny_llama, given)
    record = every[number]["record"]
    assert len(record["job_id"]) == 36
    assert record["bytes_up"] < 64 * 1024
    assert record["bytes_down"] < 64 * 1024


def test_a_repeated_remote_job_is_a_hit(client, project):
    given = json.dumps(MARY)
    first = client(REMOTE, "activation_patching", TINY_LLAMA, given)
    again = client(REMOTE, "activation_patching", TINY_LLAMA, given)
    assert (first["cache"], again["cache"]) == ("miss", "hit")
    assert again["outputs"] == first["outputs"]


def test_several_pairs_are_one_job(client, project):
    found = client(
        REMOTE, "head_patching", TINY_LLAMA, json.dumps({"phenomenon": "ioi:store", "n": 3})
    )
    assert len(found["record"]["job_id"]) == 36
    assert found["record"]["bytes_up"] < 64 * 1024


PAYLOAD = """
import json, sys, pickletools, zstandard, pathlib
import remote_mi as mi
from remote_mi.recipes import catalog, loading
from remote_mi.backends.base import Work
from remote_mi.backends.ndif.payload import serialize
from remote_mi.models.load import build_weightless
from remote_mi.models.spec import ModelSpec
from remote_mi.common.progress import Silent
from remote_mi.prompts.tokens import tokenize
from remote_mi.prompts.choice import PromptChoice
from nnsight.schema.config import CONFIG
CONFIG.API.APIKEY = "secret-key-of-the-user"
project = pathlib.Path(".").absolute()
spec = ModelSpec(sys.argv[1])
model = build_weightless(spec, Silent())
prompts = PromptChoice(texts=json.loads(sys.argv[2])).resolve(project)
card = catalog.find("activation_patching", project)
tokens = tokenize(model.tokenizer, prompts, spec, "pair", 64)
work = Work(card, loading.load_function(card, project), tokens.prompts, card.resolve({}), "key")
blob = zstandard.ZstdDecompressor().stream_reader(serialize(model.lm, work)).read()
names = [str(arg) for op, arg, _ in pickletools.genops(blob) if isinstance(arg, str)]
print(json.dumps({"size": len(blob), "names": names, "text": blob.decode("latin1"),
                  "folders": [str(pathlib.Path(mi.__file__).parent.parent), str(card.path.parent),
                              str(pathlib.Path.home()), str(project), sys.prefix]}))
"""


def test_the_payload_is_source_without_bytecode_key_or_the_runner(client, project):
    found = client(PAYLOAD, TINY_LLAMA, json.dumps(MARY))
    text, names = found["text"], found["names"]
    assert "def sweep" in text and "def activation_patching" in text
    assert "secret-key-of-the-user" not in text
    assert MARY["clean"] not in text, "the prompts' text stays at home"
    assert "CodeType" not in names and "_make_function" not in names
    for folder in found["folders"]:
        assert folder not in text, "no folder of this machine"
    assert "activation_patching.py" in text, "the recipe's file is named, for errors in it"
    for room in (
        "remote_mi.jobs.runner",
        "remote_mi.store",
        "remote_mi.recipes.declaration",
        "remote_mi.models",
    ):
        assert room not in names


LOCAL = REMOTE.replace('backend="ndif"', 'backend="local"')


def test_a_model_named_by_its_hub_id_runs_here_too(client, project, tiny_llama):
    """The hub is a stand-in on this machine; the client and its files are the genuine ones."""
    found = client(LOCAL, "activation_patching", TINY_LLAMA, json.dumps(MARY))
    local = mi.run("activation_patching", model=str(tiny_llama), **MARY)
    np.testing.assert_allclose(
        found["outputs"]["effect"], local["effect"].values, rtol=1e-5, atol=1e-6
    )
    assert len(found["record"]["revision"]) == 40, "the commit the hub gave is recorded"


def test_a_model_the_hub_does_not_have_is_said_so(ndif_server, process):
    done = process(
        "run",
        "logit_lens",
        "--model",
        "remote-mi/absent",
        "-p",
        "prompt=x",
        **ndif_server.client_env(),
    )
    assert done.returncode == 3, done.stderr
    assert "the hub has no model 'remote-mi/absent'" in done.stderr
    assert "Traceback" not in done.stderr

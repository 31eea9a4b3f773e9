"""Where a job runs and why: the policy over recorded answers and descriptions of machines."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest

from remote_mi.backends.capabilities import TABLE, Place, depends_on_trust, unmet_needs
from remote_mi.backends.local.backend import LocalBackend
from remote_mi.backends.local.resources import Device, Resources, visible_gpus
from remote_mi.backends.ndif.backend import NdifBackend
from remote_mi.backends.ndif.facts import Deployment
from remote_mi.backends.ndif.servers import ServerFacts, serves
from remote_mi.backends.registry import open_backend
from remote_mi.backends.settings import Limits, Settings
from remote_mi.common.errors import BackendUnavailable, NotFound, UsageError
from remote_mi.jobs.building import make_job
from remote_mi.jobs.dispatch.footprint import estimate
from remote_mi.jobs.dispatch.measuring import measure
from remote_mi.jobs.dispatch.plan import Dispatcher
from remote_mi.jobs.runner import survey
from remote_mi.models import checkpoint as room
from remote_mi.models.checkpoint import Checkpoint, weights_size
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.choice import PromptChoice
from remote_mi.recipes.card import NEEDS

GB = 10**9
BIG = "meta-llama/Llama-3.1-70B"
LAPTOP = Resources((Device("cpu", 16 * GB, 10 * GB, "main memory"),), 100 * GB)
ONE_GPU = Resources((Device("cuda:0", 80 * GB, 78 * GB, "H100"), *LAPTOP.devices), 500 * GB)
TWO_GPUS = Resources(
    (
        Device("cuda:0", 80 * GB, 70 * GB, "H100"),
        Device("cuda:1", 80 * GB, 79 * GB, "H100"),
        *LAPTOP.devices,
    ),
    500 * GB,
)
CONFIG = {
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "intermediate_size": 28672,
    "vocab_size": 128256,
}
SMALL_CONFIG = {
    "hidden_size": 1024,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "vocab_size": 32_000,
}
SMALL = Checkpoint(True, 1 * GB, 500_000_000, "bfloat16", 0, SMALL_CONFIG)
SEVENTY = Checkpoint(True, 141 * GB, 70_553_706_496, "bfloat16", 0, CONFIG)


def key_of(repo_id, revision=None):
    given = json.dumps({"repo_id": repo_id, "revision": revision, "task": "text-generation"})
    return f"nnsight.modeling.transformers.TransformersModel:{given}"


def deployed(state="RUNNING", level="HOT", dtype="bfloat16", revision=None):
    """A deployment as `/status` of NDIF 0.1.2 describes it."""
    return Deployment(
        BIG,
        revision or "main",
        "text-generation",
        key_of(BIG, revision),
        state,
        level,
        dtype,
        3600.0,
        70_553_706_496,
        141 * GB,
        1,
        None,
        "ModelActor",
    )


THERE = ServerFacts("ndif", "https://api.ndif.us", deployment=deployed())
SANDBOX = replace(THERE, place=Place("sandboxed", "0.8.0"))
ABSENT = replace(THERE, deployment=None, others=("openai/gpt-oss-20b", "EleutherAI/gpt-j-6b"))
NO_KEY = ServerFacts("ndif", "https://api.ndif.us", "there is no key for it", "`remote-mi login`")


def job(project, recipe="activation_patching", model=BIG, **more):
    choice = PromptChoice("ioi:store", size=2)
    return make_job(recipe, ModelSpec(model, **more), choice, {}, project)


def planned(
    project,
    job,
    *,
    machine=LAPTOP,
    checkpoint=SMALL,
    server=NO_KEY,
    settings=None,
    asked="auto",
    verb="plan",
):
    def opened(name, project):
        if name == "local":
            return LocalBackend(machine=machine)
        backend = open_backend(name, project)
        assert isinstance(backend, NdifBackend)
        backend.facts = lambda spec, needs: replace(server, backend=name)
        return backend

    made = Dispatcher(project, settings or Settings(), opened)
    made._checkpoints[repr(job.model)] = checkpoint
    return getattr(made, verb)(job, asked)


#: What is known → where the job runs, and what the plan says of it.
DECISIONS = {
    "it fits and is here": ({}, "local", "fit into 9.0 GB of cpu's memory (free)"),
    "the GPU is taken before the CPU": ({"machine": ONE_GPU}, "local", "cuda:0's memory"),
    "the emptier of two GPUs": ({"machine": TWO_GPUS}, "local", "cuda:1's memory"),
    "over several GPUs together": (
        {
            "machine": Resources(tuple(Device(f"cuda:{i}", 80 * GB, 79 * GB) for i in range(3)), 0),
            "checkpoint": SEVENTY,
        },
        "local",
        "3 GPUs together",
    ),
    "the CPU where the GPU is full": (
        {"machine": Resources((Device("cuda:0", 8 * GB, GB // 2), *LAPTOP.devices), 0)},
        "local",
        "cpu's memory",
    ),
    "too large here, hosted there": (
        {"checkpoint": SEVENTY, "server": THERE},
        "ndif",
        "RUNNING HOT, bfloat16, 3600 s a job",
    ),
    "not here, hosted there": (
        {"checkpoint": replace(SMALL, present=False, download=GB), "server": THERE},
        "ndif",
        "RUNNING",
    ),
    "not here, nowhere else: a download": (
        {"checkpoint": replace(SMALL, present=False, download=GB)},
        "local",
        "after a download of 1.0 GB",
    ),
    "WARM is enough": (
        {"checkpoint": SEVENTY, "server": replace(THERE, deployment=deployed("unknown", "WARM"))},
        "ndif",
        "WARM",
    ),
    "loaded by the first job": (
        {"checkpoint": SEVENTY, "server": replace(ABSENT, loads=True)},
        "ndif",
        "the first job loads",
    ),
    "preferred": (
        {"server": THERE, "settings": Settings(prefer=("ndif", "local"))},
        "ndif",
        "RUNNING",
    ),
    "its own limit": (
        {"server": THERE, "settings": Settings(limits=Limits(memory=GB // 2))},
        "ndif",
        "RUNNING",
    ),
    "asked for, without asking the server first": (
        {"asked": "ndif", "server": THERE},
        "ndif",
        "requested",
    ),
    "asked for, and more than is free": (
        {"asked": "local", "checkpoint": replace(SMALL, weights=12 * GB)},
        "local",
        "requested, although",
    ),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_the_policy_decides_from_what_is_known(project, case):
    known, backend, said = DECISIONS[case]
    plan = planned(project, job(project), **known)
    assert plan.chosen.backend == backend
    assert said in plan.reason, plan.reason
    assert plan.to_json()["backend"] == backend and str(plan) in plan.line()


LIMITED = Settings(limits=Limits(memory=GB // 4))
#: What is known → what the error says, and what it advises.
REJECTIONS = {
    "too large": ({"checkpoint": SEVENTY}, "do not fit into 9.0 GB of cpu", ""),
    "a smaller dtype would fit": (
        {"checkpoint": replace(SMALL, weights=14 * GB, parameters=3_500_000_000, dtype="float32")},
        "do not fit",
        "--dtype bfloat16 takes 7.0 GB",
    ),
    "fewer prompts would fit": (
        {"checkpoint": replace(SMALL, weights=int(8.99 * GB), parameters=None)},
        "do not fit",
        "-n",
    ),
    "the limit set": ({"settings": LIMITED}, "(the limit set)", ""),
    "size unknown": (
        {"checkpoint": Checkpoint(False, unknown="the hub does not say: no network")},
        "the hub does not say",
        "name a folder",
    ),
    "no such device": ({"device": "cuda:3"}, "no device 'cuda:3'", "it has cpu"),
    "no key": ({"checkpoint": SEVENTY}, "there is no key", "remote-mi login"),
    "not reachable": (
        {"checkpoint": SEVENTY, "server": ServerFacts("ndif", problem="it cannot be reached")},
        "cannot be reached",
        "",
    ),
    "not deployed": (
        {"checkpoint": SEVENTY, "server": ABSENT},
        "is not deployed there",
        "EleutherAI/gpt-j-6b",
    ),
    "another revision": (
        {"checkpoint": SEVENTY, "server": replace(ABSENT, others=(f"{BIG}@v2",))},
        "under another revision",
        "--revision",
    ),
    "being deployed": (
        {"checkpoint": SEVENTY, "server": replace(THERE, deployment=deployed("DEPLOYING"))},
        "being deployed",
        "waits for it",
    ),
    "unhealthy": (
        {"checkpoint": SEVENTY, "server": replace(THERE, deployment=deployed("UNHEALTHY"))},
        "died there",
        "later",
    ),
    "another dtype": (
        {"checkpoint": SEVENTY, "server": THERE, "dtype": "float32"},
        "loaded there in bfloat16",
        "leave --dtype out",
    ),
    "gradients in the sandbox": (
        {"checkpoint": SEVENTY, "server": SANDBOX, "recipe": "attribution_patching"},
        "gradients cannot be read",
        "'trusted'",
    ),
    "attention weights in an old sandbox": (
        {"checkpoint": SEVENTY, "server": SANDBOX, "recipe": "attention_patterns"},
        "attention weights cannot be read",
        "'trusted'",
    ),
    "too much to send": (
        {"checkpoint": SEVENTY, "server": THERE, "settings": Settings(limits=Limits(upload=1000))},
        "limits.upload",
        "remote-mi.yaml",
    ),
    "too much to get": (
        {"checkpoint": SEVENTY, "server": THERE, "settings": Settings(limits=Limits(results=1000))},
        "limits.results",
        "remote-mi.yaml",
    ),
    "too much to download": (
        {
            "checkpoint": replace(SMALL, present=False, download=20 * GB),
            "settings": Settings(limits=Limits(download=10 * GB)),
        },
        "limits.download",
        "raise it",
    ),
    "no room on the disk": (
        {"checkpoint": replace(SMALL, present=False, download=200 * GB)},
        "on the disk",
        "make room",
    ),
    "asked for, beyond all memory": (
        {"checkpoint": SEVENTY, "asked": "local"},
        "cannot run on local",
        "",
    ),
}


@pytest.mark.parametrize("case", REJECTIONS)
def test_every_rejection_is_reachable_and_says_what_would_help(project, case, monkeypatch):
    # There is no hub here; asked all the same, it would be waited for.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    known, said, advice = REJECTIONS[case]
    known = dict(known)
    made = job(
        project,
        known.pop("recipe", "activation_patching"),
        **{k: known.pop(k) for k in ("device", "dtype") if k in known},
    )
    with pytest.raises(BackendUnavailable) as caught:
        planned(project, made, **known)
    text = str(caught.value)
    assert said in text and advice in text, text
    assert "Traceback" not in text and caught.value.exit_code == 5


def test_a_result_that_is_there_goes_before_every_backend(project, tiny_llama):
    import remote_mi as mi

    made = mi.job("logit_lens", model=tiny_llama, prompt="Hello world", project=project)
    run = made.run("local")
    for everything in (False, True):
        plan, place = survey(made, "auto", everything)
        assert place.run == run.run_id and plan.chosen.backend == "local"
        assert plan.reason == f"already computed there: run {run.run_id}"
        assert str(plan) in plan.line() and len(plan.options) == (3 if everything else 1)


def test_a_survey_looks_at_every_backend_and_a_plan_stops_at_the_first(project):
    known = {"server": THERE}
    assert [o.backend for o in planned(project, job(project), **known).options] == ["local"]
    survey = planned(project, job(project), **known, verb="survey")
    assert [(o.backend, o.can) for o in survey.options] == [("local", True), ("ndif", True)]
    assert survey.chosen.backend == "local"
    html = survey._repr_html_()
    assert "<table" in html and "RUNNING HOT" in html


def test_a_server_that_is_asked_for_may_deploy_the_model(project):
    plan = planned(project, job(project), asked="ndif", server=ABSENT, verb="survey")
    assert plan.chosen.backend == "ndif" and "requested, although" in plan.reason
    with pytest.raises(BackendUnavailable, match="there is no key"):
        planned(project, job(project), asked="ndif", server=NO_KEY, verb="survey")


def test_rows_are_packed_into_what_remains_beside_the_weights(project):
    roomy = planned(project, job(project), machine=ONE_GPU)
    tight = planned(project, job(project), checkpoint=replace(SMALL, weights=int(8.5 * GB)))
    assert roomy.chosen.rows_bytes > 30 * GB
    assert tight.chosen.rows_bytes < GB // 3
    spread = Resources(tuple(Device(f"cuda:{i}", 80 * GB, 79 * GB) for i in range(3)), 0)
    several = planned(project, job(project), machine=spread, checkpoint=SEVENTY)
    assert several.model.device_map == "auto" and several.chosen.rows_bytes < 20 * GB
    assert several.model.identity() == job(project).model.identity()  # never part of a key


def test_a_download_is_asked_for_from_a_size_on(project):
    small = replace(SMALL, present=False, download=GB // 10)
    assert planned(project, job(project), checkpoint=small).download == 0
    large = replace(SMALL, present=False, download=GB)
    assert planned(project, job(project), checkpoint=large).download == GB
    assert planned(project, job(project), checkpoint=large, asked="local").download == 0


def test_settings_name_the_servers_of_auto(project):
    settings = Settings(hosts=("https://a.org", "here"), prefer=("ndif",))
    plan = planned(project, job(project), settings=settings, server=THERE, verb="survey")
    assert [o.backend for o in plan.options] == ["ndif:https://a.org", "ndif:here"]


def test_an_unknown_backend_is_refused_with_the_nearest(project):
    with pytest.raises(UsageError, match="did you mean 'local'"):
        planned(project, job(project), asked="lcal")


def test_the_capability_table_has_every_need_and_knows_versions():
    of_the_model = {"causal", "unembedding", "lens", "plain_stream"}
    assert set(TABLE) == set(NEEDS) - of_the_model
    assert unmet_needs(NEEDS, Place("local")) == unmet_needs(NEEDS, Place("trusted")) == []
    assert unmet_needs(NEEDS, Place("sandboxed", "0.8.0")) == [
        "gradients",
        "attention_weights",
        "weights",
    ]
    assert unmet_needs(NEEDS, Place("sandboxed", "0.10.0+x")) == ["gradients", "weights"]
    assert depends_on_trust(["gradients"]) and not depends_on_trust(["generation"])


def test_a_deployment_is_the_model_only_under_the_exact_key():
    assert serves(deployed(), BIG.lower(), ModelSpec(BIG))
    assert not serves(deployed(revision="v2"), BIG, ModelSpec(BIG))
    assert not serves(deployed(), BIG, ModelSpec(BIG, revision="main"))
    assert serves(deployed(revision="v2"), BIG, ModelSpec(BIG, revision="v2"))


# --- what is measured -----------------------------------------------------------------------------


WIDE = """
import torch
from remote_mi import recipe

@recipe(over="prompt", returns={"wide": ("row", "column")})
def wide(model, prompt, *, size: int = 10, seed: int = 2_000_000_000):
    \"\"\"Many numbers.\"\"\"
    with model.trace(prompt.ids):
        found = torch.zeros(size, size).save()
    return {"wide": found}
"""


def test_results_beyond_the_limit_are_refused_before_anything_runs(project, tiny_llama, cli):
    (project / "wide.py").write_text(WIDE)
    words = ("wide.py", "--model", tiny_llama, "-p", "prompt=Hello", "--device", "cpu")
    for more in ((), ("--backend", "local")):
        code, out, err = cli("run", *words, "-p", "size=100000", *more)
        assert code == 5 and not out, err
        assert "40 GB, and the limit 'limits.results' is 1.0 GB" in err and "remote-mi.yaml" in err
        assert cli("plan", *words, "-p", "size=100000", *more)[0] == 5
    assert cli("plan", *words)[0] == 0, "a seed is no size"
    assert cli("plan", *words, "-p", "size=15000")[0] == 0, "900 MB, by a run without weights"
    (project / "remote-mi.yaml").write_text("limits: {results: 50GB}\n")
    assert cli("plan", *words, "-p", "size=100000")[0] == 0


def test_weights_are_measured_from_the_headers_of_a_real_checkpoint(tiny_llama):
    from safetensors import safe_open

    found = room.describe(ModelSpec(str(tiny_llama)))
    with safe_open(tiny_llama / "model.safetensors", "pt") as file:
        numbers = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert found.present and found.parameters == numbers and found.weights == 4 * numbers
    assert found.config["num_hidden_layers"] == 3 and found.dtype == "float32"
    assert room.describe(ModelSpec(str(tiny_llama), dtype="bfloat16")).weights == 2 * numbers


def test_quantised_sizes_count_matrices_and_keep_the_rest():
    tensors = [
        ("layers.0.mlp.weight", "BF16", (1000, 1000)),
        ("embed_tokens.weight", "BF16", (10, 10)),
        ("norm.weight", "BF16", (10,)),
        ("packed", "I32", (4,)),
    ]
    spec = ModelSpec(BIG, quantization="nf4")
    size, count = weights_size(tensors, spec)
    assert count == 1_000_114 and size == int((1_000_000 * 4.5 + 110 * 16 + 4 * 32) / 8)
    assert weights_size(tensors, ModelSpec(BIG))[0] == 2 * 1_000_110 + 16
    assert weights_size(tensors, ModelSpec(BIG, dtype="float32"))[0] == 4 * 1_000_110 + 16


def test_a_folder_that_cannot_be_measured_says_so(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    assert "no weights" in room.read_checkpoint(tmp_path, ModelSpec(str(tmp_path))).unknown
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    assert (
        "not a safetensors file" in room.read_checkpoint(tmp_path, ModelSpec(str(tmp_path))).unknown
    )
    with pytest.raises(NotFound, match="smollm2-135m-q4_1"):
        room.describe(ModelSpec("smollm2-135m"))


def test_gpus_are_those_that_torch_would_see():
    said = (
        "0, GPU-aaaa, NVIDIA H100 80GB HBM3, 81559, 81007\n"
        "1, GPU-bbbb, NVIDIA H100 80GB HBM3, 81559, 500\n[Insufficient Permissions]\n"
    )
    every = visible_gpus(said, None)
    assert [d.name for d in every] == ["cuda:0", "cuda:1"] and every[0].total == 81559 << 20
    turned = visible_gpus(said, "GPU-bb,0")
    assert [d.free for d in turned] == [500 << 20, 81007 << 20]
    assert visible_gpus(said, "1,7,0") == [replace(every[1], name="cuda:0")]
    assert visible_gpus(said, "") == []


def test_what_a_job_needs_grows_with_prompts_gradients_and_calls(project):
    plain = estimate(job(project), CONFIG, "bfloat16")
    gradients = estimate(job(project, "attribution_patching"), CONFIG, "bfloat16")
    assert plain.activations and gradients.activations > plain.activations
    assert plain.bytes_up > 12_000 and plain.bytes_down
    assert estimate(job(project), {}, "?").activations is None
    assert "beside them" in planned(project, job(project)).reason
    unknown = planned(project, job(project), checkpoint=replace(SMALL, config={}))
    assert "fit into" in unknown.reason and "beside them" not in unknown.reason


@pytest.mark.parametrize("recipe", ["logit_lens", "activation_patching"])
def test_where_arithmetic_is_too_careful_a_run_without_weights_measures(
    project, tiny_llama, recipe
):
    made = job(project, recipe, str(tiny_llama))
    weights = room.describe(made.model)
    careful = estimate(made, weights.config, weights.dtype)
    found = measure(made, careful, 1 << 20)
    assert found.measured and 10_000 < found.activations < careful.activations
    # A device with room for the weights and what was measured, and not for what was reckoned.
    free = int((weights.weights + (found.activations + careful.activations) / 2) / 0.9)
    small = Resources((Device("cpu", 2 * free, free),), 0)
    made = job(project, recipe, str(tiny_llama))
    plan = planned(project, made, machine=small, checkpoint=weights)
    assert plan.chosen.backend == "local" and "about" not in plan.reason


def test_measuring_counts_what_a_job_holds_at_once():
    import torch

    from remote_mi.backends.weightless import MeasuringFakeMode

    with MeasuringFakeMode(deadline=1e9) as mode:
        first = torch.zeros(1000)
        view = first[:10]
        second = torch.zeros(500)
        assert mode.now == mode.peak == 6000
        del first
        assert mode.now == 6000  # the view holds it
        del view, second
        third = torch.zeros(100)
        assert mode.now == 400 and mode.peak == 6000
        del third


def test_plan_on_the_command_line(project, cli, tiny_llama):
    words = ("logit_lens", "-p", "prompt=Hello world", "--model", tiny_llama)
    code, out, err = cli("plan", *words)
    assert code == 0 and "fit into" in out and "→ local" in out and "next: remote-mi run" in err
    code, out, _ = cli("plan", *words, "--json")
    found = json.loads(out)
    assert found["backend"] == "local" and found["weights"]["present"] and found["hit"] is None
    assert cli("plan", *words, "-q")[1] == "local\n"
    assert "plan: local: " in cli("run", *words)[2]
    code, out, _ = cli("plan", *words)
    assert "already computed there" in out
    (project / "remote-mi.yaml").write_text("limits: {memory: 1kB}\n")
    code, out, err = cli("plan", "logit_lens", "-p", "prompt=Other", "--model", tiny_llama)
    assert code == 5 and "the limit set" in err and "Traceback" not in err


def test_plan_imports_no_torch(project, process, tiny_llama):
    script = (
        "import sys; from remote_mi.cli.main import run_command; run_command(sys.argv[1:]); "
        "assert 'torch' not in sys.modules"
    )
    import subprocess
    import sys

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            "plan",
            "logit_lens",
            "-p",
            "prompt=Hi",
            "--model",
            str(tiny_llama),
            "-q",
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0 and done.stdout == "local\n", done.stderr

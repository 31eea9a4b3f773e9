"""`remote-mi models fit`: what a model needs, and the smallest machines, from its configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remote_mi.jobs.dispatch.machines import smallest_machines

SEVENTY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 128256,
}


@pytest.fixture
def seventy(project: Path) -> Path:
    """The configuration of a model of 70 billion parameters, without weights."""
    folder = project / "seventy"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SEVENTY))
    return folder


def test_a_model_is_sized_from_its_configuration_alone(cli, seventy):
    code, out, err = cli("models", "fit", seventy, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["parameters"] == 70_553_706_496  # as the checkpoint of that shape has them
    by_dtype = {fit["dtype"]: fit for fit in found["dtypes"]}
    assert by_dtype["float32"]["weights"] == 4 * found["parameters"]
    assert by_dtype["bfloat16"]["weights"] == 2 * found["parameters"]
    assert by_dtype["bfloat16"]["reading"] == {
        "ram_gb": 256, "gpu_gb": 192, "gpus": {"number": 2, "gb": 80},
    }  # fmt: skip
    assert by_dtype["nf4"]["reading"]["gpu_gb"] == 48
    assert found["harvest"]["bytes_a_layer"] == 4 * 8192 * 1_000_000
    assert {device["device"] for device in found["this_machine"]} >= {"cpu"}


def test_the_terminal_shows_the_same(cli, seventy, tiny_llama):
    code, out, err = cli("models", "fit", seventy, "--tokens", "1000")
    assert code == 0 and "70,554 M parameters" in out, err
    assert "bfloat16" in out and "192 GB" in out and "1000 tokens" in out and "here: cpu" in out
    code, out, _ = cli("models", "fit", tiny_llama)
    assert code == 0 and "float32*" in out


def test_a_plan_names_the_smallest_machine(cli, tiny_llama):
    words = ("plan", "logit_lens", "--model", tiny_llama, "-p", "prompt=Hello")
    code, out, err = cli(*words)
    assert code == 0 and "one GPU of 8 GB, or 8 GB of main memory would do" in out, err
    code, out, _ = cli(*words, "--json")
    assert json.loads(out)["smallest"]["ram_gb"] == 8


@pytest.mark.parametrize(
    ("weights", "beside", "ram", "gpu", "several"),
    [
        (int(7.0e9), 0, 8, 8, (2, 24)),
        (int(7.3e9), 0, 16, 12, (2, 24)),
        (int(140e9), int(1e9), 256, 192, (2, 80)),
        (int(500e9), int(1e9), 1024, None, (4, 141)),
        (int(40e9), int(20e9), 128, 80, (2, 80)),  # every GPU holds all that is beside
        (int(5000e9), 0, None, None, None),
    ],
)
def test_the_smallest_machines(weights, beside, ram, gpu, several):
    found = smallest_machines(weights, beside)
    assert (found.ram, found.gpu, found.several) == (ram, gpu, several)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "nosuch", "hidden_size": 4}, "has the model_type 'nosuch', which trans"),
        ({**SEVENTY, "num_hidden_layers": "many"}, "cannot be built from its configuration"),
        ({}, "is not known"),
    ],
)
def test_configurations_that_tell_too_little(cli, project, config, said):
    (project / "odd").mkdir()
    (project / "odd" / "config.json").write_text(json.dumps(config))
    code, _, err = cli("models", "fit", "./odd")
    assert code == 2 and said in err and len(err) < 400, err

"""PEFT adapters: merged on load, in the key by content, refused where they do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import remote_mi as mi
from remote_mi.common.errors import RemoteMIError, UsageError
from remote_mi.models.spec import ModelSpec

from ...conftest import MARY

peft = pytest.importorskip("peft")


def save_adapter(base: Path, folder: Path, **settings: Any) -> Any:
    """Save a LoRA adapter with random weights; returns the model with it attached, unmerged."""
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=False, **settings)
        attached = peft.get_peft_model(model, config)
    attached.save_pretrained(folder)
    return attached.eval()


def gap(model: Any, folder: Path) -> float:
    """The logit difference of MARY by a plain forward pass."""
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(MARY["clean"])["input_ids"]])).logits[0, -1]
    return float(logits[ids(MARY["answer"])[-1]] - logits[ids(MARY["wrong"])[-1]])


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"target_modules": ["q_proj", "o_proj"]}),
        ("llama", {"target_modules": "all-linear", "use_dora": True, "use_rslora": True}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
        ("gpt2", {"target_modules": ["lm_head"]}),  # whose matrix is the embedding's, too
        ("gpt2", {"target_modules": ["c_attn"], "modules_to_save": ["wte"]}),
    ],
)
def test_a_merged_adapter_has_the_numbers_of_the_attached_one(
    family, settings, tiny, tmp_path, project
):
    base = tiny(family)
    attached = save_adapter(base, tmp_path / "lora", **settings)
    spec = ModelSpec(str(base), adapter=str(tmp_path / "lora"))
    result = mi.run("baseline", model=spec, pairs=[MARY])
    plain = mi.run("baseline", model=base, pairs=[MARY])
    expected = gap(attached, base)
    assert float(result["logit_diff"].values) == pytest.approx(expected, abs=2e-5)
    assert abs(float(plain["logit_diff"].values) - expected) > 1e-3
    told = result.provenance["record"]["adapter"]
    assert told["merged"] and told["kind"] == "LORA" and told["made_for"] == str(base)
    assert mi.reproduce(result).matches


def test_an_adapter_is_in_the_key_by_its_content(tiny_llama, tmp_path, project):
    one, moved = tmp_path / "one", tmp_path / "moved"
    save_adapter(tiny_llama, one, target_modules=["q_proj"])

    def key(folder: Path) -> str:
        spec = ModelSpec(str(tiny_llama), adapter=str(folder))
        return mi.job("logit_lens", model=spec, prompt=MARY["clean"]).key

    assert key(one) != mi.job("logit_lens", model=tiny_llama, prompt=MARY["clean"]).key
    shutil.copytree(one, moved)
    (moved / "README.md").write_text("no number depends on it")
    assert key(moved) == key(one)
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 99}))
    assert key(moved) != key(one)
    hub = [ModelSpec(adapter=name).identity()["adapter"] for name in ("me/lora", "me/lora@v2")]
    assert hub == ["me/lora", "me/lora@v2"] and "adapter" not in ModelSpec().identity()


def test_an_adapter_of_another_model_is_noted_or_refused(tiny, tmp_path, project):
    llama, lora = tiny("llama"), tmp_path / "lora"
    save_adapter(llama, lora, target_modules=["q_proj"])
    copy = tmp_path / "another-llama"
    shutil.copytree(llama, copy)
    result = mi.run(
        "logit_lens", model=ModelSpec(str(copy), adapter=str(lora)), prompt=MARY["clean"]
    )
    assert f"says it was made for {llama}, not {copy}" in " ".join(result.document["notes"])
    with pytest.raises(UsageError, match=r"adapter .* does not fit .*: Target modules") as error:
        mi.run("logit_lens", model=ModelSpec(str(tiny("gpt2")), adapter=str(lora)), prompt="Hello")
    assert f"it was made for {llama}" in str(error.value.hint)


def _without_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def _weights(change: Any) -> Any:
    def alter(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return alter


def _configured(**changes: Any) -> Any:
    def alter(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return alter


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (_without_weights, "has no weights: there is no adapter_model.safetensors"),
        (lambda f: (f / "adapter_config.json").unlink(), "is not an adapter: it has no"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "adapter_model.bin").write_bytes(b"x"), "has its weights twice"),
        (_weights(lambda w: dict(list(w.items())[1:])), "1 of its weights are missing for"),
        (
            _weights(lambda w: {**w, "base_model.model.x.lora_A.weight": w[min(w)].clone()}),
            "x.lora",
        ),
        (_weights(lambda w: {k: v[:, :1].clone() for k, v in w.items()}), "size mismatch for"),
        (_configured(task_type="SEQ_CLS"), "made for SEQ_CLS, not for a language model"),
        (_configured(peft_type="NO_SUCH"), "cannot be read"),
        (_configured(peft_type="PREFIX_TUNING", num_virtual_tokens=4), "adds positions instead"),
    ],
)
def test_adapters_that_cannot_be_used(alter, said, tiny_llama, tmp_path, project):
    lora = tmp_path / "lora"
    save_adapter(tiny_llama, lora, target_modules=["q_proj"])
    alter(lora)
    with pytest.raises(RemoteMIError) as error:
        mi.run(
            "logit_lens",
            model=ModelSpec(str(tiny_llama), adapter=str(lora)),
            prompt=MARY["clean"],
            backend="local",
        )
    assert said in str(error.value).splitlines()[0] and error.value.hint


def test_where_a_server_cannot_attach_an_adapter_it_is_said_before_sending(
    tiny_llama, tmp_path, project
):
    save_adapter(tiny_llama, tmp_path / "lora", target_modules=["q_proj"])
    for adapter, said in (
        (str(tmp_path / "lora"), "is on this machine only"),
        ("me/lora@v2", "default revision, not v2"),
    ):
        spec = ModelSpec("nobody/base", adapter=adapter)
        with pytest.raises(RemoteMIError, match=said):
            mi.run("logit_lens", model=spec, prompt="Hi", backend="ndif:http://127.0.0.1:9")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_attached_as_a_server_does_it_an_adapter_gives_the_same_numbers(
    family, tiny, tmp_path, project
):
    """A server attaches it to its model for one job; here it is merged."""
    from remote_mi.backends.base import Work
    from remote_mi.backends.session import run_session
    from remote_mi.common.progress import Silent
    from remote_mi.jobs.inputs import tokenize_parameters, tokenize_prompts
    from remote_mi.models.load import LoadedModel, build_weightless, load
    from remote_mi.models.proof import prove
    from remote_mi.models.structure.binding import bind
    from remote_mi.models.structure.known import structure_of
    from remote_mi.models.wrap import nnsight_model
    from remote_mi.recipes.loading import load_function

    base, lora = tiny(family), tmp_path / "lora"
    targets = {"llama": ["q_proj", "o_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}[family]
    save_adapter(base, lora, target_modules=targets, fan_in_fan_out=family == "gpt2")
    spec = ModelSpec(str(base), adapter=str(lora), attention="eager")
    described = build_weightless(spec, Silent(), "nobody/base", str(lora))
    env = described.lm._remoteable_get_env()
    assert env["peft"] == str(lora)
    there = nnsight_model(replace(spec, adapter=None), str(base), with_weights=True, device="cpu")
    there._remoteable_set_env(env)  # as NDIF does before it runs a job
    bind(there, structure_of(AutoModelForCausalLM, there._module.config))
    there._module.requires_grad_(False)
    prove(there)
    job = mi.job("activation_patching", model=spec, pairs=[MARY])
    found = []
    for lm in (load(spec, Silent()).lm, there):
        model = LoadedModel(lm, lm.tokenizer, 64, {})
        calls = job.card.calls(tokenize_prompts(job, model).prompts)
        function = load_function(job.card, project)
        work = Work(job.card, function, calls, tokenize_parameters(job, model), job.key)
        found.append(run_session(lm, work)[0])
    for name, here in found[0].items():
        assert torch.allclose(
            torch.as_tensor(here).float(), torch.as_tensor(found[1][name]).float(), atol=1e-4
        ), name


def test_an_adapter_of_the_unembedding_is_not_attached_on_a_server(tiny, tmp_path, project):
    from remote_mi.common.progress import Silent
    from remote_mi.models.load import build_weightless

    save_adapter(tiny("gpt2"), tmp_path / "lora", target_modules=["lm_head"])
    spec = ModelSpec(str(tiny("gpt2")), adapter=str(tmp_path / "lora"))
    with pytest.raises(UsageError, match="changes lm_head, whose numbers recipes read"):
        build_weightless(spec, Silent(), "nobody/base", str(tmp_path / "lora"))


def test_a_report_tells_of_the_adapter(tiny_llama, tmp_path, project):
    from remote_mi.report.document.run_facts import models

    save_adapter(tiny_llama, tmp_path / "lora", target_modules=["q_proj"])
    spec = ModelSpec(str(tiny_llama), adapter=str(tmp_path / "lora"))
    (facts,) = models([mi.run("logit_lens", model=spec, prompt=MARY["clean"])])
    assert facts["adapter"].startswith(
        f"{tmp_path / 'lora'} (LORA, merged into the weights, sha256:"
    )

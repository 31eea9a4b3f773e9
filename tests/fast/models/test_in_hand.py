"""Models and tokenizers that are objects in memory, and prompts that are token ids."""

from __future__ import annotations

import copy
import functools
import gc
import json
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import remote_mi as mi
from remote_mi.common.errors import NotFound, RemoteMIError, UsageError
from remote_mi.models.spec import ModelSpec
from remote_mi.models.tiny_models import configuration

from ...conftest import MARY

PAIR: dict[str, Any] = {
    "clean": [1, 5, 7, 8], "corrupt": [1, 6, 7, 8], "answer": 9, "wrong": 11,
}  # fmt: skip


def toy(seed: int = 0, made_as: Any = LlamaForCausalLM) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return made_as(configuration("llama", 40))


class OwnModel(LlamaForCausalLM):
    """A class that no library knows."""

    def forward(self, *given: Any, **named: Any) -> Any:
        return super().forward(*given, **named)


@pytest.mark.parametrize("made_as", [LlamaForCausalLM, OwnModel])
def test_a_model_in_memory_gives_its_own_numbers(made_as, project):
    model = toy(made_as=made_as).eval()
    with torch.no_grad():
        logits = model(torch.tensor([PAIR["clean"]])).logits[0, -1]
    result = mi.run("baseline", model=model, **PAIR)
    expected = float(logits[9] - logits[11])
    assert float(result["logit_diff"].values) == pytest.approx(expected, abs=1e-5)
    patched = mi.run("activation_patching", model=model, **PAIR)
    assert patched.document["parts"][0]["tokens"] == [" 1", " 5", " 7", " 8"]


@pytest.mark.parametrize("name", ["t5", "bart", "gemma3"])
def test_two_sides_and_models_of_pictures_are_taken_from_memory(name, encoder, project):
    """A baseline, and a patched run of every layer and position, against plain hooks."""
    plain = encoder(name)[1]
    ids = {"clean": [5, 9, 7, 8], "corrupt": [5, 6, 7, 8], "answer": 9, "wrong": 11}
    clean, corrupt = (torch.tensor([ids[which]]) for which in ("clean", "corrupt"))

    def gap(logits: torch.Tensor) -> torch.Tensor:
        at_end = logits[:, -1].double()
        return at_end[:, ids["answer"]] - at_end[:, ids["wrong"]]

    own, other = gap(plain.logits(clean))[0], gap(plain.logits(corrupt))[0]
    result = mi.run("baseline", model=plain.model, pairs=[ids])
    assert float(result["logit_diff"].values) == pytest.approx(float(own), abs=1e-4)
    patched = mi.run("activation_patching", model=plain.model, pairs=[ids], control_draws=0)
    eye = torch.eye(4, dtype=torch.bool)[:, :, None]
    for layer in range(3):
        put_in = functools.partial(torch.where, eye, plain.site(clean, "resid_pre", layer))
        scores = gap(plain.logits_with(corrupt.expand(4, -1), "resid_pre", layer, put_in))
        expected = scores - other
        assert np.allclose(patched["effect"].values[layer], expected, atol=1e-4)


@pytest.mark.parametrize("made_as", ["T5Model", "BartModel", "Gemma3Model", "T5EncoderModel"])
def test_a_body_of_two_sides_or_of_pictures_has_no_unembedding(made_as, encoder, project):
    plain = encoder(next(n for n in ("t5", "bart", "gemma3") if n in made_as.lower()))[1]
    body = getattr(transformers, made_as)(copy.deepcopy(plain.model.config))
    with pytest.raises(UsageError, match=f"is a {made_as}, which has no unembedding"):
        mi.run("baseline", model=body, **PAIR)


def test_two_sides_in_memory_need_a_token_to_begin_answers_with(encoder, project):
    model = copy.deepcopy(encoder("t5")[1].model)
    model.config.decoder_start_token_id = None
    model.generation_config.decoder_start_token_id = None
    with pytest.raises(UsageError, match=r"set decoder_start_token_id in its generation_config,"):
        mi.run("baseline", model=model, **PAIR)


def test_a_model_in_memory_is_left_as_it_was(project):
    model = toy().train()
    model.model.embed_tokens.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    had = [sorted(vars(part)) for part in model.modules()]
    settings = json.dumps(model.config.to_dict(), default=str)
    mi.run("attention_patterns", model=model, prompt=[1, 5, 7])  # which needs eager attention
    mi.run("attribution_patching", model=model, **PAIR)  # which needs gradients
    assert all(part.training for part in model.modules())
    grad = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert grad == ["model.embed_tokens.weight"] and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [sorted(vars(part)) for part in model.modules()] == had
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert json.dumps(model.config.to_dict(), default=str) == settings
    assert model.config._attn_implementation == "sdpa"


def test_a_model_in_memory_is_known_by_its_weights_configuration_and_code(project):
    def key(model: Any) -> str:
        return mi.job("logit_lens", model=model, prompt=[1, 5, 7]).key

    one, same, other = toy(), toy(), toy(1)
    assert key(one) == key(same) != key(other)
    assert key(toy(made_as=OwnModel)) != key(one)
    same.config.rms_norm_eps = 1e-3
    assert key(same) != key(one)
    with torch.no_grad():
        one.lm_head.weight[0, 0] += 1
    assert key(one) != key(toy())
    assert mi.run("logit_lens", model=toy(), prompt=[1, 5, 7]).provenance["cache"] == "miss"
    assert mi.run("logit_lens", model=toy(), prompt=[1, 5, 7]).provenance["cache"] == "hit"


def test_an_object_lives_as_long_as_its_job_and_may_not_change_meanwhile(project):
    job = mi.job("logit_lens", model=toy(2), prompt=[1, 5, 7])
    gc.collect()
    assert job.run().provenance["model"]["name"].startswith("object:LlamaForCausalLM-")
    model = toy(3)
    job = mi.job("logit_lens", model=model, prompt=[1, 5, 7])
    model.lm_head.weight.data.add_(1)
    with pytest.raises(UsageError, match="has changed since the job was created"):
        job.run()


def test_a_run_says_what_its_model_was_and_that_it_needs_the_object_again(project):
    model = toy(4)
    result = mi.run("logit_lens", model=model, prompt=[1, 5, 7])
    told = result.provenance["record"]["object"]
    assert told["class"].endswith("LlamaForCausalLM") and told["config"]["hidden_size"] == 32
    assert told["digest"] == result.provenance["model"]["content"]
    assert "cannot be loaded again without it" in " ".join(result.document["notes"])
    assert mi.reproduce(result).matches
    path = result.path
    del model, result
    from remote_mi.models.load import unload

    unload()
    gc.collect()
    with pytest.raises(NotFound, match=rf"LlamaForCausalLM, llama, SHA-256 {told['digest'][:12]}"):
        mi.reproduce(path)


def test_a_tokenizer_in_memory_reads_the_prompts(tiny_llama, project):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    result = mi.run("baseline", model=model, tokenizer=tokenizer, pairs=[MARY])
    named = mi.run("baseline", model=tiny_llama, pairs=[MARY])
    assert float(result["logit_diff"].values) == pytest.approx(
        float(named["logit_diff"].values), abs=1e-6
    )
    key = mi.job("baseline", model=tiny_llama, tokenizer=tokenizer, pairs=[MARY]).key
    tokenizer.add_tokens([" zebra"])
    assert mi.job("baseline", model=tiny_llama, tokenizer=tokenizer, pairs=[MARY]).key != key


def test_token_ids_are_prompts_of_a_named_model_too(tiny_llama, project, cli):
    ids = AutoTokenizer.from_pretrained(tiny_llama)(MARY["clean"])["input_ids"]
    by_ids = mi.run("logit_lens", model=tiny_llama, tokenizer="ids", prompt=np.array(ids))
    by_text = mi.run("logit_lens", model=tiny_llama, prompt=MARY["clean"])
    name = next(iter(by_text.arrays))
    assert np.allclose(by_ids.arrays[name], by_text.arrays[name])
    words = ("--model", tiny_llama, "--tokenizer", "ids", "-p", f"prompt={' '.join(map(str, ids))}")
    code, _, err = cli("run", "logit_lens", *words, "-q")
    assert code == 0, err
    lines = [json.dumps({"clean": [1, 5, 7], "corrupt": [1, 6, 7], "answers": [8, 9], "wrong": 3})]
    (project / "ids.jsonl").write_text("\n".join(lines))
    result = mi.run("baseline", model=toy(), pairs=project / "ids.jsonl")
    assert result.document["parts"][0]["tokens"] == [" 1", " 5", " 7"]


def _sequence_classifier() -> Any:
    return transformers.LlamaForSequenceClassification(configuration("llama", 40))


def _on_meta() -> Any:
    with torch.device("meta"):
        return LlamaForCausalLM(configuration("llama", 40))


def _hooked() -> Any:
    model = toy()
    model.model.layers[1].register_forward_hook(lambda *_: None)
    return model


def _patched() -> Any:
    model = toy()
    model.model.norm.forward = lambda x: x
    return model


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: {"model": torch.nn.Linear(2, 2)}, "model is a Linear, not a transformers model"),
        (lambda: {"model": 3}, "model is 3, not"),
        (lambda: {"model": toy().model}, "is a LlamaModel, which has no unembedding"),
        (lambda: {"model": _sequence_classifier()}, "which has no unembedding"),
        (lambda: {"model": _on_meta()}, "has no weights: they are on the device 'meta'"),
        (
            lambda: {"model": _hooked()},
            "model.layers.1 of the LlamaForCausalLM in memory has hooks",
        ),
        (lambda: {"model": _patched()}, "model.norm of the LlamaForCausalLM"),
        (lambda: {"model": toy(), "prompt": [1, 40]}, "'40' is no token id of the model"),
        (lambda: {"model": toy(), "prompt": [1, -4]}, "'-4' is no token id of the model"),
        (lambda: {"model": toy(), "prompt": "Hello"}, "'Hello' is no token id of the model"),
        (lambda: {"model": toy(), "prompt": []}, "'prompt' is not a text, nor a list of messages"),
        (lambda: {"model": toy(), "prompt": [1.5]}, "field 'prompt' is not a text: [1.5]"),
        (lambda: {"model": toy(), "prompt": [1], "target": 99}, "'99' is no token id"),
        (lambda: {"model": toy(), "tokenizer": object()}, "tokenizer is a object, not a tokenizer"),
        (
            lambda: {"model": toy(), "tokenizer": "./nowhere", "prompt": "Hi"},
            "there is no folder nowhere",
        ),
        (lambda: {"model": toy(), "backend": "ndif"}, "is an object in this program's memory"),
        (
            lambda: {"model": "object:Llama-0123456789ab", "prompt": "Hi"},
            "was a Llama in the memory of a Python",
        ),
    ],
)
def test_objects_and_ids_that_cannot_be_used(given, said, project):
    with pytest.raises(RemoteMIError) as error:
        mi.run("logit_lens", **{"prompt": [1, 5, 7], **given()})
    assert said in str(error.value)


def test_ids_for_a_model_with_a_tokenizer_are_refused(tiny_llama, project):
    with pytest.raises(UsageError, match=r"are token ids, and .* has a tokenizer"):
        mi.run("logit_lens", model=ModelSpec(str(tiny_llama)), prompt=[1, 5])

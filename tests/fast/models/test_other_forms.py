"""GGUF files, quantized checkpoints, tokenizers: taken where they can be, else one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import remote_mi as mi
from remote_mi.models.spec import ModelSpec

from ...conftest import MARY

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(folder: Path, file: Path, kind: str = "llama") -> None:
    """A model folder of the Llama architecture as a GGUF file, without a tokenizer."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(file, kind)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])

    def permuted(tensor: torch.Tensor, count: int) -> torch.Tensor:
        """Rows in the order of llama.cpp, which rotates neighbours instead of halves."""
        half = tensor.shape[0] // count // 2
        return tensor.reshape(count, 2, half, -1).swapaxes(1, 2).reshape(tensor.shape)

    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].numpy())
    writer.add_tensor("output.weight", weights["lm_head.weight"].numpy())
    for layer in range(config["num_hidden_layers"]):
        for own, other in NAMES.items():
            tensor = weights[f"model.layers.{layer}.{own}.weight"]
            if own.endswith(("q_proj", "k_proj")):
                tensor = permuted(tensor, heads if "q_proj" in own else key_heads)
            writer.add_tensor(f"blk.{layer}.{other}.weight", np.ascontiguousarray(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def tiny_gguf(tiny_llama, tmp_path: Path) -> Path:
    file = tmp_path / "tiny.gguf"
    write_gguf(tiny_llama, file)
    return file


def test_a_gguf_file_has_the_numbers_of_its_model(tiny_llama, tiny_gguf, project, cli):
    spec = ModelSpec(str(tiny_gguf), tokenizer=str(tiny_llama))
    found = mi.run("activation_patching", model=spec, pairs=[MARY])
    named = mi.run("activation_patching", model=tiny_llama, pairs=[MARY])
    assert np.allclose(found["recovery"].values, named["recovery"].values, atol=1e-4)
    record = found.provenance["record"]
    assert record["quantization"] == "gguf, dequantized" and record["dtype"] == "float32"
    assert mi.reproduce(found).matches
    moved = tiny_gguf.parent / "moved" / "tiny.gguf"
    moved.parent.mkdir()
    shutil.copy(tiny_gguf, moved)
    again = mi.job("baseline", model=ModelSpec(str(moved), tokenizer=str(tiny_llama)), pairs=[MARY])
    assert again.key == mi.job("baseline", model=spec, pairs=[MARY]).key
    code, out, err = cli("models", "fit", tiny_gguf, "--json")
    loaded = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert code == 0 and json.loads(out)["parameters"] == loaded.num_parameters(), err


def quantized(folder: Path, target: Path, settings: Any) -> Any:
    """Save a quantized copy of a model, with the tokenizer; returns the model."""
    shutil.copytree(folder, target)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings)
    (target / "model.safetensors").unlink()
    model.save_pretrained(target)
    return model


def test_a_quantized_checkpoint_runs_as_it_is(tiny_llama, tmp_path, project):
    from transformers import AutoTokenizer, BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = quantized(tiny_llama, tmp_path / "small", settings)
    result = mi.run("baseline", model=tmp_path / "small", pairs=[MARY])
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(MARY["clean"])["input_ids"]])).logits[0, -1]
    right, wrong = (tokenizer(MARY[k])["input_ids"][-1] for k in ("answer", "wrong"))
    assert float(result["logit_diff"].values) == pytest.approx(
        float(logits[right] - logits[wrong]), abs=1e-4
    )
    assert "bitsandbytes" in result.provenance["record"]["quantization"]


def _configured(**changes: Any) -> Callable[[Path], None]:
    def alter(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return alter


def _without_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


def _quantized_by(method: Any, **more: Any) -> Callable[[Path], None]:
    return _configured(quantization_config={"quant_method": method, **more})


#: How a copy of the tiny model is altered, what is given besides it, the exit code, what is said.
ODD: list[tuple[Callable[[Path], Any], tuple[str, ...], int, str]] = [
    (_without_tokenizer, (), 2, "has no tokenizer\n"),
    (lambda f: (f / "tokenizer.json").write_text("{"), (), 2, "cannot be loaded"),
    (lambda f: None, ("--tokenizer", "./nowhere"), 2, "there is no folder nowhere"),
    (lambda f: None, ("--tokenizer", " "), 2, "the tokenizer's name is empty"),
    (lambda f: None, ("--tokenizer", "a/b/c"), 2, "is neither a folder nor a hub id"),
    (lambda f: (f / "no").mkdir(), ("--tokenizer", "{model}/no"), 2, "holds no tokenizer"),
    (lambda f: None, ("--tokenizer", "nobody/words"), 5, "hub cannot be reached"),
    (lambda f: None, ("--tokenizer", "ids"), 2, "'When' is no token id of the model"),
    (lambda f: None, ("--adapter", "./nowhere"), 2, "there is no folder nowhere"),
    (lambda f: None, ("--adapter", " "), 2, "the adapter's name is empty"),
    (lambda f: None, ("--adapter", "lora"), 2, "is neither a folder nor a hub id"),
    (lambda f: None, ("--adapter", "{model}"), 2, "holds a whole model: it has no adapter_config"),
    (lambda f: None, ("--adapter", "nobody/lora"), 5, "adapter nobody/lora is not on this machine"),
    (lambda f: None, ("--adapter", "a/b", "--quantization", "nf4"), 2, "an adapter is merged into"),
    (lambda f: None, ("--revision", "step1"), 2, "has no revisions"),
    (_quantized_by("gptq", bits=4), (), 2, "is quantized by gptq, which needs optimum"),
    (_quantized_by("awq", bits=4), (), 2, "is quantized by awq, which needs gptqmodel"),
    (_quantized_by("hqq"), (), 2, "is quantized by hqq, which needs hqq"),
    (_quantized_by("aqlm"), (), 2, "is quantized by aqlm, which needs aqlm"),
    (_quantized_by("nosuch"), (), 2, "is quantized by 'nosuch', which transformers does not"),
    (_configured(quantization_config={"bits": 4}), (), 2, "has no quant_method"),
    (_configured(model_type="nosuch"), (), 2, "nosuch"),
    (_configured(architectures=["LlamaModel"]), (), 2, "which has no unembedding"),
    (lambda f: (f / "config.json").write_text("[]"), (), 2, "cannot be loaded"),
    (lambda f: (f / "config.json").unlink(), (), 2, "it has no config.json"),
    (lambda f: (f / "adapter_config.json").write_text("{}"), (), 2, "beside a model"),
]
GGUF: list[tuple[bytes | None, tuple[str, ...], int, str]] = [
    (None, (), 2, "cannot read m.gguf: No such file"),
    (b"", (), 2, "cannot be read as a GGUF file"),
    (b"not a GGUF file at all", (), 2, "it does not begin with GGUF"),
    (b"GGUF\x03\x00\x00\x00", (), 2, "cannot be read as a GGUF file"),
]


@pytest.mark.parametrize(("alter", "words", "code", "said"), ODD)
def test_folders_that_cannot_be_used(alter, words, code, said, cli, project, tiny_llama):
    pytest.importorskip("peft")
    model = project / "model"
    shutil.copytree(tiny_llama, model)
    alter(model)
    words = tuple(word.format(model=model) for word in words)
    prompt = f"prompt={MARY['clean']}"
    _check(cli("run", "logit_lens", "-p", prompt, "--model", model, *words, "-q"), code, said)


@pytest.mark.parametrize(("content", "words", "code", "said"), GGUF)
def test_gguf_files_that_cannot_be_used(content, words, code, said, cli, project):
    if content is not None:
        (project / "m.gguf").write_bytes(content)
    _check(
        cli("run", "logit_lens", "-p", "prompt=Hi", "--model", "./m.gguf", *words, "-q"), code, said
    )


def test_gguf_files_of_other_kinds(cli, project, tiny_llama, tiny_gguf):
    run = ("run", "logit_lens", "-p", "prompt=Hi", "-q", "--model")
    odd = project / "odd.gguf"
    write_gguf(tiny_llama, odd, kind="nosuch")
    _check(cli(*run, odd, "--tokenizer", tiny_llama), 2, "nosuch")
    _check(
        cli(*run, tiny_gguf, "--tokenizer", tiny_llama, "--backend", "ndif"), 2, "is a GGUF file"
    )
    _check(cli(*run, tiny_gguf), 2, "tokenizer")


def _check(found: tuple[int, str, str], code: int, said: str) -> None:
    """One clear line and a hint, with the right exit code."""
    got, _, err = found
    assert got == code and said in err, (got, err)
    assert "Traceback" not in err and "bug" not in err and len(err) < 900, err


def test_a_model_without_a_tokenizer_takes_ids(tiny_llama, project, cli):
    model = project / "model"
    shutil.copytree(tiny_llama, model)
    _without_tokenizer(model)
    words = ("--model", model, "--tokenizer", "ids", "-p", "prompt=1 5 7")
    code, _, err = cli("run", "logit_lens", *words, "-q")
    assert code == 0, err

"""my_recipe against an independent computation with plain hooks, on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import pytest
import remote_mi as mi
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "my_recipe.py"
CLEAN = "When Mary and John went to the store , John gave a drink to"


@pytest.fixture
def tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a tiny random model with one token a word; the cache is the test's own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    monkeypatch.setenv("REMOTE_MI_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    words = [""] + [space + word for word in CLEAN.split() for space in ("", "Ġ")]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=""))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.4,
    )
    AutoModelForCausalLM.from_config(config).eval().save_pretrained(folder)
    return folder


def test_every_cell_equals_the_reading_of_that_layers_stream(tiny_model: Path):
    """Every output of the recipe, from the streams that plain hooks see."""
    result = mi.run(
        str(RECIPE),
        model=str(tiny_model),
        project=tiny_model.parent,
        backend="local",
        prompt=CLEAN,
        parameters={"seed": 3},
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model)
    streams = []
    for block in model.model.layers:
        block.register_forward_hook(lambda _module, _inputs, output: streams.append(output[0]))
    with torch.no_grad():
        final = model(tokenizer(CLEAN, return_tensors="pt").input_ids).logits[0].softmax(-1)

    def overlap(stream: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            read = model.lm_head(model.model.norm(stream)).softmax(-1)
        return torch.minimum(read, final).sum(-1)

    generator = torch.Generator().manual_seed(3)
    for layer, stream in enumerate(streams):
        torch.testing.assert_close(
            torch.tensor(result["overlap"].values[layer]),
            overlap(stream),
            atol=1e-4,
            rtol=0,
            check_dtype=False,
        )
        noise = torch.randn(stream.shape, generator=generator)
        noise = noise / noise.norm(dim=-1, keepdim=True) * stream.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(
            torch.tensor(result["control"].values[layer]),
            overlap(noise),
            atol=1e-4,
            rtol=0,
            check_dtype=False,
        )
    assert result["overlap"].values[0].max() < 0.99, "the first layer must differ from the last"
    assert result["overlap"].values[-1] == pytest.approx(1, abs=1e-4)


def test_it_is_a_function_of_its_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run twice, alone, in another order, on tiny models of every family."""
    monkeypatch.setenv("REMOTE_MI_CACHE", str(tmp_path / "cache"))
    found = mi.check_recipe(str(RECIPE), project=ROOT)
    assert found.passed, found

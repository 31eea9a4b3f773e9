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
CORRUPT = "When Mary and John went to the store , Mary gave a drink to"


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


def score(model, ids: torch.Tensor, layer: int | None = None, added=None):
    """Logit difference after the prompt, and what each MLP adds there; MLP `layer` adds `added`."""
    seen = {}

    def hook(index: int):
        def after(_module, _inputs, output):
            if index == layer:
                output = output.clone()
                output[0, -1] = added
            seen[index] = output[0, -1].clone()
            return output

        return after

    handles = [
        block.mlp.register_forward_hook(hook(index))
        for index, block in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits, seen


def test_each_layer_equals_a_forward_pass_with_its_output_replaced(tiny_model: Path):
    """Every output of the recipe, computed one cell at a time."""
    result = mi.run(
        str(RECIPE),
        model=str(tiny_model),
        project=tiny_model.parent,
        backend="local",
        clean=CLEAN,
        corrupt=CORRUPT,
        answer=" Mary",
        wrong=" John",
        parameters={"draws": 2, "seed": 3},
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model)
    clean, corrupt = (tokenizer(text, return_tensors="pt").input_ids for text in (CLEAN, CORRUPT))
    mary, john = (tokenizer(word).input_ids[0] for word in (" Mary", " John"))

    def difference(logits: torch.Tensor) -> float:
        return float(logits[mary] - logits[john])

    clean_logits, clean_added = score(model, clean)
    corrupt_logits, corrupt_added = score(model, corrupt)
    before = difference(clean_logits)
    assert float(result["gap"].values) == pytest.approx(
        before - difference(corrupt_logits), abs=1e-4
    )
    generator = torch.Generator().manual_seed(3)
    for layer in range(3):
        changed = difference(score(model, clean, layer, corrupt_added[layer])[0])
        assert result["effect"].values[layer] == pytest.approx(changed - before, abs=1e-4)
        length = (corrupt_added[layer] - clean_added[layer]).norm()
        noise = torch.randn(2, 32, generator=generator)
        for draw in range(2):
            added = clean_added[layer] + noise[draw] / noise[draw].norm() * length
            changed = difference(score(model, clean, layer, added)[0])
            control = result.each("control")[0].values[draw, layer]
            assert control == pytest.approx(changed - before, abs=1e-4)
    assert abs(result["effect"].values).max() > 1e-3, "there must be something to find"


def test_it_is_a_function_of_its_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run twice, alone, in another order, on tiny models of every family."""
    monkeypatch.setenv("REMOTE_MI_CACHE", str(tmp_path / "cache"))
    found = mi.check_recipe(str(RECIPE), project=ROOT)
    assert found.passed, found

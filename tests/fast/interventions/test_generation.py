"""Generated text and shared prefixes where a text's length or end changes what a model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nnsight
import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.common.progress import Silent
from remote_mi.interventions import generate
from remote_mi.interventions.model_info import context_length, reuses_prefix, steady_length
from remote_mi.models import prefix
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec

from ...conftest import MARY
from ...tokenizers import save_model, wrapped

SWITCH = 16
PROMPT = list(range(20, 32))


def phi3(size: int) -> Any:
    """Two sets of angles: short ones up to `SWITCH` tokens, others for longer texts."""
    from transformers import Phi3Config

    ropes = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 3.0, 7.0, 20.0],
        "original_max_position_embeddings": SWITCH,
    }
    return Phi3Config(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        original_max_position_embeddings=SWITCH,
        rope_parameters=ropes,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        sliding_window=None,
    )


def dynamic(size: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=SWITCH,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


@pytest.fixture(scope="module")
def long_rope(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("longrope")
    return folder, save_model(folder, wrapped("byte-level BPE"), phi3)


def loaded(folder: Path) -> Any:
    return load(ModelSpec(str(folder)), Silent()).lm


def continued(lm: Any, rows: list[list[int]], steps: int, first: int = 0) -> list[list[int]]:
    with torch.no_grad(), lm.session():
        found = nnsight.save(generate(lm, rows, steps, {}, first))
    return found.tolist()


def greedy(model: Any, row: list[int], steps: int) -> list[int]:
    """One whole forward pass a token, nothing kept between them."""
    row = list(row)
    with torch.no_grad():
        for _ in range(steps):
            logits = model(torch.tensor([row]), use_cache=False).logits[0, -1]
            row.append(int(logits.argmax()))
    return row[-steps:]


def test_text_that_crosses_the_switch_of_a_long_rope_is_that_of_whole_passes(long_rope):
    folder, model = long_rope
    lm = loaded(folder)
    assert steady_length(lm) == SWITCH and reuses_prefix(lm) and context_length(lm) == 64
    rows = [PROMPT, [*PROMPT[:-1], 50]]
    for first in (0, len(PROMPT) - 1):
        assert continued(lm, rows, 10, first) == [greedy(model, row, 10) for row in rows]
    long = [[*PROMPT, *PROMPT]]
    assert continued(lm, long, 3) == [greedy(model, long[0], 3)], "beyond it from the start"


def long_pair(tokenizer: Any) -> dict[str, str]:
    """A pair beyond the switch that differs before it."""
    filler = "the store, John gave a drink to "
    pair = {"clean": f"When Mary went to {filler}", "corrupt": f"When John went to {filler}"}
    pair = {name: text.strip() for name, text in pair.items()}
    count = len(tokenizer(pair["clean"]).input_ids)
    assert count > 9, count
    while len(tokenizer(pair["clean"]).input_ids) <= SWITCH + 2:
        pair = {name: f"{text} {filler}".strip() for name, text in pair.items()}
    return {**pair, "answer": " Mary", "wrong": " John"}


def test_steering_by_an_early_prefix_equals_hooks_on_both_sides_of_the_switch(project, long_rope):
    """Activation addition begins at the first difference; what lies before it is shared."""
    folder, model = long_rope
    tokenizer = wrapped("byte-level BPE")
    for pair in (long_pair(tokenizer), {**MARY}):
        found = mi.run(
            "steering",
            model=folder,
            pairs=[pair],
            folds=1,
            steps=2,
            method="activation_addition",
            coefficients=[1.0],
        )
        clean, corrupt = (
            torch.tensor([tokenizer(pair[k]).input_ids]) for k in ("clean", "corrupt")
        )
        right, wrong = (tokenizer(pair[k]).input_ids[0] for k in ("answer", "wrong"))
        with torch.no_grad():
            streams = [
                model(x, output_hidden_states=True, use_cache=False).hidden_states
                for x in (clean, corrupt)
            ]
            first = int((clean != corrupt)[0].nonzero()[0])
            expected = []
            for layer in range(3):
                added = streams[0][layer] - streams[1][layer]
                added[:, :first] = 0

                def add(module: Any, inputs: Any, kwargs: Any, added: Any = added) -> Any:
                    if inputs:
                        return (inputs[0] + added, *inputs[1:]), kwargs
                    return inputs, {**kwargs, "hidden_states": kwargs["hidden_states"] + added}

                hook = model.model.layers[layer].register_forward_pre_hook(add, with_kwargs=True)
                steered = model(corrupt, use_cache=False).logits[0, -1]
                hook.remove()
                plain = model(corrupt, use_cache=False).logits[0, -1]
                expected.append(
                    float(steered[right] - steered[wrong] - plain[right] + plain[wrong])
                )
        effect = found.each("effect")[0].values  # [layer, coefficient]
        np.testing.assert_allclose(effect[:, 0], expected, atol=1e-4)


def test_where_angles_grow_with_the_longest_text_so_far_no_text_is_longer(project, tmp_path):
    """A dynamic rope gives a long text other numbers after a longer one."""
    model = save_model(tmp_path, wrapped("byte-level BPE"), dynamic)
    lm = loaded(tmp_path)
    assert context_length(lm) == SWITCH
    assert continued(lm, [PROMPT], 10) == [[*greedy(model, PROMPT, 4), *[-1] * 6]]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_text_ends_with_the_models_context(project, tiny, family):
    """64 tokens: GPT-2 has no position beyond it, and Llama no idea of one."""
    lm = loaded(tiny(family))
    row = [20 + i % 30 for i in range(60)]
    (found,) = continued(lm, [row], 12)
    assert len(found) == 12 and (np.array(found[4:]) == -1).all() and found[0] >= 0
    with pytest.raises(ValueError, match="the prompt has 64 tokens and the model takes 64"):
        continued(lm, [row + [20] * 4], 2)


def test_a_text_ends_at_every_token_that_generation_config_names(project, tmp_path):
    tokenizer = wrapped("byte-level BPE")
    model = save_model(tmp_path, tokenizer)
    expected = greedy(model, PROMPT, 8)
    assert 2 not in expected and len(set(expected)) > 1
    third = expected[2]
    assert third not in expected[:2]
    named = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(
        json.dumps({**named, "eos_token_id": [2, third]})
    )
    assert continued(loaded(tmp_path), [PROMPT], 8) == [[*expected[:3], *[-1] * 5]]


def test_logits_that_are_no_numbers_end_a_text(project, tiny):
    lm = loaded(tiny("llama"))

    def nan(stream: torch.Tensor, places: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return stream * torch.nan

    with torch.no_grad(), lm.session():
        found = nnsight.save(generate(lm, [PROMPT], 3, {1: nan}))
    assert found.tolist() == [[-1, -1, -1]]


def test_a_prefix_that_depends_on_what_follows_is_found_by_trial(project, tiny, monkeypatch):
    """Whatever the configuration says: then rows run in full, with the same numbers."""
    asked = {"model": tiny("llama"), "pairs": [MARY]}
    expected = mi.run("activation_patching", **asked)
    lm = loaded(tiny("llama"))
    assert lm.prefix_proved is True and reuses_prefix(lm)

    def stretched(module: Any, inputs: Any, kwargs: Any) -> Any:
        """Angles that are others in a text of fifty tokens, which no configuration says."""
        kwargs = dict(kwargs)
        ids = kwargs.pop("position_ids", None)
        ids = inputs[1] if ids is None else ids
        return (inputs[0], ids * (1 + ids.max() // 50)), kwargs

    hook = lm._module.model.rotary_emb.register_forward_pre_hook(stretched, with_kwargs=True)
    prefix.prove_prefix(lm)
    hook.remove()
    assert lm.prefix_proved is False and not reuses_prefix(lm) and steady_length(lm) == 0
    monkeypatch.setenv("REMOTE_MI_CACHE", str(project / "another"))
    found = mi.run("activation_patching", project=project / "elsewhere", **asked)
    assert "in full" in found.provenance["record"]["sweeps"]
    np.testing.assert_allclose(found["recovery"].values, expected["recovery"].values, atol=1e-4)
    del lm.prefix_proved


def test_models_with_windows_share_no_prefix_and_are_not_tried(project, tiny):
    lm = loaded(tiny("mistral"))
    assert not reuses_prefix(lm) and not hasattr(lm, "prefix_proved")
    assert loaded(tiny("gpt2")).prefix_proved is True

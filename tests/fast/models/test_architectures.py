"""Portable names and sites on every architecture, against plain hooks; encoders and their masks."""

from __future__ import annotations

import nnsight
import pytest
import torch

from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Silent
from remote_mi.interventions import Prompt, edit, read, run, unembed
from remote_mi.interventions.metrics import answer_metric
from remote_mi.interventions.model_info import (
    has_unembedding,
    head_count,
    is_causal,
    reuses_prefix,
)
from remote_mi.interventions.ports import edit_stream, read_stream
from remote_mi.interventions.readout import skip_unembedding
from remote_mi.models.load import build_weightless, load
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.errors import PromptErrors
from remote_mi.prompts.examples import Example, PromptSet
from remote_mi.prompts.tokens import tokenize

from ...conftest import ENCODERS, FAMILIES, MARY, OTHERS, PARALLEL
from ..reference import Reference

ALL = (*FAMILIES, *ENCODERS, *OTHERS)
POST_NORM = ("bert", "bert-headless", "opt-post-norm")
SITES = ("resid_pre", "head_z", "attn_out", "mlp_out")
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module", params=ALL)
def both(request, tiny):
    folder = tiny(request.param)
    reference = Reference(folder, request.param)
    model = load(ModelSpec(str(folder), attention="eager"), Silent())
    return request.param, reference, model.lm, reference.ids(MARY["clean"])


def streams(lm, ids):
    """The stream before each layer and after the last, [position, d_model] each."""
    prompt = Prompt(ids, {}, None)
    before = run(lm, prompt, "resid_pre").values
    return [x[0] for x in (*before, run(lm, prompt, "resid_post").values[-1])]


def test_every_site_is_what_plain_hooks_see(both):
    _, reference, lm, ids = both
    with torch.no_grad(), lm.trace(input_ids=ids, use_cache=False):
        found = nnsight.save([[read(lm, layer, s) for s in SITES] for layer in range(3)])
    for number, site in enumerate(SITES):
        expected = reference.capture(ids, site)
        for layer in range(3):
            assert found[layer][number].dim() == 3
            torch.testing.assert_close(found[layer][number], expected[layer], **CLOSE)


def test_resid_mid_is_the_stream_between_attention_and_mlp_or_refused(both):
    family, reference, lm, ids = both
    if family in PARALLEL or family in POST_NORM:
        why = "in parallel" if family in PARALLEL else "after each addition"
        for use in (read, lambda lm, layer, site: edit(lm, layer, site, lambda x: x)):
            with pytest.raises(ValueError, match=f"resid_mid does not exist here: .*{why}"):
                with torch.no_grad(), lm.trace(input_ids=ids, use_cache=False):
                    use(lm, 0, "resid_mid")
        return
    with torch.no_grad(), lm.trace(input_ids=ids, use_cache=False):
        found = nnsight.save([read(lm, layer, "resid_mid") for layer in range(3)])
    for got, expected in zip(found, reference.middle_stream(ids), strict=True):
        torch.testing.assert_close(got, expected.reshape(got.shape), **CLOSE)


def test_sites_of_one_layer_are_read_together_in_forward_order(both):
    """Where a site's shape has to be found elsewhere, the order still holds."""
    family, _, lm, ids = both
    sites = [*SITES[:3], "resid_mid", "mlp_out"]
    if family in PARALLEL or family in POST_NORM:
        sites.remove("resid_mid")
    with torch.no_grad(), lm.trace(input_ids=ids, use_cache=False):
        found = nnsight.save([[read(lm, layer, s).shape for s in sites] for layer in range(3)])
    assert all(tuple(shape[:2]) == tuple(ids.shape) for row in found for shape in row)


@pytest.mark.parametrize("site", SITES)
def test_an_edit_does_what_a_plain_hook_does(both, site):
    _, reference, lm, ids = both

    def change(value):
        value = value.clone()
        value[:, 3] = value[:, 2] * 0.5
        return value

    with torch.no_grad(), lm.trace(input_ids=ids, use_cache=False):
        edit(lm, 1, site, change)
        got = nnsight.save(read_stream(lm, 3))
        skip_unembedding(lm)
    expected = reference.stream_with(ids, site, 1, change)[-1]
    torch.testing.assert_close(got, expected, **CLOSE)
    assert (got - reference.stream(ids)[-1]).abs().max() > 0.01


def test_the_stream_is_that_of_the_model(both):
    _, reference, lm, ids = both
    with torch.no_grad(), lm.session():
        found = nnsight.save(streams(lm, ids[0].tolist()))
    for got, expected in zip(found, reference.stream(ids), strict=True):
        torch.testing.assert_close(got, expected[0], **CLOSE)


def test_the_stream_before_the_first_layer_is_the_token_embedding_or_more(both):
    family, _, lm, ids = both
    with torch.no_grad(), lm.trace(input_ids=ids, use_cache=False):
        found = nnsight.save((lm.embed_tokens.output, read_stream(lm, 0)))
        skip_unembedding(lm)
    adds = family in ("gpt2", "opt", "opt-post-norm", "bert", "bert-headless")
    assert found[0].shape != found[1].shape or torch.equal(*found) != adds


def test_rows_may_join_on_the_way(both):
    """What exact sweeps rest on: the number of rows changes between two layers."""
    _, reference, lm, ids = both
    with torch.no_grad(), lm.trace(input_ids=ids, use_cache=False):
        edit_stream(lm, 1, lambda rows: torch.cat([rows, rows * 0.5]))
        edit(lm, 1, "mlp_out", lambda rows: rows.clone())
        got = nnsight.save(read_stream(lm, 3))
        skip_unembedding(lm)
    expected = reference.stream(ids)[-1]
    torch.testing.assert_close(got[:1], expected, **CLOSE)
    halved = reference.stream_with(ids, "resid_pre", 1, lambda value: value * 0.5)[-1]
    torch.testing.assert_close(got[1:], halved, **CLOSE)


def test_attention_weights_are_rows_heads_queries_keys(both):
    family, reference, lm, ids = both
    length = ids.shape[1]
    with torch.no_grad(), lm.trace(input_ids=ids, use_cache=False):
        weights = nnsight.save([layer.self_attn.output[1] for layer in lm.layers])
    for layer, got in enumerate(weights):
        assert tuple(got.shape) == (1, 4, length, length)
        torch.testing.assert_close(got.sum(-1), torch.ones(1, 4, length), **CLOSE)
        torch.testing.assert_close(got, reference.attention_weights(ids)[layer], **CLOSE)
        ahead = got.triu(1).abs().max()
        assert (ahead > 1e-3) if family.startswith("bert") else (ahead == 0)


def test_causal_models_and_encoders_are_told_apart(both):
    family, reference, lm, ids = both
    assert is_causal(lm) == (not family.startswith("bert"))
    assert head_count(lm) == 4
    other = ids.clone()
    other[0, -1] = ids[0, 3]
    same = torch.equal(reference.stream(ids)[-1][:, 0], reference.stream(other)[-1][:, 0])
    assert same == is_causal(lm)
    sliding = family in ("gemma2", "gemma3", "mistral")
    assert reuses_prefix(lm) == (is_causal(lm) and not sliding)


@pytest.mark.parametrize("metric", ["logit_diff", "logit", "prob", "log_prob"])
def test_metrics_are_those_of_the_models_own_logits(both, metric):
    family, reference, lm, ids = both
    if family == "bert-headless":
        with pytest.raises(ValueError, match="no unembedding"):
            answer_metric(lm, torch.zeros(1, 32), metric, [5], [9])
        return
    position = ids.shape[1] - 2
    with torch.no_grad():
        with lm.session():
            with lm.trace(input_ids=ids, use_cache=False):
                hidden = lm.ln_final.output[:, position]
                skip_unembedding(lm)
            got = nnsight.save(answer_metric(lm, hidden, metric, [5], [9]))
        logits = reference.model(ids).logits[0, position]
    log_p = logits.log_softmax(-1)
    expected = {
        "logit_diff": logits[5] - logits[9],
        "logit": logits[5],
        "prob": log_p[5].exp(),
        "log_prob": log_p[5],
    }[metric]
    assert float(got[0]) == pytest.approx(float(expected), abs=1e-4)


def test_the_last_stream_unembedded_is_the_models_own_output(both):
    family, reference, lm, ids = both
    if family == "bert-headless":
        with pytest.raises(ValueError, match="no unembedding"):
            unembed(lm, torch.zeros(1, 32))
        return
    with torch.no_grad(), lm.session():
        got = nnsight.save(unembed(lm, streams(lm, ids[0].tolist())[-1]))
    with torch.no_grad():
        expected = reference.model(ids).logits[0].log_softmax(-1)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_the_backbone_runs_what_the_final_norm_needs(both):
    family, reference, lm, ids = both
    runs = []
    counter = lm.backbone._module.register_forward_pre_hook(lambda *_: runs.append(1))
    with torch.no_grad(), lm.trace(input_ids=ids, use_cache=False):
        skip_unembedding(lm)
    assert len(runs) == 1, "it runs once in a pass over the whole model"
    with torch.no_grad(), lm.backbone.trace(input_ids=ids, use_cache=False):
        hidden = nnsight.save(lm.ln_final.output)
    counter.remove()
    assert len(runs) == 2
    assert tuple(hidden.shape[:2]) == tuple(ids.shape)
    if family == "bert-headless":
        torch.testing.assert_close(hidden, reference.stream(ids)[-1], **CLOSE)


def test_a_weightless_model_has_the_same_names(both, tiny):
    family, _, lm, _ = both
    spec = ModelSpec(str(tiny(family)))
    described = build_weightless(spec, Silent(), repo_id=f"tiny/{family}").lm
    assert described.task == lm.task
    assert described.ln_final.path == lm.ln_final.path
    for name in ("attn_add", "mlp_add", "self_attn"):
        assert getattr(described.layers[2], name).path == getattr(lm.layers[2], name).path
    assert is_causal(described) == is_causal(lm)
    assert has_unembedding(described) == has_unembedding(lm)
    assert next(described._module.parameters()).is_meta


# -- a model without an unembedding -------------------------------------------------------------


def test_without_an_unembedding_logits_are_refused_and_the_stream_works(tiny):
    lm = load(ModelSpec(str(tiny("bert-headless"))), Silent()).lm
    assert not has_unembedding(lm)
    with torch.no_grad(), lm.session():
        stream = nnsight.save(streams(lm, [3, 4, 5]))
    assert len(stream) == 4
    for ask in (
        lambda: unembed(lm, stream[-1]),
        lambda: answer_metric(lm, stream[-1], "logit", [1], [2]),
    ):
        with pytest.raises(ValueError, match="this model has no unembedding"):
            ask()


def test_a_head_that_the_checkpoint_does_not_have_is_not_made_up(tiny, tmp_path):
    """transformers would give a body a language-model head of random numbers."""
    from transformers import AutoModel, BertForSequenceClassification

    body = tmp_path / "body"
    AutoModel.from_pretrained(tiny("llama")).save_pretrained(body)
    with pytest.raises(UsageError, match="LlamaModel, which has no unembedding"):
        load(ModelSpec(str(body)), Silent())
    classifier = tmp_path / "classifier"
    tokenizer_files = [p for p in tiny("bert").iterdir() if p.name.startswith("tokenizer")]
    BertForSequenceClassification.from_pretrained(tiny("bert")).save_pretrained(classifier)
    for file in tokenizer_files:
        (classifier / file.name).write_bytes(file.read_bytes())
    assert not has_unembedding(load(ModelSpec(str(classifier)), Silent()).lm)


# -- prompts with a mask --------------------------------------------------------------------------


@pytest.fixture
def bert(tiny):
    return load(ModelSpec(str(tiny("bert"))), Silent())


def made(bert, over="pair", **changes):
    example = Example(**{**MARY, **changes})
    prompts = PromptSet((example,), "test")
    return tokenize(bert.tokenizer, prompts, ModelSpec(), over, 64, masked=bert.masked)


def test_a_prompt_without_a_mask_gets_one_at_its_end(bert):
    found = made(bert)
    pair = found.prompts[0]
    tokens = found.tokens[0]
    assert tokens[0] == "[CLS]" and tokens[-2:] == ["[MASK]", "[SEP]"]
    assert pair.end == len(tokens) - 2 == pair.clean.positions["end"] == pair.corrupt.end
    assert bert.tokenizer.decode([pair.answer]) == " Mary"
    assert bert.tokenizer.decode([pair.wrong]) == " John"
    assert pair.first_difference == 10, "[CLS] stands before what a causal model reads"
    assert found.record["masked"] is True


def test_a_mask_in_the_text_is_where_the_answer_is_read(bert):
    clean = "When Mary and John went to the store, [MASK] gave a drink to John"
    corrupt = "When Mary and John went to the store, [MASK] gave a drink to Mary"
    found = made(bert, clean=clean, corrupt=corrupt)
    assert found.tokens[0].index("[MASK]") == found.prompts[0].end == 10
    assert bert.tokenizer.decode([found.prompts[0].answer]) == " Mary"
    first = made(
        bert,
        clean="[MASK] gave a drink to John",
        corrupt="[MASK] gave a drink to Mary",
        answer="When",
        wrong="Anna",
    )
    assert first.prompts[0].end == 1
    assert bert.tokenizer.decode([first.prompts[0].answer]) == "When"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"clean": "[MASK] and [MASK] went"}, "has 2 mask tokens"),
        ({"answer": " Mary John"}, r"2 tokens, \[' Mary', ' John'\]"),
        (
            {
                "clean": "[MASK] gave a drink to John",
                "corrupt": "a drink to John [MASK] gave",
                "wrong": " Mary",
                "answer": " John",
            },
            "the mask is at position 1 of the clean and 5 of the corrupt prompt",
        ),
    ],
)
def test_what_does_not_fit_the_mask_is_named(bert, changes, said):
    with pytest.raises(PromptErrors, match=said):
        made(bert, **changes)


def test_the_answer_is_the_token_that_belongs_at_the_mask(bert, tiny):
    """The metric at the mask is the model's own logit of the token that stands there otherwise."""
    prompt = made(bert, "prompt").prompts[0]
    reference = Reference(tiny("bert"), "bert")
    filled = bert.tokenizer(MARY["clean"] + MARY["answer"])["input_ids"]
    assert prompt.ids[prompt.end] == bert.tokenizer.mask_token_id
    assert [*prompt.ids[: prompt.end], prompt.target, *prompt.ids[prompt.end + 1 :]] == filled
    with torch.no_grad(), bert.lm.trace(input_ids=torch.tensor([prompt.ids])):
        hidden = nnsight.save(bert.lm.ln_final.output[:, prompt.end])
    got = answer_metric(bert.lm, hidden, "logit", [prompt.target], [])
    with torch.no_grad():
        expected = reference.model(torch.tensor([prompt.ids])).logits[0, prompt.end, prompt.target]
    assert float(got[0]) == pytest.approx(float(expected), abs=1e-4)


def test_built_in_phenomena_fit_an_encoder(bert, tmp_path):
    from remote_mi.prompts import phenomena

    prompts = phenomena.find("ioi", tmp_path).prompts(8)
    found = tokenize(bert.tokenizer, prompts, ModelSpec(), "pair", 64, masked=True)
    for pair in found.prompts:
        assert pair.clean.ids[pair.end] == bert.tokenizer.mask_token_id


# -- spans -----------------------------------------------------------------------------------------


def test_a_label_has_the_first_and_last_position_of_its_span(tiny, bert):
    from transformers import AutoTokenizer

    start = MARY["clean"].index("Mary and John")
    labels = {"both": (start, start + len("Mary and John")), "one": (start, start + 4)}
    example = PromptSet((Example(**{**MARY, "labels": labels}),), "test")
    tokenizer = AutoTokenizer.from_pretrained(tiny("llama"))
    for given, masked, shift, end in ((tokenizer, False, 0, 13), (bert.tokenizer, True, 1, 15)):
        found = tokenize(given, example, ModelSpec(), "pair", 64, masked=masked)
        for prompt in (found.prompts[0].clean, found.prompts[0].corrupt):
            assert prompt.spans["both"] == (1 + shift, 3 + shift)
            assert prompt.spans["one"] == (1 + shift, 1 + shift)
            assert prompt.spans["end"] == (end, end)
            assert prompt.positions == {"both": 3 + shift, "one": 1 + shift, "end": end}


def test_a_prompt_without_spans_has_those_of_its_positions():
    assert Prompt([1, 2, 3], {"s": 1, "end": 2}, None).spans == {"s": (1, 1), "end": (2, 2)}

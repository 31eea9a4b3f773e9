"""Encoders whose unembedding reads more than a norm, and encoder–decoders, against plain hooks."""

from __future__ import annotations

from typing import Any

import nnsight
import pytest
import torch
from transformers.activations import ACT2FN

from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Silent
from remote_mi.interventions import Prompt, run
from remote_mi.interventions.model_info import has_unembedding, is_causal
from remote_mi.models.load import load
from remote_mi.models.proof import prove
from remote_mi.models.spec import ModelSpec
from remote_mi.models.structure.known import structure_of
from remote_mi.models.tasks import answer_prefix, task_of

from ...families.encoder_checks import CHECKS, OF_TEXT, OF_TWO_SIDES
from ...families.encoder_decoders import QUICK as PAIRED_QUICK
from ...families.encoders import FAMILIES, QUICK, SIZES
from ...families.multimodal import QUICK as PICTURED_QUICK


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", QUICK)
def test_encoder(name, check, encoder):
    check(*encoder(name))


@pytest.mark.parametrize("check", OF_TWO_SIDES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", PAIRED_QUICK)
def test_encoder_decoder(name, check, encoder):
    check(*encoder(name))


@pytest.mark.parametrize("check", OF_TEXT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", PICTURED_QUICK)
def test_text_of_a_model_of_pictures(name, check, encoder):
    check(*encoder(name))


# -- what is refused --------------------------------------------------------------------------------


def test_a_wrong_function_between_the_final_steps_is_refused(encoder):
    lm = encoder("roberta")[0].lm
    assert lm.ln_final.functions == ["", "gelu"]
    try:
        for wrong in ("relu", "silu", ""):
            lm.ln_final.functions[1] = wrong
            with pytest.raises(UsageError, match="gives another output when called by itself"):
                prove(lm)
    finally:
        lm.ln_final.functions[1] = "gelu"
    prove(lm)


@pytest.mark.parametrize("function", ["gelu", "gelu_new", "silu", "relu", "tanh"])
def test_the_function_between_the_final_steps_is_found_by_its_numbers(function):
    from transformers import AutoModelForMaskedLM, RobertaConfig

    from remote_mi.models.structure.portable import describe
    from remote_mi.models.structure.twin import make_twin

    config = RobertaConfig(vocab_size=40, **SIZES)
    twin: Any = make_twin(AutoModelForMaskedLM, config)
    head, apply = twin.lm_head, ACT2FN[function]
    head.forward = lambda x: head.decoder(head.layer_norm(apply(head.dense(x))))
    (_, first), (found, second) = describe(twin)["final_steps"]
    assert (first, second) == ("lm_head.dense", "lm_head.layer_norm")
    x = torch.linspace(-3, 3, 50)
    torch.testing.assert_close(ACT2FN[found](x), apply(x), atol=1e-6, rtol=1e-5)


def test_layers_that_run_more_than_once_are_refused():
    from transformers import AlbertConfig, AutoModelForMaskedLM

    config = AlbertConfig(vocab_size=40, embedding_size=16, **SIZES)
    with pytest.raises(UsageError, match="cannot be used: its layers run more than once"):
        structure_of(AutoModelForMaskedLM, config)


def test_a_decoder_on_other_tokens_than_its_own_is_refused(encoder):
    """BART makes up tokens for its decoder if it is given none, which is no way to read answers."""
    lm = encoder("bart")[0].lm
    with pytest.raises(ValueError, match="the decoder runs on 5 tokens and not on the 2"):
        with torch.no_grad(), lm.trace(input_ids=torch.tensor([[3, 4, 5, 6, 7]]), use_cache=False):
            nnsight.save(lm.ln_final.output)


def test_an_encoder_decoder_without_a_token_to_begin_with_or_a_head_is_refused(tmp_path):
    from transformers import BartConfig, MBartConfig

    with pytest.raises(UsageError, match="names no token to begin an answer with"):
        answer_prefix(MBartConfig(decoder_start_token_id=None), str(tmp_path), ModelSpec())
    started = BartConfig(decoder_start_token_id=0)
    assert answer_prefix(started, str(tmp_path), ModelSpec()) == [0]
    with pytest.raises(UsageError, match="cannot be named by hand"):
        answer_prefix(started, str(tmp_path), ModelSpec(names={"model.encoder.layers": "layers"}))
    config = BartConfig(architectures=["BartModel"])
    with pytest.raises(UsageError, match="this checkpoint is a BartModel, not the encoder–decoder"):
        task_of(config)


@pytest.mark.parametrize("name", ["roberta", "modernbert", "distilbert"])
def test_an_encoder_without_a_head_gives_its_representations(name, tmp_path):
    from transformers import AutoModel

    whole, folder = tmp_path / "whole", tmp_path / "body"
    FAMILIES[name].save(whole)
    body = AutoModel.from_pretrained(whole).eval()
    body.save_pretrained(folder)
    for file in whole.iterdir():
        if file.name.startswith("tokenizer"):
            (folder / file.name).write_bytes(file.read_bytes())
    lm = load(ModelSpec(str(folder)), Silent()).lm
    assert not has_unembedding(lm) and not is_causal(lm)
    prompt = Prompt([5, 6, 7, 8, 9], {}, None)
    with torch.no_grad():
        expected = body(input_ids=torch.tensor([prompt.ids])).last_hidden_state
        with lm.session():
            found = nnsight.save(
                [run(lm, prompt, site).hidden for site in ("resid_post", "mlp_out")]
            )
    for hidden in found:
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-4)

"""What must hold for every class of encoder: each a function of its name, its folder and itself."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import nnsight
import pytest
import torch

from remote_mi.common.errors import UsageError
from remote_mi.interventions import (
    Prompt,
    edit,
    gradients,
    measure,
    model_inputs,
    read,
    run,
    sweep,
    unembed,
)
from remote_mi.interventions.model_info import fact, is_causal
from remote_mi.interventions.ports import read_stream
from remote_mi.interventions.readout import logits
from remote_mi.models.abilities import check_needs_by_config, check_needs_by_model
from remote_mi.models.load import LoadedModel
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.examples import Example, PromptSet
from remote_mi.prompts.tokens import Tokenized, tokenize

from .encoders import CLEAN, CORRUPT, SENTENCE, Plain

CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-4}


def ids_of(model: LoadedModel) -> torch.Tensor:
    return torch.tensor([model.tokenizer(SENTENCE)["input_ids"]])


def its_stream_is_the_models(model: LoadedModel, plain: Plain) -> None:
    ids = ids_of(model)
    assert is_causal(model.lm) == plain.family.causal != model.bidirectional
    with torch.no_grad(), model.lm.session():
        prompt = Prompt(ids[0].tolist(), {}, None)
        before = run(model.lm, prompt, "resid_pre").values
        found = nnsight.save([*before, run(model.lm, prompt, "resid_post").values[-1]])
    for got, expected in zip(found, plain.stream(ids), strict=True):
        torch.testing.assert_close(got, expected, **CLOSE)


def its_sites_are_what_plain_hooks_see(model: LoadedModel, plain: Plain) -> None:
    ids, sites = ids_of(model), ["resid_pre", "resid_post", *plain.family.modules]
    for site in sites:
        with torch.no_grad(), model.lm.trace(**model_inputs(model.lm, ids), use_cache=False):
            found = nnsight.save([read(model.lm, layer, site) for layer in range(3)])
        for layer, got in enumerate(found):
            torch.testing.assert_close(got, plain.site(ids, site, layer), **CLOSE)


def its_edits_are_those_of_plain_hooks(model: LoadedModel, plain: Plain) -> None:
    ids = ids_of(model)

    def change(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[:, 3] = value[:, 2] * 0.5 - 0.25
        return value

    own = plain.logits(ids)
    for site in ("resid_pre", "resid_post", *plain.family.modules):
        with torch.no_grad(), model.lm.trace(**model_inputs(model.lm, ids), use_cache=False):
            edit(model.lm, 1, site, change)
            hidden = nnsight.save(model.lm.ln_final.output)
        expected = plain.logits_with(ids, site, 1, change)
        torch.testing.assert_close(logits(model.lm, hidden[0]), expected[0], **CLOSE)
        assert (expected - own).abs().max() > 1e-3, f"{site}: the edit changes nothing"


def what_reads_the_stream_gives_the_models_logits(model: LoadedModel, plain: Plain) -> None:
    ids = ids_of(model)
    streams, read_out = [x[0] for x in plain.stream(ids)], plain.family.read_out
    assert read_out is not None
    for stream in streams:  # the lens, at every depth
        with torch.no_grad():
            expected = read_out(plain.model, stream).log_softmax(-1)
            torch.testing.assert_close(unembed(model.lm, stream), expected, **CLOSE)
    with torch.no_grad(), model.lm.trace(**model_inputs(model.lm, ids), use_cache=False):
        after = read_stream(model.lm, 3)
        taken, hidden = model.lm.ln_final.input, model.lm.ln_final.output
        called = model.lm.ln_final(after)
        found = nnsight.save((after, taken, hidden, called))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[3], **CLOSE)
    got = logits(model.lm, found[2][0])
    torch.testing.assert_close(got, plain.logits(ids)[0], **CLOSE)
    torch.testing.assert_close(logits(model.lm, found[2][0], [3, 5]), got[:, [3, 5]])


def its_attention_weights_are_the_models(model: LoadedModel, plain: Plain) -> None:
    heads = fact(model.lm.layers[0], "heads", 0)
    if "head_z" not in plain.family.modules:
        return
    ids = ids_of(model)
    assert heads == 4
    output = plain.run(ids, output_attentions=True)
    expected = output.encoder_attentions if plain.family.prefix else output.attentions
    with torch.no_grad(), model.lm.trace(**model_inputs(model.lm, ids), use_cache=False):
        found = nnsight.save([read(model.lm, layer, "attn_pattern") for layer in range(3)])
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


def its_answer_is_read_at_the_mask(model: LoadedModel, plain: Plain) -> None:
    example = Example(CLEAN, corrupt=CORRUPT, answer=" Mary", wrong=" Anna")
    pair = _tokenized(model, example).prompts[0]
    assert model.masked
    mask = model.tokenizer.mask_token_id
    assert pair.clean.ids[pair.end] == mask == pair.corrupt.ids[pair.end]
    filled = model.tokenizer(SENTENCE.replace("[MASK]", "Mary"))["input_ids"]
    assert filled[pair.end] == pair.answer


def patching_is_what_plain_hooks_do(model: LoadedModel, plain: Plain) -> None:
    example = Example(CLEAN, corrupt=CORRUPT, answer=" Mary", wrong=" Anna")
    pair = _tokenized(model, example).prompts[0]
    clean, corrupt = (torch.tensor([p.ids]) for p in (pair.clean, pair.corrupt))

    length = clean.shape[1]
    for site, layer in itertools.product(("resid_pre", "mlp_out"), range(3)):
        found = patched(model.lm, pair, site)
        # A row for each position: plain rows do not see each other.
        own = torch.eye(length, dtype=torch.bool)[:, :, None]
        put_in = functools.partial(torch.where, own, plain.site(clean, site, layer))
        changed = plain.logits_with(corrupt.expand(length, -1), site, layer, put_in)
        at_end = changed[:, pair.end].double()
        expected = (at_end[:, pair.answer] - at_end[:, pair.wrong]).float()
        torch.testing.assert_close(found[layer], expected, atol=2e-4, rtol=1e-4)
        assert found.std() > 1e-3


@functools.cache
def patched(lm: Any, pair: Any, site: str) -> torch.Tensor:
    """The logit difference with clean activations in the corrupt run, [layer, position]."""
    with torch.no_grad(), lm.session():
        put, of_answer = run(lm, pair.clean, site), measure(lm, "logit_diff", pair)
        found = sweep(lm, pair.corrupt, site, put, of_answer, by="position")
        scores = nnsight.save(found.scores)
    return scores


def _tokenized(model: LoadedModel, example: Example) -> Tokenized:
    return tokenize(
        model.tokenizer,
        PromptSet((example,), "test"),
        ModelSpec(),
        "pair",
        model.context,
        masked=model.masked,
        bidirectional=model.bidirectional,
        decoded=model.decoded,
    )


def its_decoder_gives_the_answer(model: LoadedModel, plain: Plain) -> None:
    ids = ids_of(model)
    assert model.decoded and not model.masked
    assert model.lm.answer_prefix == list(plain.family.prefix)
    example = Example(CLEAN, corrupt=CORRUPT, answer=" Mary", wrong=" Anna")
    pair = _tokenized(model, example).prompts[0]
    assert pair.answer == model.tokenizer("Mary", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad(), model.lm.session():
        hidden = nnsight.save(run(model.lm, pair.clean).hidden)
    got = logits(model.lm, hidden[0])
    torch.testing.assert_close(got, plain.logits(ids)[0], **CLOSE)
    generated = plain.model.generate(ids, max_new_tokens=1 + len(plain.family.prefix), min_length=0)
    first = generated[0, len(plain.family.prefix)]
    assert int(got[pair.end].argmax()) == int(first), "what generation begins with"


def no_lens_on_its_encoder(model: LoadedModel, plain: Plain) -> None:
    for ask in (lambda: unembed(model.lm, torch.zeros(2, 32)), lambda: model.lm.ln_final.input):
        with pytest.raises(ValueError, match="a decoder stands between"):
            ask()
    for need in ("lens", "plain_stream", "causal"):
        with pytest.raises(UsageError, match="it is an encoder–decoder"):
            check_needs_by_model("it", (need,), "this", model.lm)
        with pytest.raises(UsageError, match="it is an encoder–decoder"):
            check_needs_by_config("it", (need,), "this", plain.model.config.to_dict())
    check_needs_by_model("it", ("unembedding",), "this", model.lm)


def its_gradients_are_autograds(model: LoadedModel, plain: Plain) -> None:
    example = Example(CLEAN, corrupt=CORRUPT, answer=" Mary", wrong=" Anna")
    pair = _tokenized(model, example).prompts[0]
    with model.lm.session():
        found = gradients(model.lm, pair.clean, "resid_pre", measure(model.lm, "logit_diff", pair))
        slopes = nnsight.save(found.gradients)
    ids, kept = torch.tensor([pair.clean.ids]), []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value.detach().requires_grad_(True))
        return kept[0]

    for layer in range(3):
        kept.clear()
        hook = plain.hook("resid_pre", layer, keep)
        with torch.enable_grad():
            prefix = torch.tensor([plain.family.prefix])
            answer = plain.model(input_ids=ids, decoder_input_ids=prefix).logits[0, -1]
            expected = torch.autograd.grad(answer[pair.answer] - answer[pair.wrong], kept[0])[0]
        hook.remove()
        torch.testing.assert_close(slopes[layer], expected, **CLOSE)


def its_prompt_is_continued(model: LoadedModel, plain: Plain) -> None:
    example = Example(CLEAN, corrupt=CORRUPT, answer=" Mary", wrong=" Anna")
    pair = _tokenized(model, example).prompts[0]
    assert not model.masked and not model.decoded and pair.end == len(pair.clean.ids) - 1
    with torch.no_grad(), model.lm.session():
        hidden = nnsight.save(run(model.lm, pair.clean).hidden)
    ids = torch.tensor([pair.clean.ids])
    first = plain.model.generate(ids, max_new_tokens=1, do_sample=False)[0, -1]
    assert int(logits(model.lm, hidden[0])[-1].argmax()) == int(first)


OF_TEXT = (
    its_stream_is_the_models,
    its_sites_are_what_plain_hooks_see,
    its_edits_are_those_of_plain_hooks,
    what_reads_the_stream_gives_the_models_logits,
    patching_is_what_plain_hooks_do,
    its_prompt_is_continued,
)
OF_TWO_SIDES = (
    its_stream_is_the_models,
    its_sites_are_what_plain_hooks_see,
    its_edits_are_those_of_plain_hooks,
    its_attention_weights_are_the_models,
    patching_is_what_plain_hooks_do,
    its_decoder_gives_the_answer,
    no_lens_on_its_encoder,
    its_gradients_are_autograds,
)
CHECKS: tuple[Callable[[LoadedModel, Plain], None], ...] = (
    its_stream_is_the_models,
    its_sites_are_what_plain_hooks_see,
    its_edits_are_those_of_plain_hooks,
    what_reads_the_stream_gives_the_models_logits,
    its_attention_weights_are_the_models,
    its_answer_is_read_at_the_mask,
    patching_is_what_plain_hooks_do,
)

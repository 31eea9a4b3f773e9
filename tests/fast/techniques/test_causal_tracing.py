"""Causal tracing against one forward pass a cell and draw, by plain hooks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nnsight
import numpy as np
import pytest
import torch

from remote_mi.backends.base import Work
from remote_mi.backends.dry_run import expected_outputs
from remote_mi.backends.ndif.source_checks import check_source
from remote_mi.common.progress import Silent
from remote_mi.interventions import Prompt, dealing, readout
from remote_mi.interventions.noise import embedding_std
from remote_mi.interventions.session import settled
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog, loading

from ..backends.test_preflight import SERVER, weightless
from ..reference import Reference

FEW = ("llama", "gpt2", "neox", "gemma2", "opt", "bert")
LAYERS, DRAWS, SPAN, TOLERANCE = 3, 3, (3, 4), 1e-4


@pytest.fixture(scope="module", params=FEW)
def few(request, tiny):
    return made(request.param, tiny)


@pytest.fixture(scope="module")
def llama(tiny):
    return made("llama", tiny)


def made(family: str, tiny: Any) -> SimpleNamespace:
    """A model, and a prompt with a subject of two tokens."""
    folder = tiny(family)
    reference = Reference(folder, family)
    lm = load(ModelSpec(str(folder)), Silent()).lm
    text = "When Mary and John went to the store"
    ids = reference.ids(text + " [MASK]" * (family == "bert"))[0].tolist()
    end = ids.index(reference.tokenizer.mask_token_id) if family == "bert" else len(ids) - 1
    with torch.no_grad():  # the likeliest token, so that its probability can fall
        target = int(reference.model(torch.tensor([ids])).logits[0, end].argmax())
    prompt = Prompt(ids, {"subject": SPAN[1], "end": end}, target, {"subject": SPAN})
    return SimpleNamespace(family=family, reference=reference, lm=lm, prompt=prompt)


def ran(lm: Any, call: Any, **parameters: Any) -> dict[str, Any]:
    """The outputs of causal tracing, all its parameters filled in."""
    card = catalog.find("causal_tracing", Path())
    function = loading.load_function(card, Path())
    with torch.no_grad(), lm.session():
        outputs = nnsight.save(settled(function(lm, call, **card.resolve(parameters))))
    assert set(outputs) == set(card.returns)
    return outputs


def site_hook(model: SimpleNamespace, site: str, layer: int, change: Any) -> Any:
    if site != "resid_post":
        return model.reference.hook(site, layer, change)

    def on_output(_module, _args, output):
        first = output[0] if isinstance(output, tuple) else output
        new = change(first)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return model.reference.blocks[layer].register_forward_hook(on_output)


class ByHand:
    """Runs of one prompt with noise in the embeddings of its subject and with states put in."""

    def __init__(self, model: SimpleNamespace, scale: float, draws: int, seed: int) -> None:
        self.model, self.prompt = model, model.prompt
        embedding = model.reference.model.get_input_embeddings()
        size = embedding.weight.shape[0]
        ids = torch.arange(min(size, 2048)) * size // min(size, 2048)
        with torch.no_grad():
            sigma = scale * embedding(ids).std()
        generator = torch.Generator().manual_seed(seed)
        first, last = SPAN
        self.noise = sigma * torch.randn(
            draws, last - first + 1, embedding.weight.shape[1], generator=generator
        )
        self.embedding = embedding

    def score(self, score: str, draw: int | None, hooks: list[Any]) -> float:
        if draw is not None:

            def add(_module, _args, output):
                output = output.clone()
                output[:, SPAN[0] : SPAN[1] + 1] += self.noise[draw]
                return output

            hooks = [*hooks, self.embedding.register_forward_hook(add)]
        with torch.no_grad():
            logits = self.model.reference.model(torch.tensor([self.prompt.ids])).logits
        for hook in hooks:
            hook.remove()
        logits = logits[0, self.prompt.end].double()
        found = {"logit": logits, "log_prob": logits.log_softmax(-1), "prob": logits.softmax(-1)}
        return float(found[score][self.prompt.target])

    def states(self, site: str, draw: int | None) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        hooks = []
        for layer in range(LAYERS):

            def keep(value, layer=layer):
                found[layer] = value.clone()

            hooks.append(site_hook(self.model, site, layer, keep))
        self.score("logit", draw, hooks)
        return [found[layer] for layer in range(LAYERS)]

    def restored(
        self, score: str, draw: int, site: str, layers: list[int], position: int, states: Any
    ) -> float:
        hooks = []
        for layer in layers:

            def change(value, layer=layer):
                value = value.clone()
                value[:, position] = states[layer][:, position]
                return value

            hooks.append(site_hook(self.model, site, layer, change))
        return self.score(score, draw, hooks)


#: The layers that a window of 1, 2, 3 or 10 around layers 0, 1, 2 restores, of three.
WINDOWS = {
    1: [[0], [1], [2]],
    2: [[0], [0, 1], [1, 2]],
    3: [[0, 1], [0, 1, 2], [1, 2]],
    10: [[0, 1, 2]] * 3,
}


@pytest.mark.parametrize(
    "site, window, score",
    [
        ("resid_post", 1, "prob"),
        ("resid_post", 3, "logit"),
        ("mlp_out", 1, "log_prob"),
        ("mlp_out", 10, "logit"),
        ("attn_out", 2, "logit"),
        ("attn_out", 3, "prob"),
    ],
)
def test_every_cell_equals_a_forward_pass_of_its_own(few, site, window, score):
    got = ran(few.lm, few.prompt, site=site, window=window, score=score, draws=DRAWS, seed=4)
    hand = ByHand(few, 3.0, DRAWS, 4)
    clean = hand.states(site, None)
    noised = [hand.states(site, draw) for draw in range(DRAWS)]
    base = [hand.score(score, draw, []) for draw in range(DRAWS)]
    length = len(few.prompt.ids)
    expected = np.zeros((2, DRAWS, LAYERS, length))
    for draw in range(DRAWS):
        for row, states in enumerate((clean, noised[(draw + 1) % DRAWS])):
            for layer in range(LAYERS):
                for p in range(length):
                    layers = WINDOWS[window][layer]
                    run = hand.restored(score, draw, site, layers, p, states)
                    expected[row, draw, layer, p] = run - base[draw]
    assert np.abs(expected[0]).max() > 1e-3, "there must be something to find"
    plain = hand.score(score, None, [])
    np.testing.assert_allclose(got["effect"], expected[0], atol=TOLERANCE, rtol=1e-4)
    np.testing.assert_allclose(got["control"], expected[1], atol=TOLERANCE, rtol=1e-4)
    assert float(got["clean"]) == pytest.approx(plain, abs=TOLERANCE)
    assert float(got["corrupt"]) == pytest.approx(np.mean(base), abs=TOLERANCE)
    assert float(got["gap"]) == pytest.approx(plain - np.mean(base), abs=TOLERANCE)
    if few.family != "bert":
        assert (got["effect"][..., : SPAN[0]] == 0).all()
        assert (got["control"][..., : SPAN[0]] == 0).all()


def test_the_stream_after_the_last_layer_restores_all_at_the_end_and_nothing_else(few):
    got = ran(few.lm, few.prompt, score="logit")
    last = got["effect"][:, -1]
    end = few.prompt.end
    torch.testing.assert_close(last[:, end].mean(), got["gap"], atol=1e-4, rtol=1e-4)
    others = [p for p in range(len(few.prompt.ids)) if p != end]
    assert last[:, others].abs().max() < 1e-5


@pytest.mark.parametrize("rows, apart", [(1, 128), (20, 128), (1000, 0)])
def test_the_dealing_to_passes_does_not_change_a_number(few, rows, apart, monkeypatch):
    given = {"site": "mlp_out", "window": 2, "score": "logit"}
    whole = ran(few.lm, few.prompt, **given)
    monkeypatch.setattr(dealing, "PASS_TOKENS", apart)
    monkeypatch.setattr(dealing, "rows_that_fit", lambda *_: rows)
    dealt = ran(few.lm, few.prompt, **given)
    for name, value in whole.items():
        torch.testing.assert_close(dealt[name], value, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("score", ["logit", "prob"])
def test_without_the_weights_at_hand_the_numbers_are_the_same(few, score, monkeypatch):
    """As in a sandboxed job, where only the model's modules can be asked."""
    expected = ran(few.lm, few.prompt, score=score)
    monkeypatch.setattr(readout, "has_weights", lambda lm: False)
    monkeypatch.setattr("remote_mi.interventions.noise.has_weights", lambda lm: False)
    got = ran(few.lm, few.prompt, score=score)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=2e-5, rtol=1e-4)


def test_no_noise_leaves_nothing_to_restore(llama):
    got = ran(llama.lm, llama.prompt, noise=0.0)
    assert got["effect"].abs().max() < 1e-6 and abs(float(got["gap"])) < 1e-6


def test_one_draw_has_no_control_and_equals_the_first_of_several(llama):
    one = ran(llama.lm, llama.prompt, draws=1, score="logit")
    several = ran(llama.lm, llama.prompt, draws=3, score="logit")
    assert tuple(one["control"].shape) == (0, LAYERS, len(llama.prompt.ids))
    torch.testing.assert_close(one["effect"][0], several["effect"][0], atol=1e-5, rtol=1e-5)


def test_the_subject_can_be_given_by_positions(llama):
    labelled = ran(llama.lm, llama.prompt)
    plain = Prompt(llama.prompt.ids, {}, llama.prompt.target)
    given = ran(llama.lm, plain, subject_start=SPAN[0], subject_end=SPAN[1])
    torch.testing.assert_close(given["effect"], labelled["effect"], atol=0, rtol=0)
    single = ran(llama.lm, plain, subject_start=SPAN[0])
    same = ran(llama.lm, plain, subject_start=SPAN[0], subject_end=SPAN[0])
    torch.testing.assert_close(single["effect"], same["effect"], atol=0, rtol=0)
    other = ran(llama.lm, llama.prompt, subject_start=SPAN[0])
    torch.testing.assert_close(other["effect"], same["effect"], atol=0, rtol=0)


@pytest.mark.parametrize(
    "target, given, said",
    [
        (None, {"subject_start": 1}, "give target"),
        (5, {}, "subject_start and subject_end"),
        (5, {"subject_start": 3, "subject_end": 2}, "do not lie in a prompt"),
        (5, {"subject_start": 1, "subject_end": 99}, "do not lie in a prompt"),
    ],
)
def test_what_is_missing_is_said(llama, target, given, said):
    with pytest.raises(ValueError, match=said):
        ran(llama.lm, Prompt(llama.prompt.ids, {}, target), **given)


def test_the_standard_deviation_is_that_of_the_embedding(few, monkeypatch):
    with torch.no_grad():
        embedding = few.reference.model.get_input_embeddings()
        table = embedding(torch.arange(embedding.weight.shape[0]))
        monkeypatch.setattr("remote_mi.interventions.noise.EMBEDDING_SAMPLE", len(table))
        assert float(embedding_std(few.lm)) == pytest.approx(float(table.std()), rel=1e-5)
        monkeypatch.setattr("remote_mi.interventions.noise.EMBEDDING_SAMPLE", 60)
        sampled = float(embedding_std(few.lm))
    assert sampled != float(table.std()) and sampled == pytest.approx(float(table.std()), rel=0.1)


@pytest.mark.parametrize("site", ["resid_post", "mlp_out"])
def test_the_shapes_are_known_before_it_is_sent(few, tiny, site):
    card = catalog.find("causal_tracing", Path())
    function = loading.load_function(card, Path())
    given = card.resolve({"site": site, "window": 2})
    assert check_source(card, function, Path(), SERVER) == []
    work = Work(card, function, [few.prompt], given, "key")
    found = expected_outputs(weightless(tiny(few.family)), work)
    assert found.outputs is not None, found.reason
    outputs = ran(few.lm, few.prompt, **given)
    for name, value in outputs.items():
        assert found.outputs[0][name] == (tuple(value.shape), "float32"), name

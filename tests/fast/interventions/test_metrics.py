"""Every metric against an independent computation from the model's own logits."""

from __future__ import annotations

import typing

import nnsight
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import remote_mi as mi
from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Silent
from remote_mi.interventions import Metric, Pair, Prompt, measure, run
from remote_mi.interventions.vocabulary import METRICS
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec

from ...conftest import MARY

CLEAN, CORRUPT = [5, 17, 9, 30, 12, 44], [5, 17, 11, 30, 12, 44]
ANSWERS, WRONGS = [3, 6], [4, 8]


def expected(metric: str, logits: np.ndarray, clean: np.ndarray, ids: list[int]) -> float:
    """Args: logits, clean: [position, vocabulary] of this run and of the clean one."""
    end, reference = logits[-1], scipy.special.softmax(clean[-1])
    p = scipy.special.softmax(end)
    mixture = (p + reference) / 2
    best = end[ANSWERS].max()
    table = {
        "logit_diff": end[ANSWERS].mean() - end[WRONGS].mean(),
        "logit_diff_max": end[ANSWERS].mean() - end[WRONGS].max(),
        "logit": end[ANSWERS].mean(),
        "prob": p[ANSWERS].sum(),
        "log_prob": np.log(p[ANSWERS].sum()),
        "prob_diff": p[ANSWERS].sum() - p[WRONGS].sum(),
        "kl": scipy.stats.entropy(reference, p),
        "js": (scipy.stats.entropy(p, mixture) + scipy.stats.entropy(reference, mixture)) / 2,
        "entropy": scipy.stats.entropy(p),
        "rank": (end > best).sum(),
        "top1": float((end > best).sum() == 0),
        "loss": -np.mean(
            [scipy.special.log_softmax(logits[i])[token] for i, token in enumerate(ids[1:])]
        ),
    }
    return float(table[metric])


def pair_of(clean: list[int], corrupt: list[int]) -> Pair:
    prompts = [Prompt(list(ids), {}, None) for ids in (clean, corrupt)]
    return Pair(*prompts, list(ANSWERS), list(WRONGS))


@pytest.fixture(scope="module", params=["llama", "gemma2", "opt"])
def model(request, tiny):
    """Gemma 2's final soft-cap, and OPT's flattened rows."""
    folder = tiny(request.param)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    return load(ModelSpec(str(folder)), Silent()).lm, plain


def within(lm, function, *arguments):
    with torch.no_grad(), lm.session():
        found = nnsight.save(function(lm, *arguments))
    return found


def measured(lm, metric, pair):
    of_answer = measure(lm, metric, pair)
    return [of_answer(run(lm, prompt).hidden)[0] for prompt in (pair.clean, pair.corrupt)]


def end_of(lm, metric, pair):
    return run(lm, pair.corrupt).hidden, measure(lm, metric, pair).clean


def logits_of(plain, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return plain(torch.tensor([ids])).logits[0].double().numpy()


def test_every_metric_has_its_facts():
    names, kind = typing.get_args(Metric)
    assert kind == "metric" and set(METRICS) == set(typing.get_args(names))


@pytest.mark.parametrize("metric", METRICS)
def test_it_is_what_the_models_own_logits_give(model, metric):
    lm, plain = model
    pair = pair_of(CLEAN, CORRUPT)
    found = within(lm, measured, metric, pair)
    clean = logits_of(plain, CLEAN)
    # The prompt whose tokens the loss is of is the clean one.
    for value, ids in zip(found, (CLEAN, CORRUPT), strict=True):
        wanted = expected(metric, logits_of(plain, ids), clean, CLEAN)
        assert float(value) == pytest.approx(wanted, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize(
    "metric", [name for name, facts in METRICS.items() if facts.differentiable]
)
def test_its_gradient_is_that_of_finite_differences(model, metric):
    lm, _ = model
    pair = pair_of(CLEAN, CORRUPT)
    hidden, clean = within(lm, end_of, metric, pair)
    of_answer = measure(lm, "logit" if clean is not None else metric, pair)
    of_answer.metrics, of_answer.clean = [metric], clean
    at = hidden.detach().clone().requires_grad_(True)
    slope = torch.autograd.grad(of_answer(at).sum(), at)[0]
    torch.manual_seed(0)
    for _ in range(3):
        step = torch.randn_like(at)
        h = 1e-2 / step.norm()
        with torch.no_grad():
            ends = [of_answer(at + sign * h * step)[0].double() for sign in (1, -1)]
        change = float(ends[0] - ends[1]) / float(2 * h)
        assert float((slope * step).sum()) == pytest.approx(change, rel=3e-2, abs=1e-3)
    assert (clean is None) == (not METRICS[metric].against_clean)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("metric", ["kl", "js", "rank"])
def test_a_metric_that_falls_recovers_to_1(project, tiny_llama, metric, direction):
    """Patching the last layer's stream at the end gives the other run: a recovery of 1, or −1."""
    found = mi.run(
        "activation_patching",
        pairs=[MARY],
        model=str(tiny_llama),
        metric=metric,
        direction=direction,
        site="resid_post",
    )
    gap, effect = float(found["gap"].values), found["effect"].values
    if metric != "rank":
        assert float(found["clean"].values) == pytest.approx(0, abs=1e-6) and gap < 0
    sign = 1 if direction == "denoise" else -1
    assert effect[-1, -1] == pytest.approx(sign * gap, abs=1e-5)
    if metric != "rank":
        assert found.verdict is not None and "swapped" not in found.verdict.says


def test_the_verdict_of_a_metric_that_falls_is_not_the_opposite(project, tiny_llama):
    other = {key: value.replace("store", "park") for key, value in MARY.items()}
    third = {key: value.replace("drink", "book") for key, value in MARY.items()}
    found = mi.run(
        "activation_patching", pairs=[MARY, other, third], model=str(tiny_llama), metric="kl"
    )
    assert found.verdict is not None and found.verdict.falls
    assert found.verdict.status in ("shown", "undecided") and found.verdict.against == 0
    assert not any("not positive" in note for note in found.notes)
    entropy = mi.run(
        "activation_patching", pairs=[MARY, other, third], model=str(tiny_llama), metric="entropy"
    )
    assert entropy.verdict is None
    ablated = mi.run("ablation", pairs=[MARY, other, third], model=str(tiny_llama), metric="kl")
    assert ablated.verdict is None and ablated["effect"].values.max() > 0


def test_an_ablation_measures_the_divergence_from_the_clean_run(project, tiny_llama):
    found = mi.run("ablation", pairs=[MARY], model=str(tiny_llama), metric="kl", kind="zero")
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ids = tokenizer(MARY["clean"], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        clean = plain(ids).logits[0, -1].double().softmax(-1).numpy()
        hook = plain.model.layers[1].self_attn.register_forward_hook(
            lambda _m, _a, output: (torch.zeros_like(output[0]), *output[1:])
        )
        changed = plain(ids).logits[0, -1].double().softmax(-1).numpy()
        hook.remove()
    wanted = scipy.stats.entropy(clean, changed)
    assert found["layer_effect"].values[1] == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("metric", ["rank", "top1"])
@pytest.mark.parametrize("recipe", ["attribution_patching", "integrated_gradients"])
def test_what_has_no_gradient_is_refused_where_one_is_needed(project, tiny_llama, recipe, metric):
    with pytest.raises(UsageError, match=f"{metric} has no gradient, and recipe '{recipe}'"):
        mi.run(recipe, pairs=[MARY], model=str(tiny_llama), metric=metric)

"""Every phenomenon on the embedded model: prompts that fit, and the behaviour that was measured.

The figures come from plain forward passes here, and are compared with those of independent code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

import remote_mi as mi
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts import phenomena
from remote_mi.prompts.tokens import tokenize

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "recipes" / "phenomena"
ALL = {path.stem: phenomena.load(path) for path in sorted(FOLDER.glob("*.yaml"))}
NAMES = [name for name, item in ALL.items() if item.behaviour is None]
BEHAVIOURS = [name for name in ALL if name not in NAMES]
#: What the embedded model does not do; larger ones may.
AT_CHANCE = [n for n in NAMES if phenomena.load(FOLDER / f"{n}.yaml").baseline.get("at_chance")]
#: What independent code measured on its own prompts of the same form, with a tolerance that
#: covers the choice of words. country_capital and landmark_city: top-1 by the answer.
MEASURED = {
    "ioi": {"accuracy": (0.99, 0.03), "logit_diff": (5.1, 0.5)},
    "ioi_abc": {"accuracy": (0.99, 0.03), "logit_diff": (5.1, 0.6)},
    "country_capital": {"top1": (0.81, 0.01), "logit_diff": (10.2, 0.1)},
    "gendered_pronoun": {"accuracy": (1.0, 0.01), "logit_diff": (5.9, 0.1)},
    "docstring": {"accuracy": (0.98, 0.03), "logit_diff": (3.0, 0.4)},
    "successor": {"accuracy": (1.0, 0.01), "top1": (0.40, 0.01)},
    "capital_icl": {"top1": (0.88, 0.13)},
    "subject_verb_agreement": {"accuracy": (0.90, 0.03), "logit_diff": (1.8, 0.1)},
    "greater_than": {"prob_diff": (0.36, 0.08)},
}


#: Prompt → logits after it, [vocabulary]: most prompts are in several tests.
KNOWN: dict[tuple[int, ...], torch.Tensor] = {}


def last_logits(model, rows: list[list[int]]) -> torch.Tensor:
    """Logits at the last position, [row, vocabulary]; one pass for all new rows of a length."""
    new = {tuple(row) for row in rows} - KNOWN.keys()
    for length in {len(row) for row in new}:
        same = [row for row in new if len(row) == length]
        with torch.no_grad():
            logits = model.lm._module(torch.tensor(same), logits_to_keep=1).logits[:, -1]
        KNOWN.update(zip(same, logits.float(), strict=True))
    return torch.stack([KNOWN[tuple(row)] for row in rows])


def figures(model, prompts, which: str = "clean") -> dict[str, np.ndarray]:
    """One number a pair: of the answers against the wrong answers."""
    pairs = tokenize(model.tokenizer, prompts, ModelSpec(), "pair", 8192).prompts
    logits = last_logits(model, [getattr(pair, which).ids for pair in pairs])
    probs = logits.softmax(-1)
    rows = []
    for row, prob, pair in zip(logits, probs, pairs, strict=True):
        difference = float(row[pair.answers].mean() - row[pair.wrongs].mean())
        right = float(prob[pair.answers].sum())
        rows.append(
            (
                difference > 0,
                difference,
                int(row.argmax()) in pair.answers,
                right,
                right - float(prob[pair.wrongs].sum()),
            )
        )
    names = ("accuracy", "logit_diff", "top1", "prob", "prob_diff")
    return dict(zip(names, np.array(rows, float).T, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_phenomenon_reaches_its_figures(model, name):
    item = phenomena.load(FOLDER / f"{name}.yaml")
    baseline = dict(item.baseline)
    assert baseline.pop("model") == "smollm2-135m-q4_1"
    at_chance = baseline.pop("at_chance", False)
    found = figures(model, item.prompts(count := baseline.pop("n")))
    assert baseline, "a baseline has a figure"
    if "accuracy" in baseline:
        right = int(found["accuracy"].sum())
        assert at_chance == (binomtest(right, count).proportion_ci().low <= 0.5)
    for figure, value in baseline.items():
        rounding = 0.06 if figure == "logit_diff" else 0.011
        assert found[figure].mean() == pytest.approx(value, abs=rounding), figure
    for figure, (value, tolerance) in MEASURED.get(name, {}).items():
        assert found[figure].mean() == pytest.approx(value, abs=tolerance), figure


@pytest.mark.parametrize("name", [n for n in NAMES if n not in AT_CHANCE])
def test_the_corrupt_prompts_leave_a_gap_to_recover(model, name):
    prompts = phenomena.load(FOLDER / f"{name}.yaml").prompts()
    clean, corrupt = figures(model, prompts), figures(model, prompts, "corrupt")
    metric = prompts.metric
    gap = clean[metric] - corrupt[metric]
    assert gap.mean() > 0.1 * abs(clean[metric].mean())
    assert (gap > 0).mean() >= 0.85


@pytest.mark.parametrize("name", NAMES)
def test_every_pair_that_a_list_can_give_fits_the_tokenizer(model, name):
    item = phenomena.load(FOLDER / f"{name}.yaml")
    many = 112
    if item.order == "list":
        many = min(len(item.lists[n]) for n in item.draw.values()) * len(item.templates)
    found = tokenize(model.tokenizer, item.prompts(many), ModelSpec(), "pair", 8192)
    assert len(found.prompts) == many and found.warnings == []


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_texts_show_a_behaviour_as_often_as_stated(project, embedded_cache, name):
    pytest.importorskip("py3langid")
    stated = ALL[name].baseline
    result = mi.run("behaviour", phenomenon=name, n=stated["n"], steps=stated["steps"])
    rates = dict(
        zip(result["class_rate"].coords["class"], result["class_rate"].values, strict=True)
    )
    assert rates["clean"] == pytest.approx(stated["rate"], abs=0.07)
    assert rates["corrupt"] == pytest.approx(stated["corrupt_rate"], abs=0.07)


def test_the_six_best_known_landmarks(model):
    landmarks = phenomena.load(FOLDER / "landmark_city.yaml")
    found = figures(model, landmarks.prompts(6))
    assert found["top1"].mean() == pytest.approx(0.83, abs=0.01)
    # Against the next city of the list 5.2 was measured; here each has a counterpart of its own.
    assert found["logit_diff"].mean() > 5
    assert found["prob"][:2] == pytest.approx([0.70, 0.73], abs=0.01)


def test_every_greater_than_prompt_says_a_later_year(model):
    found = figures(model, phenomena.load(FOLDER / "greater_than.yaml").prompts(35))
    assert (found["prob_diff"] > 0).all()


def test_the_phenomenon_that_a_project_begins_with_works(model):
    item = phenomena.load(ROOT / "recipes" / "scaffolds" / "phenomenon.yaml")
    assert figures(model, item.prompts())["accuracy"].mean() == 1

"""What holds of every technique: one seed one result, order and company change nothing."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from remote_mi.backends.base import Work, check_outputs, example_count
from remote_mi.backends.session import run_session
from remote_mi.common.progress import Silent
from remote_mi.interventions import Pair, Prompt
from remote_mi.models.load import LoadedModel, load
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.examples import Example, PromptSet, parse_example
from remote_mi.prompts.parameter import prompts_of, resolve_prompts
from remote_mi.prompts.tokens import tokenize
from remote_mi.recipes import catalog, loading
from remote_mi.store.artifacts import find_artifact

from ...techniques import TECHNIQUES, examples_for

VARIANTS = [(name, given) for name, variants in TECHNIQUES.items() for given in variants]
#: Variants whose numbers depend on the whole set: a mean or a vector made from all pairs.
OF_THE_SET = {"steering", "behaviour_steering", "head_ablation", "ablation mean", "set_ablation"}
TOLERANCE = 1e-4
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> LoadedModel:
    # Eager attention for all: the only kind that gives attention weights.
    return load(ModelSpec(str(tiny_llama), attention="eager"), Silent())


class Technique:
    """A built-in recipe with the parameters of one variant."""

    def __init__(self, model: LoadedModel, name: str, given: dict[str, Any]) -> None:
        self.model = model
        self.card = catalog.find(name, Path("/nowhere"))
        self.function = loading.load_function(self.card, Path("/nowhere"))
        self.parameters = self.card.resolve(given)
        for param in self.card.parameters:
            if param.kind == "artifact" and self.parameters[param.name]:
                named, what = self.parameters[param.name], f"parameter {param.name!r}"
                found = find_artifact(named, param.dims, Path("/nowhere"), what)
                self.parameters[param.name] = torch.from_numpy(found.array.copy())
            if param.kind == "prompts" and self.parameters[param.name]:
                given = resolve_prompts(param.name, self.parameters[param.name], Path("/nowhere"))
                texts = list(prompts_of(given).examples)
                self.parameters[param.name] = self.tokens(texts, "prompts")
            if param.kind == "prompt":
                text = Example(self.parameters[param.name])
                self.parameters[param.name] = self.tokens([text], "prompt")[0]

    def tokens(self, examples: list[Example], over: str) -> list[Any]:
        made = tokenize(
            self.model.tokenizer,
            PromptSet(tuple(examples), "test"),
            self.model_spec,
            over,
            self.model.context,
        )
        return made.prompts

    @property
    def model_spec(self) -> ModelSpec:
        return ModelSpec("/nowhere")

    def examples(self, count: int = 3) -> list[Any]:
        fields = [parse_example(one) for one in examples_for(self.card, count)]
        return self.tokens(fields, self.card.over) if fields else []

    def run(self, examples: list[Any], **changed: Any) -> Iterator[dict[str, np.ndarray]]:
        """Raw outputs of each example (or of the set), from one session."""
        calls = examples
        if self.card.called_once:
            calls = [None if self.card.over == "none" else examples]
        parameters = {**self.parameters, **changed}
        work = Work(self.card, self.function, calls, parameters, "key", together=examples)
        for call, returned in zip(calls, run_session(self.model.lm, work), strict=True):
            yield check_outputs(self.card.name, self.card.returned, returned, example_count(call))

    def each(self, examples: list[Any]) -> list[dict[str, np.ndarray]]:
        """Raw outputs that belong to an example, one dict an example."""
        found = list(self.run(examples))
        if not self.card.called_once:
            return found
        names = [n for n, output in self.card.returned.items() if output.of == "example"]
        return [{n: found[0][f"{n}@{i}"] for n in names} for i in range(len(examples))]


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    "name, given", VARIANTS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(VARIANTS)]
)
def test_order_company_and_repetition_change_nothing(model, name, given):
    technique = Technique(model, name, given)
    examples = technique.examples()
    once = technique.each(examples)
    for first, second in zip(once, technique.each(examples), strict=True):
        for output in first:
            assert np.array_equal(first[output], second[output], equal_nan=True), output
    if technique.card.over == "none":
        equal(*(next(technique.run([])) for _ in range(2)), 0.0)
        return
    assert any(np.abs(values).max() > 0 for values in once[0].values() if values.size)
    backwards = technique.each(examples[::-1])[::-1]
    of_set = name in OF_THE_SET or f"{name} {given.get('kind')}" in OF_THE_SET
    of_set = of_set and "reference" not in given and given.get("kind") != "denoise"
    if not of_set:
        for first, second in zip(once, backwards, strict=True):
            equal(first, second, TOLERANCE)
        for example, found in zip(examples, once, strict=True):
            equal(technique.each([example])[0], found, TOLERANCE)


@pytest.mark.parametrize("name", [n for n in TECHNIQUES if n != "head_detectors"])
def test_another_seed_changes_nothing_but_what_is_drawn(model, name):
    technique = Technique(model, name, TECHNIQUES[name][0])
    if "seed" not in technique.parameters or technique.card.analysis:
        return
    examples = technique.examples(2)
    one, other = (next(technique.run(examples, seed=seed)) for seed in (0, 1))
    drawn = {n for n, output in technique.card.returns.items() if "draw" in output.dims}
    changed = {
        k.partition("@")[0]
        for k in one
        if not np.allclose(one[k], other[k], atol=1e-5, equal_nan=True)
    }
    # Tracing draws its noise, and steering which pairs the vector comes from.
    assert changed and (
        changed <= drawn or name in ("steering", "behaviour_steering", "causal_tracing")
    )


@pytest.mark.parametrize(
    "name",
    [
        "activation_patching",
        "head_patching",
        "attribution_patching",
        "head_attribution",
        "integrated_gradients",
    ],
)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_identical_prompts_have_no_effect_at_all(model, name, direction):
    technique = Technique(model, name, TECHNIQUES[name][0])
    pair = technique.examples(1)[0]
    same = Pair(pair.clean, Prompt(pair.clean.ids, pair.positions, None), pair.answers, pair.wrongs)
    takes = "direction" in inspect.signature(technique.function).parameters
    found = next(technique.run([same], **({"direction": direction} if takes else {})))
    effect = found["attribution" if name == "integrated_gradients" else "effect"]
    assert np.array_equal(effect, np.zeros_like(effect))
    assert float(found.get("gap", np.zeros(()))) == pytest.approx(0, abs=1e-5)


def test_replacing_by_the_same_prompt_ablates_nothing(model):
    technique = Technique(model, "ablation", {"kind": "resample"})
    pair = technique.examples(1)[0]
    same = Pair(pair.clean, Prompt(pair.clean.ids, pair.positions, None), pair.answers, pair.wrongs)
    found = technique.each([same])[0]
    for name in ("effect", "layer_effect", "loss_change"):
        assert np.abs(found[name]).max() < 1e-5

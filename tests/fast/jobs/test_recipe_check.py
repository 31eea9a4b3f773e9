"""`recipes check`: a recipe that violates a property is named by exactly that property."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import remote_mi as mi
from remote_mi.common.errors import UsageError
from remote_mi.jobs.recipe_check import check
from remote_mi.jobs.recipe_check.report import PROPERTIES
from remote_mi.models.tiny_models import FAMILIES
from remote_mi.recipes import catalog

from ...techniques import DIRECTION

BOX = Path(__file__).parents[1] / "backends" / "box"
#: Needs that an encoder does not meet.
BY_ENCODERS_LACKED = {"causal", "plain_stream"}
#: Parameters that set how much is computed, where their defaults are meant for results.
LESS_WORK = {
    "attribution_patching": {"control_draws": 2},
    "causal_tracing": {"draws": 2},
    "direction_ablation": {**DIRECTION, "control_draws": 2},
    "direction_addition": {**DIRECTION, "control_draws": 2},
    "integrated_gradients": {"steps": 4, "control_draws": 1},
    "linear_probe": {"folds": 2, "control_draws": 2},
    "patchscopes": {"steps": 2, "control_draws": 1},
    "saliency": {"control_draws": 2},
    "set_ablation": {"heads": ["0.1", "2.2"], "control_sets": 3},
    "steering": {"coefficients": [1.0, 2.0], "control_draws": 1, "steps": 2},
}
#: A technique that compares the streams of both prompts at their end.
RECIPE = '''\
"""Odd."""

from __future__ import annotations

import sys
from typing import Any

import torch

from remote_mi import recipe
from remote_mi.interventions import run

SEEN: dict[str, Any] = {{}}


def length(lm: Any, prompt: Any) -> Any:
    """The length of the stream after each layer."""
    return torch.stack([x[0, prompt.end].norm() for x in run(lm, prompt, "resid_post").values])


@recipe(over="pair", returns={{"effect": ("layer",)}}, controls={{"effect": "control"}})
def odd(lm: Any, pair: Any, *, scales: list[float] = [1.0], seed: int = 0) -> dict[str, Any]:  # noqa: B006
    """Odd."""
    clean, corrupt = length(lm, pair.clean), length(lm, pair.corrupt)
    effect = corrupt - clean
    {body}
    return {{"effect": effect, "control": 0 * effect[None]}}
'''
OF_SET = '''\
"""Odd."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi import recipe
from remote_mi.interventions import run


@recipe(over="prompts", returns={{"stream": ("prompt", "layer")}})
def odd(lm: Any, prompts: Any{seed}) -> dict[str, Any]:
    """Odd."""
    after = [torch.stack([x[0, p.end].norm() for x in run(lm, p, "resid_post").values])
             for p in prompts]
    return {{"stream": [one - {reference} for one in after]}}
'''
OF_ANALYSIS = '''\
"""Odd."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi import recipe
from remote_mi.interventions import run


@recipe(over="prompt", returns={"stream": ("layer",)}, analysis="add", summaries={"sum": ()})
def odd(lm: Any, prompt: Any) -> dict[str, Any]:
    """Odd."""
    return {"stream": torch.stack([x[0, -1].norm() for x in run(lm, prompt, "resid_post").values])}


def add(examples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"sum": examples[0]["arrays"]["stream"].sum()}
'''


@pytest.fixture
def families(monkeypatch):
    """Choose the families that recipes are checked on."""

    def choose(*names: str) -> None:
        monkeypatch.setattr(check, "FAMILIES", names)
        monkeypatch.setattr(check, "ENCODERS", ())

    choose("llama")
    return choose


def odd(project: Path, body: str = "", text: str = RECIPE, **slots: str) -> str:
    path = project / "odd.py"
    path.write_text(text.format(body=body, **slots) if text != OF_ANALYSIS else text)
    return str(path)


@pytest.mark.parametrize(
    "body, fails, said",
    [
        ("", None, ""),
        ("effect = effect + torch.rand(())", "repetition", "effect differs by"),
        (
            'SEEN["count"] = SEEN.get("count", 0) + 1; effect = effect + SEEN["count"]',
            "repetition",
            "effect differs by 3",
        ),
        ("pair.clean.ids.append(1)", "inputs", "changes its prompts"),
        ("scales.append(2.0)", "inputs", "changes its parameters"),
        (
            "torch.nn.init.zeros_(lm.lm_head._module.weight)",
            "inputs",
            "changes the model's weights",
        ),
        (
            'effect = effect + SEEN.setdefault("first", effect).clone()',
            "company",
            "effect differs by",
        ),
        ("effect = effect + corrupt", "identity", "effect of identical prompts is"),
        ("effect = effect + lm.layers[0].nothing", "families", "AttributeError"),
    ],
)
def test_a_violation_is_named_by_its_property_alone(project, families, body, fails, said):
    found = mi.check_recipe(odd(project, body), project=project)
    assert found.failed == ([fails] if fails else []), found
    assert found.passed is (fails is None)
    if fails:
        assert any(said in finding.message for finding in found.of(fails)), found
        assert "usually: " in repr(found)


@pytest.mark.parametrize(
    "text, slots, state",
    [
        (OF_SET, {"reference": "after[0]", "seed": ""}, "fails"),
        (OF_SET, {"reference": "after[0]", "seed": ", *, seed: int = 0"}, "note"),
        (OF_SET, {"reference": "sum(after)", "seed": ""}, "holds"),
        (OF_ANALYSIS, {}, "fails"),
    ],
)
def test_the_place_in_the_list_counts_for_nothing(project, families, text, slots, state):
    found = mi.check_recipe(odd(project, text=text, **slots), project=project)
    assert found.state("order") == state, found
    assert found.failed == (["order"] if state == "fails" else [])


def test_what_changes_something_by_itself_is_noted(project, families):
    found = mi.check_recipe(odd(project, "effect = clean"), project=project)
    assert found.passed and found.state("identity") == "note", found
    refused = "if pair.first_difference is None: raise ValueError('nothing differs')"
    found = mi.check_recipe(odd(project, refused), project=project)
    assert found.passed and found.of("identity")[0].message == "refused: nothing differs", found
    drawn = odd(project, "torch.manual_seed(0); effect = effect * torch.rand(())")
    found = mi.check_recipe(drawn, project=project)
    assert found.passed and "generator of torch" in found.of("inputs")[0].message, found


def test_a_refusal_needs_a_reason_and_one_model_must_be_left(project, families):
    families("llama", "phi")
    mid = odd(project, 'effect = effect + run(lm, pair.clean, "resid_mid").values[0][0, 0, 0] * 0')
    found = mi.check_recipe(mid, project=project)
    assert found.passed, found
    assert [f.message[:9] for f in found.of("families")] == ["", "refused: "]
    found = mi.check_recipe(odd(project, 'raise ValueError("never")'), project=project)
    assert found.failed == ["families"], found
    with pytest.raises(UsageError, match="no parameter 'nothing'"):
        mi.check_recipe(mid, project=project, nothing=1)


@pytest.mark.parametrize(
    "body, said",
    [
        ("import sys; sys.exit()", "sys.exit() would end the whole process"),
        ("import os; os._exit(0)", "os._exit(0) would end the whole process"),
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
        ("return None", "returned NoneType, not a dict of its summaries"),
        ('return {"sum": "many"}', "which is not an array of numbers"),
    ],
)
def test_an_analysis_that_fails_ends_no_check(project, families, body, said):
    text = OF_ANALYSIS[: OF_ANALYSIS.index('    return {"sum"')] + f"    {body}\n"
    (project / "odd.py").write_text(text)
    found = mi.check_recipe(str(project / "odd.py"), project=project)
    assert found.failed == ["families"], found
    assert said in found.of("families")[0].message, found


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"n": "3"}, "n is '3', not a whole number or None"),
        ({"model": 3}, "model is 3, not a text, a path or a ModelSpec"),
        ({"backend": 1}, "backend is 1, not a text or None"),
        ({"parameters": [1]}, "parameters is [1], not a dict or None"),
        ({"project": "\0"}, "cannot be used"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused_as_by_a_job(project, families, wrong, said):
    with pytest.raises(UsageError) as caught:
        mi.check_recipe(odd(project), **{"project": project, **wrong})
    assert said in caught.value.message


@pytest.mark.slow
@pytest.mark.parametrize("card", catalog.all_cards(Path("/nowhere")), ids=lambda card: card.name)
def test_every_built_in_recipe_passes(project, card, monkeypatch):
    """One of them on every family; that the others run on each is what the table of families is for."""
    families = FAMILIES if card.name == "activation_patching" else ("gpt2", "gemma2")
    monkeypatch.setattr(check, "FAMILIES", families)
    found = mi.check_recipe(card.name, project=project, parameters=LESS_WORK.get(card.name))
    assert found.passed, found
    ran = {finding.model for finding in found.of("inputs")}
    assert ran >= set(families) and ("bert" in ran) is not bool({*card.needs} & BY_ENCODERS_LACKED)


@pytest.mark.slow
@pytest.mark.parametrize("there, fails", [("0.0", []), ("1e-3", ["place"])])
def test_a_server_is_compared_with_this_machine(
    project, families, tiny_llama, monkeypatch, warm_children, there, fails
):
    monkeypatch.syspath_prepend(str(BOX))
    paths = [str(BOX), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    body = f'effect = effect * (1 + {there} * ("pytest" not in sys.modules))'
    found = mi.check_recipe(odd(project, body), project=project, model=tiny_llama, backend="box")
    assert found.failed == fails, found
    assert {f.model for f in found.of("repetition")} == {"llama", str(tiny_llama)}


def test_the_command_says_what_fails_and_exits_with_1(project, families, cli):
    code, out, _ = cli("recipes", "check", odd(project), "--scales", "1,2", "-p", "seed=3")
    assert code == 0 and "odd: all properties hold" in out
    assert all(name in out for name in PROPERTIES)
    wrong = odd(project, "effect = effect + torch.rand(())")
    code, out, _ = cli("recipes", "check", wrong, "--json")
    document = json.loads(out)
    assert code == 1 and document["properties"]["repetition"]["state"] == "fails"
    assert document["properties"]["repetition"]["findings"][0]["difference"] > 0
    code, out, _ = cli("recipes", "check", wrong, "-q", "--phenomenon", "ioi:store", "-n", "2")
    assert (code, out) == (1, "repetition\n")
    assert cli("recipes", "check", "nothing")[0] == 3

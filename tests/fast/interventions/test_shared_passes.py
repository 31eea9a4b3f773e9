"""Calls of a job share passes: the numbers are those of a pass each, the passes are fewer."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nnsight
import pytest
import torch
from transformers import AutoModelForCausalLM

import remote_mi as mi
from remote_mi.backends.base import Work
from remote_mi.backends.session import run_session
from remote_mi.common.progress import Silent
from remote_mi.interventions import Pair, Prompt, memory, run, shared_passes
from remote_mi.interventions.forward import Run
from remote_mi.models.load import LoadedModel, load
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog, loading

#: Prompts of two lengths in turn, and one of a length of its own.
LENGTHS = [6, 8, 6, 8, 6, 8, 6, 11, 6]
TECHNIQUES = ["activation_patching", "attention_patterns", "baseline", "linear_probe", "logit_lens"]
HERE = Path(__file__).parent


def prompt_of(length: int, seed: int) -> Prompt:
    drawn = torch.randint(3, 60, (length,), generator=torch.Generator().manual_seed(seed))
    return Prompt(drawn.tolist(), {}, 7)


def calls_over(over: str) -> list[Any]:
    prompts = [prompt_of(length, index) for index, length in enumerate(LENGTHS)]
    if over == "prompt":
        return prompts
    others = [prompt_of(length, 100 + index) for index, length in enumerate(LENGTHS)]
    return [Pair(*both, [3, 6], [4]) for both in zip(prompts, others, strict=True)]


def work_of(recipe: str, **parameters: Any) -> Work:
    card = catalog.find(recipe, HERE)
    function = loading.load_function(card, HERE)
    return Work(card, function, calls_over(card.over), card.resolve(parameters), "key")


@contextmanager
def counted(model: LoadedModel):
    """The rows of every pass of a model within the block."""
    rows: list[int] = []
    module = model.lm.backbone._module
    hook = module.register_forward_pre_hook(
        lambda _m, given, named: rows.append(len([*given, named.get("input_ids")][0])),
        with_kwargs=True,
    )
    yield rows
    hook.remove()


def both_ways(model: LoadedModel, work: Work) -> tuple[list[Any], list[Any], list[int]]:
    """Outputs of all calls in one session, of a session each, and the rows of the first passes."""
    with counted(model) as rows:
        together = run_session(model.lm, work)
    alone = []
    for call in work.calls:
        one = Work(work.card, work.function, [call], work.parameters, "key")
        alone += run_session(model.lm, one)
    return together, alone, rows


def assert_equal(together: list[Any], alone: list[Any]) -> None:
    for ours, own in zip(together, alone, strict=True):
        assert ours.keys() == own.keys()
        for name, value in ours.items():
            assert torch.as_tensor(value).shape == torch.as_tensor(own[name]).shape, name
            near = {"atol": 1e-5, "rtol": 1e-5, "equal_nan": True}
            torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(own[name]), **near)


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox", "gemma2", "qwen3", "mixtral"])
@pytest.mark.parametrize("recipe", TECHNIQUES)
def test_each_calls_outputs_are_those_of_its_own_pass(tiny, family, recipe):
    model = load(ModelSpec(str(tiny(family)), attention="eager"), Silent())
    together, alone, rows = both_ways(model, work_of(recipe))
    assert_equal(together, alone)
    if recipe != "activation_patching":
        assert len(rows) == 5  # the first of each length, the others of two lengths
        assert sum(rows) == (len(LENGTHS) + 1) * (2 if recipe == "baseline" else 1)


def test_the_baseline_is_what_plain_torch_gives(tiny_llama):
    model = load(ModelSpec(str(tiny_llama)), Silent())
    work = work_of("baseline")
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    for call, outputs in zip(work.calls, run_session(model.lm, work), strict=True):
        with torch.no_grad():
            ends = plain(torch.tensor([call.clean.ids, call.corrupt.ids])).logits[:, -1]
        wanted = ends[:, call.answers].mean(-1) - ends[:, call.wrongs].mean(-1)
        assert float(outputs["logit_diff"]) == pytest.approx(float(wanted[0]), abs=1e-5)
        assert float(outputs["corrupt_logit_diff"]) == pytest.approx(float(wanted[1]), abs=1e-5)


@pytest.mark.parametrize("family", ["bert", "bert-headless"])
def test_encoders_share_passes_too(tiny, family):
    model = load(ModelSpec(str(tiny(family)), attention="eager"), Silent())
    recipe = "linear_probe" if family == "bert-headless" else "logit_lens"
    together, alone, rows = both_ways(model, work_of(recipe))
    assert_equal(together, alone)
    assert len(rows) == 5


def test_memory_limits_the_rows_and_what_is_kept(tiny_llama):
    model = load(ModelSpec(str(tiny_llama)), Silent())
    work = work_of("logit_lens")
    with memory.memory(1), counted(model) as rows:
        run_session(model.lm, work)
    assert rows == [1] * len(LENGTHS)
    kept = 0

    class Noted(shared_passes.SharedPasses):
        def take(self, *given: Any) -> Any:
            nonlocal kept
            found = super().take(*given)
            ready = [run for request in self._requests.values() for run in request.ready.values()]
            kept = max(kept, sum(run.size() for run in ready))
            return found

    budget = 200_000
    shared = Noted(work.calls)
    with memory.memory(budget), counted(model) as rows:
        run_session(model.lm, work)
    shared.close()
    assert 1 < max(rows) < 5 and 0 < kept <= budget / shared_passes.KEPT_SHARE


def test_a_sweep_from_a_shared_run_uses_its_keys(tiny_llama, monkeypatch):
    model = load(ModelSpec(str(tiny_llama)), Silent())
    taken = []
    rows_of = Run.rows
    monkeypatch.setattr(Run, "rows", lambda *given: taken.append(rows_of(*given)) or taken[-1])
    together, alone, _ = both_ways(model, work_of("ablation", kind="resample"))
    assert_equal(together, alone)
    assert taken and all(run.keys is not None for run in taken)
    first, whole = taken[0].keys.layers[0], taken[0].whole[0].keys.layers[0]
    assert torch.equal(first.keys[0], whole.keys[taken[0].whole[1]])


def streams(lm: Any, asked: list[Any]) -> list[torch.Tensor]:
    """The stream after layer 1, of each prompt or rows of prompts."""
    return [run(lm, prompts, "resid_post").values[1] for prompts in asked]


def read(lm: Any, asked: list[Any]) -> list[torch.Tensor]:
    with torch.no_grad(), lm.session():
        found = nnsight.save(streams(lm, asked))
    return found


def test_a_call_may_ask_for_the_same_run_again_and_in_any_order(tiny_llama):
    lm = load(ModelSpec(str(tiny_llama)), Silent()).lm
    prompts = calls_over("prompt")
    alone = read(lm, prompts)
    twice = [place for place in range(len(prompts)) for _ in range(2)]
    for order in (twice, [8, 2, 0, 6, 4]):
        shared = shared_passes.share_passes(prompts)
        assert shared is not None and shared_passes.share_passes(prompts) is None
        found = read(lm, [prompts[place] for place in order])
        for place, stream in zip(order, found, strict=True):
            torch.testing.assert_close(stream, alone[place])
        (both,) = read(lm, [[prompts[0], prompts[2]]])  # of two calls in one run
        torch.testing.assert_close(both, torch.cat([alone[0], alone[2]]))
        shared.close()


def test_rows_that_depend_on_each_other_are_not_shared(tiny_llama):
    """As in a model whose experts have a capacity, or whose scales are computed over the batch."""
    model = load(ModelSpec(str(tiny_llama)), Silent())
    layer = model.lm.layers[0]._module
    hook = layer.register_forward_hook(lambda _m, _a, x: x + x.mean(0, keepdim=True))
    try:
        together, alone, rows = both_ways(model, work_of("linear_probe"))
    finally:
        hook.remove()
    assert_equal(together, alone)
    assert sorted(rows)[:-1] == [1] * len(LENGTHS)  # one shared pass, by which it was found out


def test_a_job_here_shares_passes_and_keeps_each_call(project, tiny_llama):
    texts = [f"Mary and {name} went to the" for name in ("John", "Tom", "James", "Anna")]
    texts = [{"prompt": text, "target": " store"} for text in texts]
    found = mi.run("logit_lens", pairs=texts, model=str(tiny_llama))
    assert found.provenance["record"]["forward_passes"] == 2
    # Part by part in the cache: another job's prompts are found, whatever they were run with.
    again = mi.run("logit_lens", pairs=[*texts[1:3], texts[0]], model=str(tiny_llama))
    assert not again.provenance["record"].get("forward_passes")

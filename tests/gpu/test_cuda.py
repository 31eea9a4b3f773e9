"""A CUDA device gives the numbers of the CPU, whatever the program around has set."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.models import load as loading_models
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes import catalog

from ..conftest import FAMILIES, MARY
from ..fast.interventions.test_generation import PROMPT, continued, greedy, phi3
from ..fast.jobs.test_program import SURROUNDINGS, same_bits, state_of_program
from ..techniques import TECHNIQUES, examples_for
from ..tokenizers import save_model, wrapped

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def fresh(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., mi.Result]:
    """Run a recipe on a device as if nothing had been computed yet."""
    count = iter(range(10_000))

    def run(recipe: str, folder: Path, device: str, dtype: str = "auto", **given: Any) -> mi.Result:
        monkeypatch.setenv("REMOTE_MI_CACHE", str(project / f"cache-{next(count)}"))
        card = catalog.find(recipe, project)
        examples = {"pairs": examples_for(card)} if card.over != "none" else {}
        place = project / f"project-{next(count)}"
        place.mkdir()
        model = ModelSpec(str(folder), device=device, dtype=dtype)
        return mi.run(recipe, model=model, project=place, **examples, **given)

    return run


@pytest.mark.parametrize("recipe", TECHNIQUES)
def test_a_device_gives_the_numbers_of_the_cpu(fresh, tiny_llama, recipe):
    for given in TECHNIQUES[recipe]:
        here = fresh(recipe, tiny_llama, "cpu", **given)
        there = fresh(recipe, tiny_llama, "cuda", **given)
        assert there.provenance["record"]["device"].startswith("cuda")
        assert here.provenance["record"]["device"] == "cpu"
        for name, values in here.arrays.items():
            if name.endswith((":low", ":high")) or values.dtype.kind != "f":
                continue
            scale = max(1.0, float(np.nanmax(np.abs(values), initial=0.0)))
            np.testing.assert_allclose(there.arrays[name], values, atol=2e-3 * scale, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_proved_and_patched_on_a_device(fresh, tiny, family):
    here = fresh("activation_patching", tiny(family), "cpu")
    there = fresh("activation_patching", tiny(family), "cuda")
    np.testing.assert_allclose(there["effect"].values, here["effect"].values, atol=2e-3)
    assert there.provenance["record"]["forward_passes"]


CUDA_SURROUNDINGS: dict[str, Callable[[], Any]] = {
    **{
        name: make
        for name, make in SURROUNDINGS.items()
        if name not in ("autocast", "deterministic")
    },
    "autocast there": lambda: torch.autocast("cuda", dtype=torch.bfloat16),
    "a device by default": lambda: torch.device("cuda"),
}


@pytest.mark.parametrize(
    "recipe", ["activation_patching", "causal_tracing", "baseline", "steering"]
)
def test_the_callers_settings_change_no_bit_on_a_device(fresh, tiny_llama, recipe):
    given = TECHNIQUES[recipe][0]
    plain = fresh(recipe, tiny_llama, "cuda", **given)
    assert same_bits(fresh(recipe, tiny_llama, "cuda", **given), plain), "twice the same"
    for name, surroundings in CUDA_SURROUNDINGS.items():
        for loaded in (True, False):
            if not loaded:
                loading_models._loaded.clear()
            with surroundings():
                before = state_of_program()
                found = fresh(recipe, tiny_llama, "cuda", **given)
                after = state_of_program()
            for what, value in before.items():
                assert what == "variables" or after[what] == value, (name, what)
            assert same_bits(found, plain), f"{name}, loaded {'before' if loaded else 'inside'}"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_proved_and_near(fresh, tiny_llama, dtype):
    whole = fresh("baseline", tiny_llama, "cuda")
    half = fresh("baseline", tiny_llama, "cuda", dtype)
    assert half.provenance["record"]["dtype"] == dtype
    np.testing.assert_allclose(half["logit_diff"].values, whole["logit_diff"].values, atol=0.5)


def test_threads_get_their_own_numbers_on_a_device(project, tiny_llama):
    prompts = [MARY["clean"].replace("store", word) for word in ("store", "park")] * 8
    model = ModelSpec(str(tiny_llama), device="cuda")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda p: mi.run("logit_lens", model=model, prompt=p), prompts))
    for prompt, result in zip(prompts, found, strict=True):
        assert result.prompts[0]["clean"] == prompt
        assert np.array_equal(result["kl"].values, found[prompts.index(prompt)]["kl"].values)


def test_a_long_rope_crosses_its_switch_on_a_device(project, tmp_path):
    model = save_model(tmp_path, wrapped("byte-level BPE"), phi3)
    lm = loading_models.load(ModelSpec(str(tmp_path), device="cuda"), mi.progress.Silent()).lm
    assert continued(lm, [PROMPT], 10, 5) == [greedy(model, PROMPT, 10)]

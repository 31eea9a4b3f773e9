"""A run in somebody's program: threads, settings of torch, streams, paths, modules, filters."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.common.errors import RemoteMIError, RunFailed, UsageError
from remote_mi.models import load as loading_models

from ...techniques import TECHNIQUES, examples_for

NAMES = ("Mary", "John", "Tom", "Anna", "Paul", "Mark", "Lucy")
PROMPTS = [
    f"When {a} and {b} went to the store, {b} gave a drink to"
    for a in NAMES
    for b in NAMES
    if a != b
]


@contextlib.contextmanager
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def coarse_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": default_dtype,
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "another device": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "coarse products": coarse_products,
    "strict numpy": lambda: np.errstate(all="raise"),
}


def state_of_program() -> dict[str, Any]:
    """What a library call must leave as it was."""
    import transformers
    from cloudpickle import list_registry_pickle_by_value
    from huggingface_hub import utils as hub

    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "products": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch's numbers": torch.get_rng_state().tolist(),
        "numpy's numbers": repr(np.random.get_state()),
        "numpy's errors": np.geterr(),
        "random's numbers": random.getstate(),
        "stdout": sys.stdout,
        "stderr": sys.stderr,
        "path": list(sys.path),
        "finders": list(sys.meta_path),
        "modules": sorted(
            name for name in sys.modules if name in ("helpers", "steering", "logit_lens")
        ),
        "filters": list(warnings.filters),
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "verbosity": transformers.logging.get_verbosity(),
        "bars": transformers.logging.is_progress_bar_enabled(),
        "the hub's bars": hub.are_progress_bars_disabled(),
        "nnsight's level": logging.getLogger("nnsight").level,
        "sent by value": list_registry_pickle_by_value()
        - {"remote_mi.interventions", "remote_mi_recipe_files"},
    }


@pytest.fixture
def fresh(project, monkeypatch) -> Callable[..., mi.Result]:
    """Run a recipe as if nothing had been computed yet."""
    count = iter(range(1000))

    def run(recipe: str, **given: Any) -> mi.Result:
        monkeypatch.setenv("REMOTE_MI_CACHE", str(project / f"cache-{next(count)}"))
        folder = project / f"project-{next(count)}"
        folder.mkdir()
        return mi.run(recipe, project=folder, **given)

    return run


def same_bits(one: mi.Result, other: mi.Result) -> bool:
    assert one.arrays.keys() == other.arrays.keys()
    return all(
        a.dtype == other.arrays[name].dtype
        and np.array_equal(a, other.arrays[name], equal_nan=a.dtype.kind == "f")
        for name, a in one.arrays.items()
    )


@contextlib.contextmanager
def all_at_once() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for surroundings in SURROUNDINGS.values():
            stack.enter_context(surroundings())
        yield


#: These are tried in each surroundings by itself; all other recipes in all of them at once, and with
#: a model that is loaded in them.
ONE_BY_ONE = ("causal_tracing", "saliency")
QUICK = ("causal_tracing", "saliency", "steering", "logit_lens")


@pytest.mark.parametrize(
    "recipe", [r if r in QUICK else pytest.param(r, marks=pytest.mark.slow) for r in TECHNIQUES]
)
def test_the_callers_settings_change_no_bit_and_are_left_alone(fresh, tiny_llama, recipe):
    from remote_mi.recipes import catalog

    card = catalog.find(recipe, tiny_llama)
    examples = {"pairs": examples_for(card)} if card.over != "none" else {}
    given = {**examples, **TECHNIQUES[recipe][0], "model": tiny_llama}
    tried = SURROUNDINGS if recipe in ONE_BY_ONE else {"all at once": all_at_once}
    loading_models._loaded.clear()
    plain = fresh(recipe, **given)
    for name, surroundings in tried.items():
        for loaded in (True, False) if recipe in ONE_BY_ONE else (False,):
            if not loaded:
                loading_models._loaded.clear()
            with surroundings():
                before = state_of_program()
                found = fresh(recipe, **given)
                after = state_of_program()
            for what, value in before.items():
                if what != "variables":  # the test's own cache is one of them
                    assert after[what] == value, (name, what)
            assert same_bits(found, plain), (
                f"{name}, {'loaded before' if loaded else 'loaded inside'}"
            )
    loading_models._loaded.clear()


def test_deterministic_algorithms_are_noted(fresh, tiny_llama):
    given = {"model": tiny_llama, "prompt": PROMPTS[0]}
    assert "deterministic" not in fresh("logit_lens", **given).provenance["record"]
    with deterministic():
        assert fresh("logit_lens", **given).provenance["record"]["deterministic"] is True


def expected_top(folder: Any, prompts: list[str]) -> dict[str, np.ndarray]:
    """The probability of the most probable token after each position, by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return {
            p: model(**tokenizer(p, return_tensors="pt"))
            .logits[0]
            .softmax(-1)
            .max(-1)
            .values.numpy()
            for p in prompts
        }


def test_threads_get_the_numbers_of_their_own_prompts(project, tiny, capsys):
    """Two models, two recipes, hits between them; of eight threads and of asyncio."""
    folders = [tiny("llama"), tiny("gpt2")]
    prompts = PROMPTS[:6]
    expected = {folder: expected_top(folder, prompts) for folder in folders}
    jobs = [
        (recipe, folder, prompt)
        for prompt in prompts
        for folder in folders
        for recipe in ("logit_lens", "attention_patterns")
    ] * 2
    random.Random(0).shuffle(jobs)
    stdout = sys.stdout

    def work(job: tuple[str, Any, str]) -> mi.Result:
        recipe, folder, prompt = job
        return mi.run(recipe, model=folder, prompt=prompt)

    async def both() -> list[mi.Result]:
        half = len(jobs) // 2
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(work, job) for job in jobs[:half]]
            found = await asyncio.gather(*(asyncio.to_thread(work, job) for job in jobs[half:]))
            return [f.result() for f in futures] + list(found)

    found = asyncio.run(both())
    for (recipe, folder, prompt), result in zip(jobs, found, strict=True):
        assert result.prompts[0]["clean"] == prompt and result.recipe["name"] == recipe
        if recipe == "logit_lens":
            np.testing.assert_allclose(
                result["top_prob"].values[-1, :, 0], expected[folder][prompt], atol=1e-5
            )
        else:
            np.testing.assert_allclose(result["pattern"].values.sum(-1), 1, atol=1e-5)
    assert sys.stdout is stdout
    print("still heard")
    assert "still heard" in capsys.readouterr().out
    lens = [r for (recipe, *_), r in zip(jobs, found, strict=True) if recipe == "logit_lens"]
    passes = {r.provenance["record"].get("forward_passes", 1) for r in lens}
    assert passes == {1}, "no run counts the passes of another"


def test_a_run_inside_of_a_run_is_refused(project, tiny_llama):
    (project / "nested.py").write_text(
        "from __future__ import annotations\nimport remote_mi as mi\n"
        "from remote_mi import recipe\n\n"
        '@recipe(over="prompt", returns={"x": ()})\ndef nested(lm, prompt):\n    """N."""\n'
        f"    mi.run('logit_lens', model={str(tiny_llama)!r}, prompt='Mary and John')\n"
        '    return {"x": 1.0}\n'
    )
    with pytest.raises(UsageError, match="a run was started inside a run"):
        mi.run("nested.py", model=tiny_llama, prompt="Mary and John")
    assert mi.run("logit_lens", model=tiny_llama, prompt="Mary and John")["kl"].shape


def test_a_run_that_fails_gives_its_turn_back(project, tiny_llama):
    text = (
        "from __future__ import annotations\nfrom remote_mi import recipe\n\n"
        '@recipe(over="prompt", returns={"x": ()})\ndef failing(lm, prompt):\n    """F."""\n'
        "    with lm.trace(input_ids=[prompt.ids]):\n        x = lm.layers[99].output\n"
        '    return {"x": x}\n'
    )
    (project / "failing.py").write_text(text)
    before = state_of_program()
    with pytest.raises(RunFailed):
        mi.run("failing.py", model=tiny_llama, prompt="Mary and John")
    after = state_of_program()
    assert {k for k in before if before[k] != after[k]} == set()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(mi.run, "logit_lens", model=tiny_llama, prompt="Mary and John")
        assert found.result(timeout=360)["kl"].shape


def test_whoever_waits_for_another_run_is_told(project, tiny_llama):
    from remote_mi.models.isolation import exclusive_model_use

    told, entered = [], threading.Event()

    class Watch:
        def stage(self, text: str) -> None:
            told.append(text)
            if "another run" in text:
                entered.set()

        def advance(self, done: int, total: int, unit: str) -> None: ...
        def note(self, text: str) -> None: ...

    with ThreadPoolExecutor(1) as pool:
        with exclusive_model_use():
            found = pool.submit(
                mi.run, "logit_lens", model=tiny_llama, prompt="Mary and Tom", watch=Watch()
            )
            assert entered.wait(60)
        assert found.result(timeout=360)["kl"].shape


HELPED = (
    "from __future__ import annotations\n"
    "from helpers import SCALE, double\nfrom remote_mi import recipe\n\n"
    '@recipe(over="prompt", returns={"x": ()})\ndef helped(lm, prompt):\n    """H."""\n'
    "    from helpers import later\n"
    '    return {"x": later(double(SCALE))}\n'
)
HELPERS = "SCALE = 2.0\ndef double(x):\n    return 2 * x\ndef later(x):\n    return x + 1\n"


def test_a_recipe_runs_with_its_own_modules_whatever_the_program_has_under_their_names(
    project, tiny_llama, monkeypatch
):
    """The key is made of the recipe's; so must the numbers be."""
    (project / "recipes").mkdir()
    (project / "recipes" / "helped.py").write_text(HELPED)
    (project / "recipes" / "helpers.py").write_text(HELPERS)
    own = type(sys)("helpers")
    own.SCALE, own.double, own.later = 100.0, float, float  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "helpers", own)
    path = list(sys.path)
    found = mi.run("helped", model=tiny_llama, prompt="Mary and John")
    assert float(found["x"]) == 5.0
    assert sys.modules["helpers"] is own and sys.path == path


def test_a_programs_own_import_is_not_answered_by_a_recipe(project, tiny_llama, monkeypatch):
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    for name in ("helpers", "steering"):
        (elsewhere / f"{name}.py").write_text("MINE = True\n")
    (project / "helped.py").write_text(HELPED)
    (project / "helpers.py").write_text(HELPERS)
    mi.run("logit_lens", model=tiny_llama, prompt="Mary and John")
    assert float(mi.run("helped.py", model=tiny_llama, prompt="Mary and John")["x"]) == 5.0
    monkeypatch.syspath_prepend(str(elsewhere))
    for name in ("helpers", "steering"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        assert __import__(name).MINE
        monkeypatch.delitem(sys.modules, name)


def test_two_recipes_may_have_different_modules_of_one_name(project, tiny_llama):
    for folder, scale in (("one", 2), ("two", 3)):
        (project / folder).mkdir()
        (project / folder / "helped.py").write_text(HELPED)
        (project / folder / "helpers.py").write_text(HELPERS.replace("2.0", f"{scale}.0"))
    for _ in range(2):
        for folder, expected in (("one", 5.0), ("two", 7.0)):
            found = mi.run(
                str(project / folder / "helped.py"), model=tiny_llama, prompt=f"Mary and {folder}"
            )
            assert float(found["x"]) == expected


def test_a_local_module_cannot_have_the_name_of_an_installed_one(project, tiny_llama):
    (project / "helped.py").write_text(HELPED.replace("helpers", "json"))
    (project / "json.py").write_text(HELPERS)
    with pytest.raises(UsageError, match="local module 'json' has the name of an installed one"):
        mi.run("helped.py", model=tiny_llama, prompt="Mary and John")


def test_the_libraries_report_again_after_a_run(project, tiny_llama, tmp_path, caplog):
    """A program that loads a model of its own sees which weights it lacks."""
    import transformers
    from safetensors.torch import load_file, save_file

    mi.run("logit_lens", model=tiny_llama, prompt="Mary and John")
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    for file in tiny_llama.iterdir():
        (lacking / file.name).write_bytes(file.read_bytes())
    weights = load_file(lacking / "model.safetensors")
    save_file(
        {n: t for n, t in weights.items() if "layers.1.mlp" not in n},
        lacking / "model.safetensors",
        metadata={"format": "pt"},
    )
    logger = logging.getLogger("transformers")
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    logger.addHandler(handler)
    try:
        transformers.AutoModelForCausalLM.from_pretrained(lacking)
    finally:
        logger.removeHandler(handler)
    assert "MISSING" in heard.getvalue()


def test_what_a_recipe_prints_is_the_programs_and_stays_out_of_json(
    project, tiny_llama, capsys, cli
):
    text = (
        "from __future__ import annotations\nfrom remote_mi import recipe\n\n"
        '@recipe(over="prompt", returns={"x": ()})\ndef talking(lm, prompt):\n    """T."""\n'
        '    print("from the body")\n    return {"x": 1.0}\n'
    )
    (project / "talking.py").write_text(text)
    mi.run("talking.py", model=tiny_llama, prompt="Mary and John")
    assert "from the body" in capsys.readouterr().out
    code, out, err = cli(
        "run", "talking.py", "--model", tiny_llama, "-p", "prompt=Mary and Tom", "--json"
    )
    assert code == 0 and out.startswith("{") and "from the body" in err


def test_every_refusal_of_threads_is_one_of_ours(project, tiny_llama):
    """Bad input among good, side by side: each gets its own answer."""
    asked = [
        ("logit_lens", {"prompt": "Mary and John"}),
        ("logit_lens", {"prompt": ""}),
        ("logit_lense", {"prompt": "Mary and John"}),
        ("activation_patching", {"prompt": "Mary and John"}),
    ] * 4

    def work(job: tuple[str, dict[str, str]]) -> Any:
        try:
            return mi.run(job[0], model=tiny_llama, **job[1])
        except RemoteMIError as error:
            return error.message

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, asked))
    for index, answer in enumerate(found):
        if index % 4 == 0:
            assert isinstance(answer, mi.Result)
        else:
            assert answer == found[index % 4]

"""A function of the project as metric: its numbers, its key, where it is kept, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import remote_mi as mi
from remote_mi.common.errors import NotFound, RemoteMIError, RunFailed, UsageError
from remote_mi.jobs.reproduction.verify import verify

from ...conftest import MARY, ROOT

MARGIN = '''"""How far the answer is above all other tokens."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi import metric
from sizes.scale import FACTOR


@metric(unit="nats", rises=True, differentiable=True)
def margin(logits: torch.Tensor, pair: Any) -> torch.Tensor:
    """The logit of the answer minus the largest other one."""
    own = torch.tensor([pair.answer], device=logits.device)
    others = logits.index_fill(1, own, -torch.inf)
    return FACTOR * (logits[:, pair.answer] - others.amax(-1))


@metric(unit="nats", rises=False, against_clean=True)
def divergence(logits: torch.Tensor, pair: Any, clean: torch.Tensor) -> torch.Tensor:
    """KL(clean run ‖ run)."""
    reference = clean.log_softmax(-1)
    return (reference.exp() * (reference - logits.log_softmax(-1))).sum(-1)


@metric(unit="nats")
def difference(logits: torch.Tensor, pair: Any) -> torch.Tensor:
    return logits[:, pair.answers].mean(-1) - logits[:, pair.wrongs].mean(-1)


@metric(differentiable=False)
def first(logits: torch.Tensor, pair: Any) -> torch.Tensor:
    return (logits.argmax(-1) == pair.answer).float()
'''

PAIRS = [
    {k: v.replace("store", word) for k, v in MARY.items()} for word in ("store", "park", "car")
]


def write(project: Path, text: str = MARGIN, name: str = "margins.py") -> str:
    (project / "sizes").mkdir(exist_ok=True)
    (project / "sizes" / "scale.py").write_text("FACTOR = 2.0\n")
    (project / name).write_text(text)
    return name


def run(recipe: str, model: Path, metric: str, **given: Any) -> Any:
    return mi.run(
        recipe, pairs=given.pop("pairs", [MARY]), model=str(model), metric=metric, **given
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_patching_measures_what_plain_hooks_measure(project, tiny, family):
    folder = tiny(family)
    found = run("activation_patching", folder, f"{write(project)}:margin", site="resid_post")
    plain: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    clean, corrupt = (
        tokenizer(MARY[name], return_tensors="pt")["input_ids"] for name in ("clean", "corrupt")
    )
    (answer,) = tokenizer(MARY["answer"], add_special_tokens=False)["input_ids"]
    layers = plain.transformer.h if family == "gpt2" else plain.model.layers

    def margin(ids: torch.Tensor) -> float:
        with torch.no_grad():
            end = plain(ids).logits[0, -1].double()
        return 2 * float(end[answer] - torch.cat([end[:answer], end[answer + 1 :]]).max())

    kept = []
    hook = layers[1].register_forward_hook(lambda _m, _a, out: kept.append(out))
    wanted = {"clean": margin(clean), "corrupt": margin(corrupt)}
    hook.remove()
    for name, number in wanted.items():
        assert float(found[name].values) == pytest.approx(number, abs=1e-4)
    place = int((clean != corrupt).nonzero()[0, 1])

    def patch(_module, _arguments, out):
        new = out.clone()
        new[:, place] = kept[0][:, place]
        return new

    hook = layers[1].register_forward_hook(patch)
    effect = margin(corrupt) - wanted["corrupt"]
    hook.remove()
    assert found["effect"].values[1, place] == pytest.approx(effect, abs=1e-4)


@pytest.mark.parametrize(
    "recipe, given",
    [
        ("ablation", {"kind": "zero"}),
        ("attribution_patching", {}),
        ("head_attribution", {}),
        ("integrated_gradients", {"steps": 4}),
        ("steering", {"steps": 2, "coefficients": [1.0], "folds": 2}),
    ],
)
@pytest.mark.parametrize("own, same", [("difference", "logit_diff"), ("divergence", "kl")])
def test_it_gives_what_the_same_metric_of_the_kit_gives(
    project, tiny_llama, recipe, given, own, same
):
    if recipe == "integrated_gradients" and own == "divergence":
        pytest.skip("its integral begins where the divergence has no gradient")
    given = {**given, "pairs": PAIRS if recipe == "steering" else [MARY]}
    ours = run(recipe, tiny_llama, f"{write(project)}:{own}", **given)
    other = run(recipe, tiny_llama, same, **given)
    for name in ours.names():
        if name in ours.arrays:
            near = {"atol": 1e-5, "rtol": 1e-4, "equal_nan": True}
            np.testing.assert_allclose(ours[name].values, other[name].values, **near)


def test_a_lens_over_prompts_gives_its_prompt(project, tiny_llama):
    """In a recipe over prompts, the second argument is the prompt, with its target."""
    (project / "recipes").mkdir()
    (project / "recipes" / "ends.py").write_text(
        "from __future__ import annotations\nfrom typing import Any\n"
        "from remote_mi import recipe\n"
        "from remote_mi.interventions import Metric, Prompt, measure, run\n\n"
        '@recipe(over="prompt", returns={"end": ()})\n'
        'def ends(lm: Any, prompt: Prompt, *, metric: Metric = "logit") -> dict[str, Any]:\n'
        '    """The end of a run."""\n'
        '    return {"end": measure(lm, metric, prompt)(run(lm, prompt).hidden)[0]}\n'
    )
    text = MARGIN.replace("pair.answers", "[pair.target]").replace("pair.wrongs", "[7]")
    write(project, text)
    asked: dict[str, Any] = {
        "prompt": MARY["clean"],
        "target": MARY["answer"],
        "model": str(tiny_llama),
    }
    found = mi.run("ends", metric="margins.py:difference", **asked)
    logit = mi.run("ends", metric="logit", **asked)
    other = mi.run("ends", metric="logit", **{**asked, "target": " store"})
    assert float(found["end"].values) != float(logit["end"].values) != float(other["end"].values)


def test_its_source_is_in_the_key_and_its_place_is_not(project, tiny_llama):
    def key(metric: str) -> str:
        return mi.job("ablation", pairs=[MARY], model=str(tiny_llama), metric=metric).key

    before = key(f"{write(project)}:margin")
    assert key(f"{write(project, MARGIN, 'others.py')}:margin") == before
    assert key(f"{project / 'margins.py'}:margin") == before
    commented = MARGIN.replace("    own =", "    # the answer's\n    own =")
    assert key(f"{write(project, commented)}:margin") == before
    assert key("margins.py:divergence") != before != key("logit_diff")
    assert key(f"{write(project, MARGIN.replace('amax', 'mean'))}:margin") != before
    write(project)
    (project / "sizes" / "scale.py").write_text("FACTOR = 3.0\n")
    assert key("margins.py:margin") != before


def test_a_run_keeps_it_and_is_computed_again_from_its_folder_alone(
    project, cache, cli, tmp_path, tiny_llama
):
    result = run("activation_patching", tiny_llama, f"{write(project)}:margin")
    assert result.provenance["parameters"]["metric"] == "margins.py:margin"
    kept = {p.relative_to(result.path / "source").as_posix() for p in result.path.rglob("*.py")}
    assert kept == {"activation_patching.py", "margins.py", "sizes/scale.py"}
    assert verify(result.path).holds
    folder = tmp_path / "handed-in" / result.path.name
    shutil.copytree(result.path, folder)
    for gone in ("margins.py", "sizes/scale.py"):
        (project / gone).unlink()
    shutil.rmtree(cache)
    found: Any = mi.reproduce(folder)
    assert found.matches and found.comparison.worst.relative == 0 and not found.notes
    (folder / "source" / "margins.py").unlink()
    assert not verify(folder).holds


def test_its_direction_is_that_of_the_verdict(project, tiny_llama):
    name = write(project)
    pairs: dict[str, Any] = {"pairs": PAIRS, "model": str(tiny_llama)}
    falls = mi.run("activation_patching", metric=f"{name}:divergence", **pairs)
    assert falls.verdict is not None and falls.verdict.falls
    neither = MARGIN.replace("rises=False", "rises=None")
    found = mi.run("activation_patching", metric=f"{write(project, neither)}:divergence", **pairs)
    assert found.verdict is None


def test_a_command_a_phenomenon_and_a_study_take_it(project, cli, tiny_llama):
    name = write(project)
    code, _, err = cli(
        *("run", "ablation", "--model", tiny_llama, "--phenomenon", "ioi:store", "-n", 1),
        *("--metric", f"{name}:margin"),
    )
    assert code == 0, err
    (project / "recipes" / "phenomena").mkdir(parents=True)
    text = (ROOT / "recipes" / "phenomena" / "ioi.yaml").read_text()
    own = text.replace("name: ioi", "name: mine")
    own = own.replace("metric: logit_diff", f"metric: {name}:margin")
    assert f"{name}:margin" in own
    (project / "recipes" / "phenomena" / "mine.yaml").write_text(own)
    code, _, err = cli("run", "ablation", "--model", tiny_llama, "--phenomenon", "mine", "-n", 1)
    assert code == 0 and "metric=margins.py:margin" in err + cli("runs", "ls")[1]
    (project / "study.yaml").write_text(
        f"study: margins\nmodels: [{tiny_llama}]\nphenomena: [{{name: ioi, n: 1}}]\n"
        f"recipes:\n  - ablation: {{metric: [logit_diff, '{name}:margin']}}\n"
    )
    code, _, err = cli("study", "run", "study.yaml")
    assert code == 0, err


DECLARED = "from remote_mi import metric\n@metric(unit='nats')\ndef m(logits, pair):\n"


@pytest.mark.parametrize(
    "text, metric, error, said",
    [
        (None, "gone.py:m", NotFound, "there is no file gone.py"),
        (DECLARED + "    ...", "m.py:margn", NotFound, "m.py has no function 'margn'"),
        ("def m(logits, pair): ...", "m.py:m", UsageError, "m.py:1: m is not declared as a metric"),
        (DECLARED.replace("'nats'", "3"), "m.py:m", UsageError, "syntax error"),
        (
            DECLARED.replace("'nats'", "3") + "    ...",
            "m.py:m",
            UsageError,
            "@metric takes no unit=3",
        ),
        (DECLARED.replace(", pair", "") + "    ...", "m.py:m", UsageError, r"takes \(logits\)"),
        (
            "import scipy.stats\n" + DECLARED + "    ...",
            "m.py:m",
            UsageError,
            "m.py:1: a metric cannot import scipy.stats",
        ),
        ("import torch\n" + DECLARED + "    ...", "m.py", UsageError, "is not one of logit_diff"),
        (DECLARED + "    return 1.0", "m.py:m", RunFailed, "returned float, not a tensor"),
        (
            DECLARED + "    return logits",
            "m.py:m",
            RunFailed,
            r"the shape \[\d+, \d+\] for \d+ rows",
        ),
        (
            DECLARED + "    return logits[:, 0] * float('nan')",
            "m.py:m",
            RunFailed,
            "gave NaN, which is not a number",
        ),
        (
            DECLARED + "    return logits[:, 10**6]",
            "m.py:m",
            RunFailed,
            "m.py:m failed: IndexError",
        ),
        (
            DECLARED + "    return logits[:, 0].detach()",
            "m.py:m",
            RunFailed,
            "m.py:m has no gradient",
        ),
        (
            DECLARED.replace("unit='nats'", "differentiable=False") + "    return logits[:, 0]",
            "m.py:m",
            UsageError,
            "m.py:m is declared without a gradient, and recipe 'attribution_patching' needs one",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(project, tiny_llama, text, metric, error, said):
    if text is not None:
        (project / "m.py").write_text(text)
    with pytest.raises(RemoteMIError, match=said) as refused:
        run("attribution_patching", tiny_llama, metric)
    assert type(refused.value) is error and refused.value.hint
    assert "\n" not in refused.value.message

"""What is checked before a job is sent: mistakes are located, and a right recipe is never refused."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from remote_mi.backends.base import Work
from remote_mi.backends.ndif.source_checks import check_source, raise_mistakes
from remote_mi.common.errors import RunFailed, UsageError
from remote_mi.interventions import Pair, Prompt
from remote_mi.recipes import catalog, loading
from remote_mi.recipes.declaration import card_of
from tests.conftest import ROOT

#: As the server's /env names them.
SERVER = {"torch": "2.13.0", "nnsight": "0.8.1", "numpy": "2.4.0", "yaml": "6.0", "py-spy": "0.4"}
HEAD = """\
from __future__ import annotations

from typing import Any

import torch
{imports}
from remote_mi.interventions import run
from remote_mi import recipe
{top}

@recipe(over="{over}", returns={{"x": {dims}}}, needs={needs})
def probe(lm: Any, prompt: Any, *, k: int = 1) -> dict[str, Any]:
    ids = torch.tensor([prompt.ids])
"""


def written(folder: Path, body: str, imports="", top="", over="prompt", dims="()", needs="[]"):
    """A recipe file with this body: (card, function)."""
    head = HEAD.format(imports=imports, top=top, over=over, dims=dims, needs=needs)
    path = folder / "probe.py"
    path.write_text(head + textwrap.indent(textwrap.dedent(body), "    "))
    card = catalog.find(str(path), folder)
    return card, loading.load_function(card, folder)


def line_of(path: Path, text: str) -> int:
    """The number of the only line that has a text."""
    found = [n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line]
    assert len(found) == 1
    return found[0]


def found_in(folder: Path, body: str, **parts: str):
    card, function = written(folder, body, **parts)
    return card, check_source(card, function, folder, SERVER)


@pytest.mark.parametrize(
    "call, said",
    [
        ("lm.backbone.trace(input_ids=ids, remote=True)", "remote="),
        ("lm.backbone.trace(input_ids=ids, remote='local')", "remote="),
        ("lm.session(remote=bool(k))", "remote="),
        ("lm.session(backend=k)", "backend="),
        ("lm.session(k)", "backend="),
    ],
)
def test_a_block_that_would_submit_itself_is_found(tmp_path, call, said):
    card, findings = found_in(tmp_path, f"with {call}:\n    x = 1\nreturn {{'x': x}}\n")
    assert [f.line for f in findings] == [line_of(card.path, call)]
    assert said in findings[0].problem and "--backend" in findings[0].fix
    with pytest.raises(UsageError, match=rf"probe\.py:{findings[0].line}: {said}"):
        raise_mistakes(findings)


def test_remote_false_is_nothing(tmp_path):
    _, findings = found_in(tmp_path, "with lm.trace(ids, remote=False, backend=None):\n    x = 1\n")
    assert findings == []


@pytest.mark.parametrize(
    "change",
    [
        "KEPT.append(1)",
        "TABLE['a'] = 1",
        "TABLE['a'].extend([1])",
        "del TABLE['a']",
        "TABLE.update(a=1)",
        "SEEN.add(k)",
        "TOTAL.add_(1)",
        "TOTAL[0] += 1",
        "probe.count = 1",
        "prompt.ids.append(3)",
        "prompt.positions['end'] = 0",
        "prompt.target = 3",
    ],
)
def test_a_change_of_what_lies_outside_is_found(tmp_path, change):
    top = "\nKEPT = []\nTABLE = {}\nSEEN = set()\nTOTAL = torch.zeros(2)\n"
    body = f"with lm.trace(ids):\n    {change}\nreturn {{'x': 1}}\n"
    card, findings = found_in(tmp_path, body, top=top)
    assert [f.line for f in findings] == [line_of(card.path, change)]
    assert "chang" in findings[0].problem


def test_setting_a_global_is_found(tmp_path):
    body = "global COUNT\nCOUNT = k\nreturn {'x': COUNT}\n"
    card, findings = found_in(tmp_path, body, top="\nCOUNT = 0\n")
    assert [(f.line, f.problem) for f in findings] == [
        (line_of(card.path, "global COUNT"), "it sets the global 'COUNT'")
    ]


def test_what_a_function_builds_itself_may_be_changed(tmp_path):
    body = """
        kept, table, prompt.__class__ = [], {}, None
        with lm.trace(ids):
            kept.append(lm.layers[0].output)
            table["a"] = 1
            lm.layers[0].output[:] = 0
        def inner(x):
            nonlocal ids
            ids = x
            kept.append(x)
            collect(kept, x)
        inner(torch.add(ids, NAMES.index("a")))
        return {"x": sorted(NAMES)}
    """.replace(", prompt.__class__ = [], {}, None", " = [], {}")
    top = '\nNAMES = ["a"]\n\ndef collect(into, x):\n    into.append(x)\n    into[0] = x\n'
    assert found_in(tmp_path, body, top=top)[1] == []


def test_a_package_that_the_server_lacks_is_found_where_it_is_used(tmp_path):
    body = """
        import math
        import pandas as pd
        import yaml
        try:
            import einops
        except ImportError:
            einops = None
        frame: Any = stats.norm
        return {"x": float(frame.cdf(k))}
    """
    card, findings = found_in(
        tmp_path,
        body,
        imports="import rich\nfrom scipy import stats\nfrom rich import print as show",
    )
    assert [(f.line, f.problem.split()[0]) for f in findings] == [
        (line_of(card.path, "import pandas"), "pandas"),
        (line_of(card.path, "stats.norm"), "scipy"),
    ]
    assert all("after the run" in f.fix for f in findings)
    with pytest.raises(UsageError) as refused:
        raise_mistakes(findings)
    assert all(f"{f.path}:{f.line}: {f.problem}" in str(refused.value) for f in findings)
    assert check_source(card, loading.load_function(card, tmp_path), tmp_path, {}) == []


def test_a_package_is_known_by_the_name_of_its_distribution_too(tmp_path):
    card, function = written(tmp_path, "return {'x': Group}\n", imports="from click import Group")
    assert check_source(card, function, tmp_path, SERVER)
    assert not check_source(card, function, tmp_path, {**SERVER, "Click": "8"})


def test_local_modules_are_looked_into_as_far_as_they_travel(tmp_path):
    (tmp_path / "_tools_pf.py").write_text(
        "import rich\nimport yaml\n\nSEEN = []\n\ndef used(x):\n    SEEN.append(x)\n    return x\n\n"
        "def unused():\n    return rich\n"
    )
    body = "return {'x': used(1)}\n"
    _, findings = found_in(tmp_path, body, imports="from _tools_pf import used")
    assert [(Path(f.path).name, f.line) for f in findings] == [("_tools_pf.py", 7)]
    # Named as a whole, a module travels as a whole: with all that it has imported.
    _, findings = found_in(
        tmp_path, "return {'x': _tools_pf.used(1)}\n", imports="import _tools_pf"
    )
    assert {(Path(f.path).name, f.line, f.problem.split()[0]) for f in findings} >= {
        ("_tools_pf.py", 1, "rich"),
        ("_tools_pf.py", 7, "it"),
    }


def test_an_own_module_is_imported_at_the_top_of_the_file(tmp_path):
    (tmp_path / "_late_pf.py").write_text("ONE = 1\n")
    card, findings = found_in(tmp_path, "from _late_pf import ONE\nreturn {'x': ONE}\n")
    assert [(f.line, "top of the file" in f.fix) for f in findings] == [
        (line_of(card.path, "_late_pf"), True)
    ]


def test_built_in_recipes_and_those_of_the_guide_pass(tmp_path):
    guide = (ROOT / "docs" / "writing-recipes.md").read_text()
    (tmp_path / "recipes").mkdir()
    for name, text in re.findall(r"file (recipes/\S+) -->\n```python\n(.*?)```", guide, re.S):
        (tmp_path / name).write_text(text)
    cards = catalog.all_cards(tmp_path)
    assert {"mlp_mean_ablation", "stream_length", "logit_lens"} <= {card.name for card in cards}
    for card in cards:
        function = loading.load_function(card, tmp_path)
        assert check_source(card, function, tmp_path, {"torch": "2"}) == []


def test_annotations_stay_at_home(tmp_path):
    card, function = written(tmp_path, "return {'x': 1}\n")
    source = card.path.read_text().replace("from __future__ import annotations\n", "")
    card.path.write_text(
        source.replace("remote_mi import recipe", "remote_mi import Range, recipe")
        .replace("typing import Any", "typing import Annotated, Any")
        .replace("k: int", "k: Annotated[int, Range(1, 3)]")
    )
    function = loading.load_function(card, tmp_path)
    assert check_source(card, function, tmp_path, SERVER) == []


def test_a_function_of_a_cell_is_checked_by_its_own_lines(tmp_path):
    kept: list[int] = []
    from remote_mi import recipe

    @recipe(over="prompt", returns={"x": ()})
    def live(lm, prompt):
        kept.append(1)
        return {"x": 1}

    (finding,) = check_source(card_of(live), live, tmp_path, SERVER)
    assert "enclosing function" in finding.problem
    assert finding.line == live.__code__.co_firstlineno + 2


# --- the dry run ----------------------------------------------------------------------------------


def weightless(folder: Path):
    from remote_mi.models.load import LoadedModel
    from remote_mi.models.spec import ModelSpec
    from remote_mi.models.wrap import nnsight_model

    lm = nnsight_model(ModelSpec(str(folder)), str(folder), with_weights=False, device="meta")
    return LoadedModel(lm, lm.tokenizer, 64, {})


@pytest.fixture(scope="module")
def llama(tiny):
    return weightless(tiny("llama"))


def prompt(ids: list[int], target: int | None = None) -> Prompt:
    return Prompt(ids, {"end": len(ids) - 1}, target)


FIRST, SHORT = list(range(5, 19)), list(range(5, 12))
CALLS = {
    "prompt": [prompt(FIRST), prompt(SHORT, 4), prompt([7, *FIRST[1:]])],
    "pair": [
        Pair(prompt(FIRST), prompt([*FIRST[:9], 33, *FIRST[10:]]), 7, 8),
        Pair(prompt(SHORT), prompt(SHORT), 7, 8),
        Pair(prompt(FIRST), prompt([40, *FIRST[1:]]), 7, 8),
    ],
}


def expected(model, card, function, calls=None, **parameters):
    from remote_mi.backends.dry_run import expected_outputs

    calls = calls or CALLS[card.over][:1]
    return expected_outputs(model, Work(card, function, calls, card.resolve(parameters), "key"))


@pytest.mark.parametrize("family", ("llama", "gpt2", "neox-parallel", "gemma2", "qwen3-moe"))
def test_a_dry_run_knows_what_a_real_run_returns(tiny, tmp_path, family):
    from remote_mi.backends.session import run_session
    from remote_mi.common.progress import Silent
    from remote_mi.models.load import load
    from remote_mi.models.spec import ModelSpec

    model, real = weightless(tiny(family)), load(ModelSpec(str(tiny(family))), Silent())
    for name in ("activation_patching", "head_patching", "logit_lens"):
        card = catalog.find(name, tmp_path)
        function = loading.load_function(card, tmp_path)
        calls = CALLS[card.over]
        returned = run_session(real.lm, Work(card, function, calls, card.resolve({}), "key"))
        found = expected(model, card, function, calls)
        assert found.outputs == [
            {k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in one.items()}
            for one in returned
        ]
        assert found.bytes == sum(v.nbytes for one in returned for v in one.values())
    assert all(p.is_meta and type(p).__name__ == "Parameter" for p in model.lm._module.parameters())


TRACE = "with lm.backbone.trace(input_ids=ids, use_cache=False):\n    "


@pytest.mark.parametrize(
    "body, at, said",
    [
        (TRACE + "x = lm.layers[0].self_atn.output\n", "self_atn", "AttributeError"),
        (TRACE + "x = lm.layers[9].output\n", "layers[9]", "AttributeError"),
        (
            TRACE + "x = lm.layers[2].output\n    y = lm.layers[0].output\n",
            "layers[0]",
            "OutOfOrderError",
        ),
        (TRACE + "x = lm.layers[0].output @ torch.ones(5, 5)\n", "torch.ones", "RuntimeError"),
        (TRACE + "x = lm.layers[0].output.view(-1, 5)\n", "view", "RuntimeError"),
        (TRACE + "x = lm.layers[0].output\ny = x + missing\n", "missing", "NameError"),
        (TRACE + "x = lm.layers[0].output\ny = prompt.positions['s2']\n", "s2", "KeyError"),
        ("x = lm.layers[0].output\n", "lm.layers", "ValueError"),
        ("x = torch.softmax(ids)\n", "softmax", "TypeError"),
        (TRACE + "raise SystemExit(0)\n", "SystemExit", "sys.exit(0) would end"),
    ],
)
def test_a_mistake_is_found_without_weights(llama, tmp_path, body, at, said):
    card, function = written(tmp_path, body + "return {'x': x.sum()}\n")
    with pytest.raises(RunFailed) as failed:
        expected(llama, card, function)
    assert f"probe.py:{line_of(card.path, at)}: {said}" in str(failed.value)


@pytest.mark.parametrize(
    "body, said",
    [
        ("return {}\n", "did not return 'x'"),
        ("return {'x': 1, 'y': 1}\n", "returned 'y', which it does not declare"),
        ("return {'x': run(lm, prompt, 'resid_post').values}\n", r"has shape \(3, 1, 14, 32\)"),
        ("return {'x': 'text'}\n", "not an array of numbers"),
        ("return {'x': [ids, ids[:, :2]]}\n", "not an array of numbers"),
        ("return run(lm, prompt, 'resid_post').values\n", "returned list"),
    ],
)
def test_outputs_are_checked_without_weights(llama, tmp_path, body, said):
    card, function = written(tmp_path, body)
    with pytest.raises(RunFailed, match=said):
        expected(llama, card, function)


@pytest.mark.parametrize(
    "body",
    [
        "return {'x': x.sum().item()}\n",
        "return {'x': int(x.argmax())}\n",
        "if x.sum() > 0:\n    return {}\nreturn {'x': 1}\n",
        "return {'x': x[x > 0].sum()}\n",
        "return {'x': x.tolist()[0]}\n",
        "return {'x': float(x.numpy().sum())}\n",
        "return {'x': torch.linalg.eigvals(x[:, :14]).nonzero().sum()}\n",
    ],
)
def test_what_depends_on_numbers_is_not_known_and_not_refused(llama, tmp_path, body):
    card, function = written(tmp_path, "x = run(lm, prompt, 'resid_post').values[-1][0]\n" + body)
    found = expected(llama, card, function)
    assert (found.outputs, found.bytes) == (None, None)
    assert f"probe.py:{line_of(card.path, body.splitlines()[0])} " in found.reason


@pytest.mark.parametrize("need", ["gradients", "generation"])
def test_gradients_and_generation_are_not_followed(llama, tmp_path, need):
    card, function = written(tmp_path, "return {}\n", needs=f"['{need}']")
    found = expected(llama, card, function)
    assert (found.outputs, found.bytes) == (None, None) and found.reason


def test_a_dry_run_ends_in_time_and_is_remembered(llama, tmp_path, monkeypatch):
    from remote_mi.backends import dry_run

    card, function = written(
        tmp_path, "return {'x': run(lm, prompt, 'resid_post').values[-1].sum()}\n"
    )
    work = Work(card, function, CALLS["prompt"], card.resolve({}), "key")
    assert dry_run.expected_outputs(llama, work, budget=0).reason == dry_run.DryRunTimeout.reason
    found = dry_run.expected_outputs(llama, work)
    assert found.to_json() == {"outputs": [{"x": [[], "float32"]}] * 3, "bytes": 12, "reason": ""}
    monkeypatch.setattr(dry_run, "run_session", lambda *_: pytest.fail("it is run again"))
    assert dry_run.expected_outputs(llama, work) == found
    other = Work(card, function, CALLS["prompt"], card.resolve({"k": 2}), "key")
    with pytest.raises(RunFailed, match="Failed is not an Exception"):  # by `pytest.fail`
        dry_run.expected_outputs(SimpleNamespace(lm=llama.lm), other)

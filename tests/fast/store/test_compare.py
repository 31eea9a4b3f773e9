"""Two results held against each other: what differs in how they were made, and in their numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import remote_mi as mi
from remote_mi.common.errors import NotFound
from remote_mi.report.comparison import plain_text
from remote_mi.store.result import Result

from ...conftest import MARY

PROMPT = "When Mary and John went to the store"


def lens(model, prompt=PROMPT, **more):
    return mi.run(
        "logit_lens", model=mi.ModelSpec(str(model), **more.pop("spec", {})), prompt=prompt, **more
    )


def patching(model, **more):
    return mi.run("head_patching", model=str(model), **{**MARY, **more})


def changed(result, **arrays):
    """The result with some arrays put in place of its own."""
    return Result(result.recipe, result.document, {**result.arrays, **arrays}, result.provenance)


def of(comparison, name, each=False):
    return next(d for d in comparison.outputs if d.name == name and d.each == each)


def test_a_run_compared_with_itself_differs_in_nothing(project, tiny_llama):
    result = lens(tiny_llama)
    found = mi.compare(result, result.run_id)
    assert found.configuration == [] and found.prompts.equal
    assert {d.name for d in found.outputs} == set(result.names())
    assert all(d.relative == 0 and d.cells > 0 for d in found.outputs)
    assert found.within(0) and "nothing differs" in repr(found)
    assert "<pre" in found._repr_html_()


def test_parameter_dtype_model_and_prompt_are_named_where_they_differ(project, tiny, tiny_llama):
    plain = lens(tiny_llama)
    for other, expected in (
        (lens(tiny_llama, top=3), {"parameters.top"}),
        (lens(tiny_llama, spec={"dtype": "bfloat16"}), {"model.dtype", "computed.dtype"}),
        (lens(tiny("gpt2")), {"model.name", "model.content", "computed.architecture"}),
        (lens(tiny_llama, PROMPT.replace("John", "Mary")), set()),
    ):
        found = mi.compare(plain, other)
        assert {s.path for s in found.configuration} == expected
        assert found.prompts.equal == bool(expected)
    assert found.prompts.first["fields"]["clean"] == [PROMPT, PROMPT.replace("John", "Mary")]
    assert "prompt 1, clean" in plain_text(found)


def test_what_cannot_be_compared_says_why_and_is_beyond_every_tolerance(project, tiny_llama):
    plain = lens(tiny_llama)
    longer = mi.compare(plain, lens(tiny_llama, PROMPT + " and"))
    assert of(longer, "kl").why_not == "position: 8 and 9"
    other = mi.compare(plain, lens(tiny_llama, PROMPT.replace("John", "Mary")))
    assert of(other, "kl").why_not == "position 3 is ' John' and ' Mary'"
    two = mi.run(
        "logit_lens", model=str(tiny_llama), pairs=[{"prompt": PROMPT, "template": "t"}] * 2
    )
    fewer = mi.compare(plain, two)
    assert of(fewer, "kl", each=True).why_not == "1 and 2 prompts"
    assert of(fewer, "kl").relative < 1e-6, "the means of equal prompts can still be compared"
    assert of(fewer, "top_token").why_not == "only a has a value over all prompts"
    for found in (longer, other, fewer):
        assert not found.within(1e9) and "not comparable" in plain_text(found)
    json.dumps([longer.to_json(), fewer.to_json()], allow_nan=False)


@pytest.mark.parametrize(
    "scale, gap, tolerance, within",
    [
        (0.01, 0.9e-3, 1e-3, True),  # absolute below 1
        (0.01, 1.1e-3, 1e-3, False),
        (50.0, 0.04, 1e-3, True),  # relative to the largest value above it
        (50.0, 0.06, 1e-3, False),
    ],
)
def test_a_tolerance_is_absolute_below_one_and_relative_above(
    project, tiny_llama, scale, gap, tolerance, within
):
    plain = patching(tiny_llama)
    values = np.zeros_like(plain.arrays["effect"])
    values[0, 0] = -scale
    moved = values.copy()
    moved[2, 1] = gap
    found = mi.compare(changed(plain, effect=values), changed(plain, effect=moved))
    effect = of(found, "effect")
    assert found.within(tolerance) is within
    assert (effect.largest, effect.scale) == (pytest.approx(gap), pytest.approx(scale))
    assert effect.index == (2, 1) and effect.coords == {"layer": 2, "head": 1}
    assert effect.mean == pytest.approx(gap / values.size) and effect.differing == 1


def test_nan_and_infinities_must_be_at_the_same_places(project, tiny_llama):
    plain = patching(tiny_llama)
    holed = plain.arrays["effect"].copy()
    holed[0, :2] = np.nan, np.inf
    same = mi.compare(changed(plain, effect=holed), changed(plain, effect=holed.copy()))
    assert same.within(0) and of(same, "effect").nan == (1, 1)
    less = mi.compare(changed(plain, effect=holed), plain)
    assert of(less, "effect").unmatched == 2 and not less.within(1e9)
    json.dumps(less.to_json(), allow_nan=False)
    assert "not finite in one" in plain_text(less)


def test_token_ids_count_the_cells_that_differ(project, tiny_llama):
    plain = lens(tiny_llama)
    tokens = plain.arrays["top_token"].copy()
    tokens[1, 2, 0] += 1
    other = mi.compare(plain, changed(plain, top_token=tokens))
    found = of(other, "top_token")
    assert (found.differing, found.cells) == (1, tokens.size) and found.index == (1, 2, 0)
    assert not other.within(0.5 / tokens.size) and other.within(1 / tokens.size)
    assert f"1 of {tokens.size} tokens differ" in plain_text(other)


def test_a_difference_within_one_prompt_is_found_though_the_means_agree(project, tiny_llama):
    plain = mi.run("head_patching", model=str(tiny_llama), phenomenon="ioi:store", n=2)
    values = plain.arrays["effect@1"].copy()
    values[1, 3] += 2.0
    found = mi.compare(plain, changed(plain, **{"effect@1": values}))
    assert of(found, "effect").largest == 0
    one = of(found, "effect", each=True)
    assert (one.prompt, one.index) == (1, (1, 3)) and one.largest == pytest.approx(2.0)


def test_both_figures_have_one_scale(project, tiny_llama):
    plain = patching(tiny_llama, control_draws=0)
    larger = changed(plain, recovery=plain.arrays["recovery"] * 10)
    alone = plain_text(mi.compare(plain, plain)).split("identical ─")[-1]
    text = plain_text(mi.compare(plain, larger))
    small, rest = text.split("recovery: a ─")[1].split("recovery: b ─")
    large, difference = rest.split("b − a ─")
    grids = [t.split("▸")[0].replace("─", "") for t in (alone, small, large, difference)]
    full = ["█" in grid for grid in grids]
    assert full == [True, False, True, True], text
    assert max(map(len, text.splitlines())) <= 80


def test_the_command_exits_with_7_beyond_the_tolerance_and_names_the_output(
    project, cli, tiny_llama
):
    a, b = lens(tiny_llama), lens(tiny_llama, spec={"dtype": "bfloat16"})
    code, out, err = cli("compare", a.run_id[-8:], b.run_id)
    assert code == 0 and "model.dtype" in out and "next:" in err
    assert max(map(len, out.splitlines())) <= 80
    code, out, err = cli("compare", a.path, b.path, "--tolerance", "1e-7", "--only", "kl")
    assert code == 7 and "tolerance of 1e-07: kl" in err and "top_prob" not in out
    code, out, err = cli("compare", a.path, b.path, "--tolerance", "1e-7", "--json")
    data = json.loads(out)
    assert code == 7 and data["schema"] == 1 and data["within"] is False
    assert {"path": "model.dtype", "a": "auto", "b": "bfloat16"} in data["configuration"]
    assert cli("compare", a.run_id, a.run_id, "--tolerance", "0")[0] == 0
    assert cli("compare", a.run_id, "nothing")[0] == 3
    code, _, err = cli("compare", a.run_id, b.run_id, "--only", "kll")
    assert code == 3 and "did you mean 'kl'" in err


def test_a_backend_in_place_of_b_takes_the_result_that_is_there(project, cli, tiny_llama):
    a = lens(tiny_llama)
    code, out, err = cli("compare", a.run_id, "local", "--tolerance", "0")
    assert code == 0 and "nothing differs" in out and "loading" not in err
    assert len(list((project / "runs").glob("*-logit_lens-*"))) == 1
    assert cli("compare", a.run_id, "ndif:http://127.0.0.1:9", "--timeout", "5")[0] in (2, 4, 5)


def test_text_of_a_run_is_shown_and_never_obeyed(project, cli, tiny_llama):
    evil = "When\x1b]0;mine\x07 Mary"
    a, b = lens(tiny_llama, evil), lens(tiny_llama, "When\x1b[2J John")
    code, out, err = cli("compare", a.run_id, b.run_id)
    assert code == 0 and "\x1b" not in out + err and "␛" in out


def test_comparing_imports_no_torch(project, tiny_llama):
    run = lens(tiny_llama).run_id
    script = (
        "import sys\nfrom remote_mi.cli.main import run_command\n"
        "code = run_command(sys.argv[1:])\n"
        "heavy = [m for m in ('torch', 'transformers', 'nnsight', 'scipy') if m in sys.modules]\n"
        "assert code == 0, code\nassert not heavy, heavy\n"
    )
    for command in (["compare", run, run], ["reproduce", run, "--verify-only"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *command],
            capture_output=True,
            text=True,
            timeout=240,
            env=os.environ,
        )
        assert done.returncode == 0, done.stderr


def test_an_unknown_run_is_refused_with_the_way_to_the_list(project, tiny_llama):
    lens(tiny_llama)
    with pytest.raises(NotFound, match="runs ls"):
        mi.compare("zzzz", "zzzz")

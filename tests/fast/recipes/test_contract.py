"""What a recipe may declare: over what it is called, draws, controls, analyses, coordinates."""

from __future__ import annotations

import json

import numpy as np
import pytest

import remote_mi as mi
from remote_mi.common.errors import RunFailed, UsageError
from remote_mi.report.terminal import plain_text

HEAD = """
from __future__ import annotations
from typing import Any
import torch
from remote_mi import Bars, Heatmap, Lines, Table, Text
from remote_mi.interventions import Pair, Prompt, PromptText, run
from remote_mi import Ratio, Tokens, recipe
"""
PAIRS = [
    {
        "clean": "When Mary and John went to the store",
        "corrupt": "When Mary and Tom went to the store",
        "answer": " Mary",
        "wrong": " John",
        "label": "a",
        "group": "g1",
    },
    {
        "clean": "Mary and John went",
        "corrupt": "Mary and Tom went",
        "answer": " Mary",
        "wrong": " John",
        "label": "b",
        "group": "g2",
    },
]


@pytest.fixture
def write(project):
    def put(body: str) -> str:
        path = project / "mine.py"
        path.write_text(HEAD + body)
        return str(path)

    return put


PLURAL = '''
@recipe(over="pairs", returns={"length": ("pair", "position"), "count": (), "mean": ("layer",)},
        figures=[Bars("length"), Bars("mean")])
def plural(lm: Any, pairs: list[Pair], *, layers: list[int] = [0, 2]) -> dict[str, Any]:
    """All pairs at once."""
    streams = [[s[0] for s in run(lm, pair.clean, "resid_post").values] for pair in pairs]
    mean = torch.stack([torch.stack([s[i].norm() for i in layers]) for s in streams]).mean(0)
    return {"length": [s[-1].norm(dim=-1) for s in streams], "count": len(pairs), "mean": mean}
'''


def test_a_recipe_over_all_pairs_gives_outputs_of_each_and_of_the_set(write, tiny_llama):
    result = mi.run(write(PLURAL), model=str(tiny_llama), pairs=PAIRS)
    lengths = [e.shape for e in result.each("length")]
    assert lengths == [(len(p["tokens"]),) for p in result.prompts] and lengths[0] != lengths[1]
    assert float(result["count"]) == 2 and result["count"].low is None
    assert result["length"].coords["position"] == ["[end]"]  # of different lengths: by label
    assert result["length"].low is not None
    assert result["mean"].coords["layer"] == [0, 2]  # the values of the parameter `layers`
    assert [e.values.tolist() for e in result.each("mean")] == [result["mean"].values.tolist()]
    again = mi.run(write(PLURAL), model=str(tiny_llama), pairs=PAIRS)
    assert again.run_id == result.run_id and again["mean"].values.tolist() == list(result["mean"])


def test_a_plural_recipe_must_give_one_entry_an_example(write, tiny_llama):
    broken = PLURAL.replace('for s in streams], "count"', 'for s in streams[1:]], "count"')
    assert broken != PLURAL
    with pytest.raises(RunFailed, match="'length' has 1 entries for 2 examples"):
        mi.run(write(broken), model=str(tiny_llama), pairs=PAIRS)


def test_a_recipe_over_nothing_takes_no_prompts(write, tiny_llama, cli):
    path = write('''
@recipe(over="none", returns={"norm": ("draw",)}, figures=[Bars("norm")])
def alone(lm: Any, *, length: int = 5) -> dict[str, Any]:
    """No prompts."""
    return {"norm": torch.stack([run(lm, Prompt([7] * length, {}, None), "resid_post").values[-1][0].norm() * k for k in (1., 2., 3.)])}
''')
    result = mi.run(path, model=str(tiny_llama))
    assert float(result["norm"]) == pytest.approx(2 * float(result.each("norm")[0].values[0]))
    assert result["norm"].low is not None and "no prompts" in plain_text(result)
    with pytest.raises(UsageError, match="takes no prompts"):
        mi.run(path, model=str(tiny_llama), prompt="Mary")
    code, out, _ = cli("run", path, "--model", tiny_llama, "--json")
    assert code == 0 and json.loads(out)["prompts"] == []


DRAWS = '''
@recipe(over="prompt",
        returns={"effect": ("layer", "position"), "random": ("draw", "layer"), "gap": ("draw",)},
        summaries={"share": Ratio("effect", gap="gap"), "random_share": Ratio("random", gap="gap")},
        controls={"effect": "random", "share": "random_share"},
        figures=[Heatmap("effect", center=0), Bars("effect"), Lines("effect")])
def drawn(lm: Any, prompt: Prompt, *, draws: int = 4) -> dict[str, Any]:
    """Effects with a control."""
    effect = torch.zeros(3, len(prompt.ids))
    effect[1, 1], effect[2, 1], effect[2, 2] = 0.5, 3.0, -0.2
    random = torch.linspace(-1.0, 1.0, draws)[:, None].expand(draws, 3)
    return {"effect": effect, "random": random, "gap": torch.full((draws,), 2.0)}
'''


def test_draws_are_averaged_and_give_an_interval(write, tiny_llama):
    result = mi.run(write(DRAWS), model=str(tiny_llama), prompt="Mary and John went")
    assert result["random"].dims == ("layer",)
    assert result["random"].values == pytest.approx(np.zeros(3), abs=1e-6)
    assert -2 <= result["random"].low[0] < 0 < result["random"].high[0] <= 2
    assert result.each("random")[0].shape == (4, 3)
    assert result["share"].values[2, 1] == pytest.approx(1.5)
    several = mi.run(
        write(DRAWS),
        model=str(tiny_llama),
        pairs=[{"prompt": "Mary and John went"}, {"prompt": "Mary and Tom went"}],
    )
    assert several["random"].values == pytest.approx(np.zeros(3), abs=1e-6)


def test_what_the_control_explains_is_marked(write, tiny_llama):
    path = write(DRAWS)
    result = mi.run(path, model=str(tiny_llama), prompt="Mary and John went", draws=19)
    band, marked = result.control_band("effect"), result.explained("effect")
    assert band.shape == result["effect"].shape and band[2, 1] == 1.0
    assert marked[1, 1] and not marked[2, 1] and marked[2, 2]
    assert not marked[0].any(), "there is nothing to be explained where it is exactly 0"
    text = plain_text(result)
    assert "~ 2 of 3: not distinguishable from random, or from 0" in text
    assert "~-.2" in text and "▸ largest: layer 2 · position 1" in text
    assert "control up to" in text and "range of the control" in text


def test_with_few_draws_nothing_is_claimed_and_what_would_do_is_said(write, tiny_llama):
    result = mi.run(write(DRAWS), model=str(tiny_llama), prompt="Mary and John went")
    marked, sized = result.explained("effect"), ~result.without_size("effect")
    assert marked[sized].all() and sized.sum() == 3
    said = "1 prompt with 4 draws of random cannot tell it from chance; 2 prompts or 19 draws could"
    assert said in " ".join(plain_text(result).split())


def test_a_control_without_draws_is_none(write, tiny_llama):
    body = DRAWS.replace("torch.full((draws,), 2.0)", "torch.full((1,), 2.0)")
    result = mi.run(write(body), model=str(tiny_llama), prompt="Mary and John went", draws=0)
    assert result.explained("effect") is None and "~" not in plain_text(result)


ANALYSIS = '''
@recipe(over="prompt", returns={"end": ("layer",)},
        analysis="compare", summaries={"apart": ("layer",), "classes": ()},
        figures=[Bars("apart")])
def analysed(lm: Any, prompt: Prompt, *, scale: float = 1.0) -> dict[str, Any]:
    """The norm at the end, compared between classes."""
    return {"end": torch.stack([s[0, -1].norm() for s in run(lm, prompt, "resid_post").values])}


def compare(examples: list[dict[str, Any]], *, scale: float) -> dict[str, Any]:
    import numpy as np
    by_class = {e["label"]: e["arrays"]["end"] for e in examples}
    if len(by_class) < 2:
        raise ValueError("two classes are needed; give the prompts labels")
    assert [e["group"] for e in examples] == ["g1", "g2"]
    first, second = by_class.values()
    return {"apart": scale * (first - second), "apart:low": first - 99, "apart:high": first + 99,
            "classes": np.float32(len(by_class))}
'''
PROMPTS = [{"prompt": p["clean"], "label": p["label"], "group": p["group"]} for p in PAIRS]


def test_an_analysis_runs_here_on_the_outputs_of_all_examples(write, tiny_llama):
    result = mi.run(write(ANALYSIS), model=str(tiny_llama), pairs=PROMPTS, scale=2.0)
    first, second = (e.values for e in result.each("end"))
    assert result["apart"].values == pytest.approx(2 * (first - second), rel=1e-5)
    assert result["apart"].dims == ("layer",) and result["apart"].low is not None
    assert float(result["classes"]) == 2


def test_a_changed_analysis_takes_the_outputs_that_are_there(write, tiny_llama):
    mi.run(write(ANALYSIS), model=str(tiny_llama), pairs=PROMPTS)
    changed = ANALYSIS.replace("scale * (first - second)", "scale * (second - first)")
    result = mi.run(write(changed), model=str(tiny_llama), pairs=PROMPTS)
    assert result.provenance["record"]["parts_from_cache"] == 2
    other = [{**p, "label": "c" if p["label"] == "b" else "a"} for p in PROMPTS]
    again = mi.run(write(changed), model=str(tiny_llama), pairs=other)
    assert again.run_id != result.run_id and again.provenance["record"]["parts_from_cache"] == 2


def test_what_an_analysis_refuses_is_said(write, tiny_llama, cli):
    one = [{**p, "label": "a"} for p in PROMPTS]
    with pytest.raises(RunFailed, match="two classes are needed"):
        mi.run(write(ANALYSIS), model=str(tiny_llama), pairs=one)
    broken = ANALYSIS.replace("first, second = by_class.values()", "first, second = 1")
    with pytest.raises(RunFailed, match=r"mine\.py:\d+: the analysis 'compare' failed: TypeError"):
        mi.run(write(broken), model=str(tiny_llama), pairs=PROMPTS)


def test_a_text_parameter_reaches_the_body_as_a_prompt(write, tiny_llama, cli):
    path = write('''
@recipe(over="prompt", returns={"length": (), "said": Tokens("layer", "step")},
        figures=[Table("length"), Text("said")])
def with_text(lm: Any, prompt: Prompt, *, other: PromptText = "Mary and John") -> dict[str, Any]:
    """How long another prompt is."""
    padded = torch.tensor([other.ids, [*other.ids[:-1], -1]])
    return {"length": len(other.ids), "said": padded}
''')
    result = mi.run(path, model=str(tiny_llama), prompt="Mary", other="Mary and John went to")
    assert float(result["length"]) == 5
    text = plain_text(result)
    assert "layer 0: Mary and John went to" in text and "layer 1: Mary and John went\n" in text
    assert result.provenance["parameters"]["other"] == "Mary and John went to"
    code, _, said = cli("run", path, "--model", tiny_llama, "-p", "prompt=Mary", "--other", "")
    assert code == 2 and "empty" in said


@pytest.mark.parametrize(
    "change, said",
    [
        (
            ('over="prompt"', 'over="set"'),
            "not one of 'prompt', 'pair', 'prompts', 'pairs', 'none'",
        ),
        (('"effect": "random"', '"nothing": "random"'), "controls names 'nothing'"),
        (('("draw", "layer")', '("draw", "head")'), "are not the leading ones"),
        (('Ratio("effect", gap="gap")', '("layer",)'), "needs analysis="),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(write, cli, change, said):
    code, _, error = cli("recipes", "show", write(DRAWS.replace(*change)))
    assert code == 2 and said in error and "mine.py:" in error


def test_a_figure_with_too_many_dimensions_is_cut_where_asked(write, tiny_llama, cli):
    path = write('''
@recipe(over="prompt", returns={"pattern": ("layer", "query", "key")}, figures=[Heatmap("pattern")])
def pattern(lm: Any, prompt: Prompt) -> dict[str, Any]:
    """Numbers that say where they stand."""
    n = len(prompt.ids)
    return {"pattern": torch.arange(3.0)[:, None, None].expand(3, n, n)}
''')
    result = mi.run(path, model=str(tiny_llama), prompt="Mary and John went")
    assert result["pattern"].coords["key"] == ["Mary", " and", " John", " went"]
    assert " at layer 0 " in plain_text(result)
    code, out, _ = cli("view", result.run_id, "--plain", "--at", "layer=2")
    assert code == 0 and " at layer 2 " in out and "2.0" in out
    for wrong, said in (("layer=7", "no layer"), ("layer", "DIM=VALUE"), ("key=1", "cut at 'key'")):
        code, _, error = cli("view", result.run_id, "--plain", "--at", wrong)
        assert code in (2, 3) and said in error


def test_an_output_without_a_figure_can_be_seen(write, tiny_llama, cli):
    body = DRAWS.replace('Heatmap("effect", center=0), Bars("effect"), Lines("effect")', "")
    bare = mi.run(write(body), model=str(tiny_llama), prompt="Mary and John went")
    text = plain_text(bare)
    assert all(f"{name} ──" in text for name in ("effect", "random", "gap", "share"))
    result = mi.run(write(DRAWS), model=str(tiny_llama), prompt="Mary and John went")
    code, out, _ = cli("view", result.run_id, "--plain", "--only", "random")
    assert code == 0 and "random" in out and "layer 0" in out
    code, _, error = cli("view", result.run_id, "--plain", "--only", "nothing")
    assert code == 3 and "random_share" in error

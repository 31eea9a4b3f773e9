"""Mistakes in the claims and comparisons of a study file are named with file, line and column."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .study_texts import read, refusal

STUDY = """\
study: s
models: [MODEL]
phenomena: [{name: ioi:store, n: 4}]
recipes:
  - baseline
  - activation_patching: {site: [resid_pre, mlp_out]}
  - logit_lens
claims:
  - id: handover
    says: The answer is at the last position in the last layers
    holds:
      recipe: activation_patching
      output: recovery
      at: {layer: ">= 1", position: end}
      every: "> 0.8"
compare:
  - show: lines
    recipe: activation_patching
    output: recovery
    x: layer
    at: {position: end}
  - show: table
    recipe: baseline
    output: [accuracy, logit_diff]
  - show: agreement
    recipe: activation_patching
    output: recovery
    top: 5
  - show: differences
    recipe: activation_patching
    output: recovery
    across: site
    at: {position: [s2, end], layer: 1}
"""

#: (text, what stands there instead, what is said); the mistake is in the line of the text.
CLAIMS = [
    ("      recipe: activation_patching", "      recipe: activation_patch", "is not in the grid"),
    (
        "      output: recovery\n      at",
        "      output: recovry\n      at",
        "did you mean 'recovery'",
    ),
    (
        "      output: recovery\n      at",
        "      outputs: recovery\n      at",
        "unknown key 'outputs'",
    ),
    ("      at: {layer", "      at: {leyer", "did you mean 'layer'"),
    ('{layer: ">= 1"', '{layer: ">= 7"', "no layer is >= 7 in 'recovery'"),
    ('{layer: ">= 1"', "{layer: 31", "there is no layer 31 in 'recovery'"),
    ('{layer: ">= 1"', '{layer: "=> 1"', "'=> 1' is not a comparison"),
    ('{layer: ">= 1"', '{layer: ">= one"', "'>= one' is not a comparison"),
    ('{layer: ">= 1"', "{layer: true", "is not a coordinate"),
    ('{layer: ">= 1"', "{layer: []", "the list of coordinates is empty"),
    ("position: end}\n      every", "position: s3}\n      every", "have no position 's3'"),
    ('      every: "> 0.8"', '      every: "0.8"', "'0.8' is not a comparison"),
    ('      every: "> 0.8"', "      every: 0.8", "0.8 is not a text"),
    ('      every: "> 0.8"', "      every: > 0.8", 'in quotes, e.g. "> 0.8"'),
    ('      every: "> 0.8"', '      evry: "> 0.8"', "did you mean 'every'"),
    ('      every: "> 0.8"', '      value: "> 0.8"', "may be several"),
    ('      every: "> 0.8"', '      any: "between 3 and 2"', "3 is not less than 2"),
    ("  - id: handover", "  - ident: handover", "unknown key 'ident'"),
    ("  - id: handover", "  - id: hand over", "a name has letters"),
    ("    says: The answer is at the last position in the last layers", '    says: ""', "'says'"),
]
COMPARE = [
    ("  - show: lines", "  - show: line", "is not one of lines, table"),
    ("    x: layer", "    x: leyer", "did you mean 'layer'"),
    ("    x: layer", "    across: layer", "'across' belongs to 'show: differences'"),
    ("    output: recovery\n    x", "    output: recovry\n    x", "did you mean 'recovery'"),
    (
        "    at: {position: end}\n  - show: table",
        "    at: {}\n  - show: table",
        "nothing is selected",
    ),
    (
        "    at: {position: end}\n  -",
        "    at: {position: end, layer: 1}\n  -",
        "is an axis, and is",
    ),
    (
        "    at: {position: end}\n  -",
        "    at: {position: end, head: 1}\n  -",
        "no dimension 'head'",
    ),
    ("[accuracy, logit_diff]", "[accuracy, logit_dif]", "did you mean 'logit_diff'"),
    ("    top: 5", "    top: 0", "is not at least 1"),
    ("    top: 5", "    at: {layer: 1}", "agreement is of whole maps"),
    ("    across: site", "    across: sight", "did you mean 'site'"),
    ("    across: site", "    across: model", "no two points differ only in 'model'"),
    (
        "    at: {position: [s2, end], layer: 1}",
        "    at: {position: [s2, end]}",
        "nothing is selected",
    ),
    ("[s2, end], layer: 1}", "[s2, end], layer: 77}", "there is no layer 77"),
]


def text_for(model: Path) -> str:
    return STUDY.replace("MODEL", str(model))


def test_the_study_itself_is_valid(tmp_path, tiny_llama):
    study = read(tmp_path, text_for(tiny_llama))
    [claim] = study.claims
    assert claim.points == [1, 2] and claim.expectation.bound.low == 0.8
    assert [len(comparison.points) for comparison in study.compare] == [2, 1, 2, 2]
    assert [comparison.title for comparison in study.compare] == [
        "recovery by layer",
        "accuracy, logit_diff",
        "agreement of recovery",
        "differences in recovery across site",
    ]


@pytest.mark.parametrize(("before", "after", "says"), [*CLAIMS, *COMPARE])
def test_a_mistake_is_named_with_its_line(tmp_path, tiny_llama, before, after, says):
    valid = text_for(tiny_llama)
    assert valid.count(before) == 1, before
    path = tmp_path / "s.yaml"
    path.write_text(valid.replace(before, after), encoding="utf-8")
    said = refusal(path, tmp_path)
    assert says in said, said
    first = valid[: valid.index(before)].count("\n") + 1
    lines = [int(number) for number in re.findall(r"s\.yaml:(\d+):\d+: ", said)]
    entry = valid[: valid.index(before)].rfind("  - ")  # what is missing is said of its entry
    begins = valid[:entry].count("\n") + 1
    assert lines and all(begins <= line <= first + 1 for line in lines), said


def test_two_claims_of_one_name_and_a_claim_without_a_recipe_are_refused(tmp_path, tiny_llama):
    text = text_for(tiny_llama)
    claim = text[text.index("  - id: handover") : text.index("compare:")]
    (tmp_path / "s.yaml").write_text(text.replace("compare:", claim + "compare:"))
    said = refusal(tmp_path / "s.yaml", tmp_path)
    assert "s.yaml:16:" in said and "two claims have the id 'handover'" in said
    assert "the first is on line 9" in said
    (tmp_path / "s.yaml").write_text(text.replace("      recipe: activation_patching\n", ""))
    said = refusal(tmp_path / "s.yaml", tmp_path)
    assert "3 recipes, and the claim does not say which" in said and "recipe: " in said


def test_a_claim_about_text_or_tokens_is_refused(tmp_path, tiny_llama):
    text = text_for(tiny_llama).replace(
        "      recipe: activation_patching", "      recipe: logit_lens"
    )
    text = text.replace("      output: recovery\n      at", "      output: top_token\n      at", 1)
    (tmp_path / "s.yaml").write_text(text)
    assert "holds token ids" in refusal(tmp_path / "s.yaml", tmp_path)


def test_all_mistakes_in_claims_are_reported_at_once(tmp_path, tiny_llama):
    text = text_for(tiny_llama).replace('"> 0.8"', '"0.8"').replace("- baseline", "- baselin")
    (tmp_path / "s.yaml").write_text(text)
    said = refusal(tmp_path / "s.yaml", tmp_path)
    assert (
        "mistakes in" in said and "not a comparison" in said and "did you mean 'baseline'" in said
    )


def test_points_at_one_place_are_told_apart_by_a_line_or_refused(tmp_path, tiny_llama):
    text = text_for(tiny_llama)
    study = read(tmp_path, text)
    assert [point.line for point in study.compare[0].points] == ["resid_pre", "mlp_out"]
    (tmp_path / "s.yaml").write_text(
        text.replace("    x: layer\n", "    x: layer\n    lines: model\n")
    )
    said = refusal(tmp_path / "s.yaml", tmp_path)
    assert "two points stand at the same place: they differ in site" in said

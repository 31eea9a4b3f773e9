"""The kind of evidence of a technique: declared, stored, and followed by the words of reports."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest

from remote_mi.recipes import catalog
from remote_mi.recipes.card import Evidence
from remote_mi.report.document.content import build_report
from remote_mi.report.document.html import html
from remote_mi.report.document.markdown import markdown
from remote_mi.report.evidence import NEUTRAL, limit_of_evidence, verb
from remote_mi.store.run_info import card_from_json

from .shown import CARD, kept, result

DOC = CARD.doc.replace(
    "Not implemented:", "What this does not show: what is meant.\nNot implemented:"
)


def test_each_kind_has_a_verb_and_a_limit_of_its_own():
    kinds = get_args(Evidence)
    assert len({verb(kind) for kind in kinds} | {NEUTRAL}) == 4
    assert len({limit_of_evidence(kind) for kind in kinds} - {""}) == 3
    assert verb("") == NEUTRAL and limit_of_evidence("") == ""


@pytest.mark.parametrize("evidence", ["", *get_args(Evidence)])
def test_a_report_says_under_limits_what_the_method_cannot_show(project, evidence):
    found = result()
    found.recipe = replace(CARD, evidence=evidence, doc=DOC).to_json()
    path = kept(project, found).path
    assert path is not None
    report = build_report(project, [path])
    assert report.methods[0].evidence == limit_of_evidence(evidence)
    for page in (html(report), markdown(report, {})):
        limits = page[page.rindex("Controls and limits") :]
        assert limit_of_evidence(evidence) in limits
        assert ("Evidence: " in limits) == bool(evidence)
        assert "What this does not show" in limits


def test_a_run_keeps_the_word_and_a_word_of_another_version_says_nothing():
    for evidence in get_args(Evidence):
        assert card_from_json(replace(CARD, evidence=evidence).to_json()).evidence == evidence
    assert card_from_json({**CARD.to_json(), "evidence": "<b>causal</b>"}).evidence == ""
    former = {name: value for name, value in CARD.to_json().items() if name != "evidence"}
    assert card_from_json(former).evidence == ""


def test_the_command_line_shows_evidence_and_limits_of_every_built_in_recipe(project, cli):
    for card in catalog.all_cards(project):
        code, out, _ = cli("recipes", "show", card.name)
        assert code == 0 and f"Evidence: {card.evidence}\n" in out
        assert "What this does not show: " in out
    code, out, _ = cli("recipes", "show", "logit_lens", "--json")
    shown = json.loads(out)
    assert shown["evidence"] == "observational" and "the lens" in shown["not_shown"]
    assert shown["not_shown"].replace(" ", "") in shown["doc"].replace("\n", "").replace(" ", "")

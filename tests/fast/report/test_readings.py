"""Readings: computed from the numbers, true to them, and absent where nothing is told."""

from __future__ import annotations

import json
import re
from html import unescape

import numpy as np
import pytest

from remote_mi import Bars, Heatmap
from remote_mi.common.errors import NotFound
from remote_mi.jobs.aggregation import Part
from remote_mi.recipes.outputs import Ratio
from remote_mi.report import notebook
from remote_mi.report.document.content import build_report
from remote_mi.report.document.html import html
from remote_mi.report.document.markdown import markdown
from remote_mi.report.evidence import verb
from remote_mi.report.readings.places import runs_text
from remote_mi.report.summary import all_readings, headline, readings, summary
from remote_mi.report.terminal import figure_lines, plain_text
from remote_mi.store.result import Result
from remote_mi.store.samples import aligned_samples

from .random_results import made_result, random_result
from .said import check_everything_said
from .shown import kept


@pytest.mark.parametrize("block", range(6))
def test_no_sentence_is_contradicted_by_its_numbers(block):
    assert sum(check_everything_said(random_result(50 * block + i)) for i in range(50)) > 150


def stream(
    pairs: int = 8, noise: float = 0.05, draws: int = 4, evidence: str = "interventional"
) -> Result:
    """Ten layers by four positions: the second carries it up to layer 5, the last from then on."""
    rng = np.random.default_rng(0)
    pattern = np.zeros((10, 4))
    pattern[:6, 1] = pattern[6:, 3] = 1.0
    parts = [
        Part(
            {
                "effect": (pattern + noise * rng.normal(size=(10, 4))).astype(np.float32),
                "control": (noise * rng.normal(size=(draws, 10, 4))).astype(np.float32),
                "gap": np.array(1.0, np.float32),
            },
            [" a", str(rng.choice([" b", " c"])), " d", " e"],
            {"subject": 1, "end": 3},
            "t",
            {"clean": f"{pair}"},
        )
        for pair in range(pairs)
    ]
    declaration = {
        "over": "pair",
        "returns": {"effect": ("layer", "position"), "gap": ()},
        "summaries": {"recovery": Ratio("effect", gap="gap")},
        "controls": {"effect": "control"},
        "figures": [Heatmap("recovery", center=0), Bars("recovery")],
        "evidence": evidence,
    }
    return made_result(declaration, parts)


def test_where_the_effect_is_and_where_it_passes_over_is_read_from_the_map():
    first, second = readings(Heatmap("recovery", center=0), stream())
    assert first.startswith(
        "recovery (n=8) changes with interventions at [subject], layers 0–5; "
        "position 3 ␠e [end], layers 6–9: values from "
    )
    assert second == (
        "It passes from [subject] to position 3 ␠e [end] between layers 5 and 6: over the pairs it "
        "is larger at [subject] in layers 0–5, and at position 3 ␠e [end] in layers 6–9 "
        "(95% confidence)."
    )
    assert headline(stream()).endswith(
        ("at [subject], layers 0–5", "at position 3 ␠e [end], layers 6–9")
    )


@pytest.mark.parametrize("evidence", ["", "observational", "interventional", "counterfactual"])
def test_the_verb_is_that_of_the_evidence(evidence):
    first = readings(Bars("recovery"), stream(evidence=evidence))[0]
    assert first.startswith(f"recovery (n=8) {verb(evidence)} [subject], layers 0–5; ")


@pytest.mark.parametrize(
    "found", [stream(1), stream(2, draws=1), stream(8, draws=0), stream(8, noise=9.0)]
)
def test_nothing_is_read_where_nothing_is_told(found):
    if found.explained("recovery") is None:  # no draws: only its intervals
        assert all("with an interval without 0" in t for t in readings(Bars("recovery"), found)[:1])
        return
    assert found.explained("recovery").all()
    for figure in found.figures:
        assert readings(figure, found) == []
        said = " ".join(summary(figure, found))
        assert "layer" not in said and ("Nothing is claimed" in said or "No recovery" in said)
    assert headline(found) == "recovery: none told from its control"
    assert all_readings(found) == {} and "→" not in plain_text(found)


def test_bars_name_the_layers_of_a_column_once():
    lines = [text.plain for text in figure_lines(Bars("recovery"), stream(), 80)]
    names = {re.split(r"\s{2,}|\s[+-]", text.strip(" ~"))[0] for text in lines[:2]}
    assert names == {"[subject], layers 0–5", "position 3 ␠e [end], layers 6–9"}


def test_every_medium_says_it(project):
    found = stream()
    (sentences,) = [all_readings(found)["recovery"]]
    assert len(sentences) == 2 and list(all_readings(found)) == ["recovery"], "once, not for each"
    plain = re.sub(r"\s+", " ", plain_text(found))
    path = kept(project, found).path
    assert path is not None
    report = build_report(project, [path])
    pages = (unescape(html(report)), markdown(report, {}).replace("\\", ""))
    cell = unescape(notebook.html(found))
    for sentence in sentences:
        assert cell.count(f"<p>→ {sentence}</p>") == 1
        assert f"→ {sentence}" in plain
        assert all(
            sentence.replace("␠", sign) in page for sign, page in zip("␣␠", pages, strict=True)
        )


def test_the_command_line_gives_readings_as_json(project, cli):
    run = kept(project, stream())
    code, out, _ = cli("runs", "show", run.id8)
    assert code == 0 and json.loads(out)["readings"] == all_readings(stream())
    assert run.path is not None
    (run.path / "artifacts" / "result.safetensors").write_bytes(b"damaged")
    code, out, _ = cli("runs", "show", run.id8)
    assert code == 0 and json.loads(out)["readings"] == {}


def test_runs_of_layers_are_named_by_their_coordinates():
    assert runs_text("layer", [0, 1, 2, 5], list(range(9))) == "layers 0–2, 5"
    assert runs_text("layer", [1], [0, 10, 20]) == "layer 10"
    assert runs_text("layer", [0, 1, 2], [0, 10, 20]) == "layers 0, 10, 20"
    many = list(range(0, 40, 2))
    assert runs_text("layer", many, list(range(40))) == "20 layers from 0 to 38"


def test_the_samples_of_pairs_are_aligned_as_the_result_is():
    for seed in range(60):
        found = random_result(seed)
        for name in ("effect", "gap", *(["control"] if "control" in found.names() else [])):
            samples = aligned_samples(found, name)
            if len(samples) and samples.size:
                mean = np.asarray(found[name].values, float)
                np.testing.assert_allclose(samples.mean(0), mean, rtol=1e-3, atol=1e-6)
    with pytest.raises(NotFound):
        aligned_samples(stream(), "recovery")


def test_what_is_read_without_a_control_is_followed_over_the_layers():
    """As for the probability of a target under a lens: 0 means nothing, and nothing is claimed."""
    rng = np.random.default_rng(0)
    rising = 1 / (1 + np.exp(-2 * (np.arange(10.0) - 6)))
    parts = [
        Part(
            {"prob": np.stack([0.01 * rng.random(10), rising], 1) * rng.uniform(0.8, 0.9)},
            [" a", " b"],
            {"end": 1},
            "t",
            {"clean": f"{pair}"},
        )
        for pair in range(6)
    ]
    declaration = {
        "over": "pair",
        "returns": {"prob": ("layer", "position")},
        "figures": [Heatmap("prob")],
        "evidence": "observational",
    }
    peak, course = readings(Heatmap("prob"), made_result(declaration, parts))
    assert peak.startswith("position 1 ␠b [end]: Largest at layer 9: prob 0.8")
    assert course == (
        "position 1 ␠b [end]: By its 95% intervals it passes half of that between layer 5 and "
        "layer 7."
    )

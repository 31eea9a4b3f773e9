"""Results that are not as one expects: numbers that are none, repeated tokens, odd figures."""

from __future__ import annotations

import re

import numpy as np
import pytest

from remote_mi.common.errors import NotFound
from remote_mi.jobs.aggregation import Part, assemble
from remote_mi.recipes.figures import Bars, Figure, Heatmap, Lines, Table, Text
from remote_mi.report.document.html import figure_html
from remote_mi.report.images import save
from remote_mi.report.kinds.curves import curves
from remote_mi.report.summary import summary
from remote_mi.report.terminal import figure_lines
from remote_mi.report.wording import Slice
from remote_mi.store.result import Result

from .pages import Page
from .shown import CARD, result
from .viewing import Viewer, driven, kept, screen_text

ALL = Slice()


def drawn_by_all(figure: Figure, found: Result, path) -> str:
    """The figure as text, after every renderer has drawn it."""
    figure_html(figure, found, ALL)
    summary(figure, found, ALL)
    if not isinstance(figure, (Table, Text)):
        save(figure, found, path / "f.svg", ALL)
    return "\n".join(text.plain for text in figure_lines(figure, found, 100))


def test_what_is_no_number_is_no_bar_and_does_not_hide_the_others(tmp_path):
    found = result()
    found.arrays["effect"][0, 0], found.arrays["effect"][1, 1] = np.nan, np.inf
    text = drawn_by_all(Bars("effect", most=99), found, tmp_path)
    bars = [line for line in text.splitlines() if line[1:].startswith("layer ")]
    assert len(bars) == found["effect"].values.size - 2
    assert not any("layer 0 · position 0 " in b or "layer 1 · position 1 " in b for b in bars)
    assert re.search(r"~ 1?[0-9] of 16", text), "an infinite value makes the others no noise"
    marked = found.explained("effect")
    assert marked is not None and not marked.all()
    page = Page(figure_html(Bars("effect", most=99), found, ALL))
    assert len(page.tables[0]) - 1 == len(bars)


def test_a_control_that_is_not_known_leaves_the_band_of_the_others(tmp_path):
    found = result()
    found.arrays["effect:band"][1] = np.nan
    whole = curves(Lines("effect"), found, ALL).band
    assert whole is not None and np.isfinite(whole).all()
    along = curves(Lines("effect", x="layer"), found, ALL).band
    assert along is not None and np.isnan(along).tolist() == [False, True, False, False]
    assert "░" in drawn_by_all(Lines("effect"), found, tmp_path)


def test_lines_are_not_joined_over_what_is_missing(tmp_path):
    found = result()
    found.arrays["curve"][0] = np.nan
    found.arrays["curve"][1, 2] = np.nan
    drawn_by_all(Lines("curve"), found, tmp_path)
    html = figure_html(Lines("curve"), found, ALL)
    joined = re.findall(r'<polyline class="line l1" points="([^"]*)"', html)
    assert [len(points.split()) for points in joined] == [2, 1] and "line l0" not in html


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (Heatmap("score"), "is a single number"),
        (Heatmap("effect", rows="layer", columns="layer"), "both 'layer'"),
        (Heatmap("effect", rows="head"), "no dimension 'head'"),
        (Lines("curve", x="position"), "no dimension 'position'"),
        (Table("effect"), "not a single number"),
    ],
)
def test_a_figure_that_its_output_does_not_fit_says_so(figure, said, tmp_path):
    with pytest.raises(NotFound, match=re.escape(said)):
        drawn_by_all(figure, result(), tmp_path)


def test_naming_the_rows_leaves_the_other_dimension_to_the_columns(tmp_path):
    found = result()
    for figure in (Heatmap("effect", rows="position"), Heatmap("effect", columns="layer")):
        assert figure.shows(found["effect"].dims) == ("position", "layer")
        drawn_by_all(figure, found, tmp_path)


def test_a_token_that_occurs_twice_does_not_hinder_a_cut(tmp_path):
    found = result([" the", " x", " the"])
    for figure in (Heatmap("pattern", rows="layer", columns="key"), Lines("pattern", x="layer")):
        assert "layer" in drawn_by_all(figure, found, tmp_path)


def of_lengths(*lengths: int) -> Result:
    """Prompts of different lengths, so that another one has fewer rows."""
    parts = []
    for number, size in enumerate(lengths):
        one = result([f" t{i}" for i in range(size)], n=1)
        raw = {n: one.arrays[f"{n}@0"] for n in one.outputs}
        tokens = [f" t{i}" for i in range(size)]
        parts.append(
            Part(
                raw,
                tokens,
                {"end": size - 1},
                f"t{number}",
                {"clean": "".join(tokens), "corrupt": "c"},
            )
        )
    made = assemble(CARD, parts)
    document = {
        "parts": [{"tokens": p.tokens, "labels": dict(p.labels), **p.text} for p in parts],
        **made.document,
        "notes": [],
        "vocabulary": {str(i): f" t{i}" for i in range(max(lengths))},
    }
    figures = (Heatmap("pattern", rows="query", columns="key"),)
    shown = {**CARD.to_json(), "figures": [figure.to_json() for figure in figures]}
    return Result(shown, document, made.arrays, result().provenance)


def test_the_rows_that_were_zoomed_to_are_let_go_with_their_prompt(project):
    folder = kept(project, of_lengths(10, 3))

    async def drive(app: Viewer, pilot) -> None:
        await pilot.press("p", "z", *"7-9", "enter")
        assert "7" in screen_text(app)
        await pilot.press("p", "y", "w", "escape", "p")
        assert app.is_running

    driven(folder, project, drive)

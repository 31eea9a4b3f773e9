"""Statistics, results and their rendering."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.console import Console

import remote_mi as mi
from remote_mi.common.errors import NotFound, RunFailed
from remote_mi.common.text import pad_or_cut, visible
from remote_mi.jobs.aggregation import Part, assemble
from remote_mi.recipes.card import Card
from remote_mi.recipes.figures import Bars, Heatmap, Table, TokenGrid, from_json
from remote_mi.recipes.output_kinds import KINDS
from remote_mi.recipes.outputs import Output, Ratio, Tokens
from remote_mi.report.kinds import grid
from remote_mi.report.terminal import plain_text, show
from remote_mi.store.result import Result

CARD = Card(
    "patching",
    "pair",
    {"effect": Output(("layer", "position")), "gap": Output(())},
    {"recovery": Ratio("effect", "gap")},
    (Heatmap("recovery", center=0), Bars("recovery")),
)


def part(effect, gap, template="t", labels=None, tokens=None):
    effect = np.asarray(effect, np.float32)
    tokens = tokens or [f" w{i}" for i in range(effect.shape[1])]
    return Part(
        {"effect": effect, "gap": np.float32(gap)},
        tokens,
        labels or {"end": effect.shape[1] - 1},
        template,
        {"clean": "a b", "corrupt": "a c"},
    )


def result_of(card, parts, vocabulary=None):
    made = assemble(card, parts)
    document = {
        "parts": [{"tokens": p.tokens, "labels": dict(p.labels), **p.text} for p in parts],
        **made.document,
        "notes": made.notes,
        "vocabulary": vocabulary or {},
    }
    return Result(card.to_json(), document, made.arrays, {"parameters": {}, "prompts": {}})


def test_the_summary_is_a_ratio_of_means_and_not_a_mean_of_ratios():
    pairs = (1.0, 4.0), (3.0, 6.0), (2.0, 5.0)
    result = result_of(CARD, [part([[effect, 0.0]], gap) for effect, gap in pairs])
    assert result["recovery"].values[0, 0] == pytest.approx(6.0 / 15.0)
    assert result["effect"].values[0, 0] == pytest.approx(2.0)
    assert [float(e[0, 0]) for e in result.each("effect")] == [1.0, 3.0, 2.0]


def test_intervals_cover_the_estimate_and_shrink_with_more_pairs():
    rng = np.random.default_rng(0)

    def width(n):
        parts = [part([[rng.normal(5, 1), 0.0]], rng.normal(10, 1)) for _ in range(n)]
        found = result_of(CARD, parts)["recovery"]
        assert found.low is not None and found.high is not None
        assert found.low[0, 0] <= found.values[0, 0] <= found.high[0, 0]
        return found.high[0, 0] - found.low[0, 0]

    assert width(200) < width(8)


def test_with_many_pairs_the_interval_is_that_of_a_bootstrap_by_hand():
    rng = np.random.default_rng(1)
    effect, gap = rng.normal(2, 1, 40), rng.normal(6, 1, 40)
    found = result_of(CARD, [part([[e, 0]], g) for e, g in zip(effect, gap, strict=True)])[
        "recovery"
    ]
    draws = rng.integers(0, 40, (20000, 40))
    by_hand = np.percentile(effect[draws].mean(1) / gap[draws].mean(1), [2.5, 97.5])
    assert [found.low[0, 0], found.high[0, 0]] == pytest.approx(by_hand, abs=0.02)


@pytest.mark.filterwarnings("error")
def test_what_is_no_number_has_no_interval_and_no_warning():
    effects = ([[1.0, np.nan]], [[2.0, 3.0]], [[4.0, 5.0]])
    found = result_of(CARD, [part(effect, 2.0) for effect in effects])["recovery"]
    assert found.low[0, 0] < found.values[0, 0] < found.high[0, 0]
    assert np.isnan([found.values[0, 1], found.low[0, 1], found.high[0, 1]]).all()


def test_one_pair_has_no_interval():
    assert result_of(CARD, [part([[1.0]], 2.0)])["recovery"].low is None


def test_pairs_whose_gap_is_not_positive_are_listed_and_kept():
    gaps = [4.0, -0.2, 4.1, 4.2, 3.9, 4.0, 4.1, 3.9, *[4.0, 3.8] * 12]
    result = result_of(CARD, [part([[1.0]], gap) for gap in gaps])
    assert any("1 of 32 pairs" in n and "2 (-0.20)" in n for n in result.notes)
    assert result["recovery"].values[0, 0] == pytest.approx(32 / sum(gaps))


@pytest.mark.parametrize("gaps", [(1.0, -1.0), (0.3, 4.0, -2.0), (1e-9, 1e-9, 1e-9)])
def test_nothing_is_divided_by_a_gap_that_is_not_told_from_zero(gaps):
    result = result_of(CARD, [part([[1.0]], gap) for gap in gaps])
    assert np.isnan(result["recovery"].values).all()
    assert any("recovery is not given" in n for n in result.notes) and "recovery" in result.withheld
    assert [figure.output for figure in result.figures] == ["effect", "effect"]
    assert result["effect"].values[0, 0] == 1.0
    plain_text(result)  # and it can still be shown


def test_pairs_of_one_template_are_aligned_by_position():
    parts = [
        part([[1, 2, 3]], 1, tokens=["A", " x", " to"], labels={"s": 1, "end": 2}),
        part([[3, 4, 5]], 1, tokens=["A", " y", " to"], labels={"s": 1, "end": 2}),
    ]
    found = result_of(CARD, parts)["effect"]
    assert found.coords["position"] == ["A", "[s]", " to"]
    assert found.values.tolist() == [[2, 3, 4]]


def test_pairs_of_different_templates_are_aligned_by_label_only():
    parts = [
        part([[1, 2, 3]], 1, "a", {"s": 0, "end": 2}),
        part([[4, 5, 6, 7]], 1, "b", {"s": 2, "end": 3}),
    ]
    found = result_of(CARD, parts)["effect"]
    assert found.coords["position"] == ["[s]", "[end]"]
    assert found.values.tolist() == [[3.5, 5.0]]


def test_pairs_without_a_template_are_never_averaged_by_raw_position():
    parts = [part([[1, 2]], 1, ""), part([[3, 4]], 1, "")]
    assert result_of(CARD, parts)["effect"].coords["position"] == ["[end]"]


def test_selecting_and_tables_name_what_is_there():
    found = result_of(CARD, [part([[1.0, 2.0], [3.0, 4.0]], 1.0)])
    assert float(found["effect"].sel(layer=1, position=" w0")) == 3.0
    assert float(found["effect"].sel(layer=1, position=1)) == 4.0
    with pytest.raises(NotFound, match="no layer 7"):
        found["effect"].sel(layer=7)
    with pytest.raises(NotFound, match="did you mean 'recovery'"):
        found["recovry"]
    table = found.to_pandas()
    assert list(table.columns) == ["layer", "position", "position_index", "value"]
    assert table.shape[0] == 4


def test_figures_survive_json():
    for figure in (
        Heatmap("a", center=0),
        TokenGrid("t", shade="p"),
        Bars("a", most=3),
        Table("a", columns=("b",)),
    ):
        assert from_json(figure.to_json()) == figure


# -- rendering -----------------------------------------------------------------------------------


def test_the_numbers_on_screen_are_the_numbers_of_the_array():
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, (6, 5)).round(2)
    text = plain_text(result_of(CARD, [part(values, 1.0)]))
    rows = [line for line in text.splitlines() if re.match(r"\s+\d+ │", line)]
    assert len(rows) == 6
    for line in rows:
        layer, cells = int(line.split("│")[0]), line.split("│")[1].split()
        for got, expected in zip(cells, values[layer], strict=True):
            assert float(got[1:]) == pytest.approx(expected, abs=0.051)
    assert rows[0].strip().startswith("5"), "the last layer is on top"


def test_the_largest_cell_is_said_in_words():
    text = plain_text(result_of(CARD, [part([[0.1, -2.0], [0.3, 0.2]], 1.0)]))
    assert "largest: layer 0 · position 1 ␠w1 · recovery -2.00, n=1" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_screen(width):
    tokens = [" 日本語", " word", "\x1b[31m", "\u202e", " e\u0301"] * 8
    parts = [part(np.zeros((3, 40)), 1.0, tokens=tokens)]
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(result_of(CARD, parts), console)
    from rich.cells import cell_len

    assert all(cell_len(line) <= width for line in console.file.getvalue().splitlines())


HOSTILE = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "[bold]x[/bold]",
    "\u202egnp.exe",
    "\r\n",
    "\u200b",
    "\x9b2J",
    "a" * 1_000_000,
]


def test_hostile_tokens_are_shown_and_never_obeyed():
    parts = [part(np.zeros((2, len(HOSTILE))), 1.0, tokens=HOSTILE)]
    result = result_of(CARD, parts)
    text = plain_text(result, 120)
    assert len(text) < 20_000
    for bad in ("\x1b", "\x07", "\r", "\x9b", "\u202e", "\u200b"):
        assert bad not in text
    assert "[bold]" in text
    html = result._repr_html_()
    parts[0].tokens[0] = "<script>alert(1)</script>"
    html = result_of(CARD, parts)._repr_html_()
    assert "<script>" not in html and "&lt;scri" in html


def test_visible_and_fit():
    assert visible(" a\n") == "␠a↵"
    assert visible("") == "∅"
    assert pad_or_cut("日本語", 4) == "日…" + " "
    assert pad_or_cut("ab", 4) == "ab  "


@pytest.mark.parametrize(
    "value, text",
    [
        (0.914, ".91"),
        (-0.5, "-.50"),
        (1.02, "1.0"),
        (-1.02, "-1.0"),
        (40.1, "40.1"),
        (0.001, "0"),
        (-0.001, "0"),
        (float("nan"), "?"),
        (123456.0, "1e5"),
        (140.7, "141"),
        (float("inf"), "∞"),
        (-250.0, "-250"),
    ],
)
def test_numbers_fit_four_cells(value, text):
    assert grid.format_number(value).rstrip("0") == text.rstrip("0")
    assert len(grid.format_number(value)) <= 4
    assert len(grid.format_number(value, 3)) <= 3


def test_a_hundred_layers_are_thinned_out_and_said_to_be():
    text = plain_text(result_of(CARD, [part(np.zeros((100, 2)), 1.0)]))
    assert "100 rows: every" in text


def test_a_token_grid_and_a_table_show_each_prompt():
    card = Card(
        "lens",
        "prompt",
        {
            "top": Tokens("layer", "position", "k"),
            "p": Output(("layer", "position", "k")),
            "n": Output(()),
        },
        {},
        (TokenGrid("top", shade="p"), Table("n")),
    )
    ids = np.arange(4).reshape(2, 2, 1)
    item = Part(
        {"top": ids, "p": ids / 4, "n": np.float32(3)}, ["x", "y"], {"end": 1}, "", {"clean": "x y"}
    )
    result = result_of(card, [item, item], {str(i): f" t{i}" for i in range(4)})
    text = plain_text(result)
    assert "␠t3" in text and "prompt 1 of 2" in text
    assert "3" in text.splitlines()[-1].split(), "a column of whole numbers"
    part = Part({**item.arrays, "n": np.float32(2.5)}, ["x", "y"], {"end": 1}, "", item.text)
    mixed = plain_text(result_of(card, [item, part], {str(i): f" t{i}" for i in range(4)}))
    assert "3.000" in mixed and "2.500" in mixed
    with pytest.raises(NotFound, match="one by one"):
        result["top"]
    assert list(result.to_pandas("top")["token"])[:2] == [" t0", " t1"]


def test_the_public_names_are_there():
    for name in mi.__all__:
        assert getattr(mi, name) is not None


def test_an_output_without_one_entry_for_each_token_is_refused():
    short = part([[1.0, 0.0]], 1.0, tokens=["a", "b", "c"], labels={"end": 2})
    with pytest.raises(RunFailed) as caught:
        assemble(CARD, [short])
    said = "output 'effect' of prompt 1 has 2 entries along 'position', and the prompt has 3 tokens"
    assert said in caught.value.message
    assert "one entry for each token" in (caught.value.hint or "")


def test_outputs_of_two_shapes_have_no_mean_and_are_refused():
    card = Card("one", "prompt", {"x": Output(("step",))})
    parts = [
        Part({"x": np.zeros(n, np.float32)}, ["a"], {}, "t", {"clean": "a"}) for n in (2, 2, 3)
    ]
    with pytest.raises(RunFailed, match=r"shape \(2,\) for prompt 1 and \(3,\) for prompt 3"):
        assemble(card, parts)
    assert assemble(card, parts[:2]).arrays["x"].shape == (2,)


@pytest.mark.parametrize(("values", "whole"), [([1, 2], True), ([], True), ([1.5], False)])
def test_token_ids_are_whole_numbers(values, whole):
    if not whole:
        with pytest.raises(ValueError, match="declared as tokens and holds float64"):
            KINDS["token"].pack(values, ("rank",))
        return
    assert KINDS["token"].pack(values, ("rank",)).dtype.kind == "i"

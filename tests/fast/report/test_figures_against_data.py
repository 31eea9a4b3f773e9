"""What a figure shows is what the arrays hold: read back from the terminal, the page and the SVG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import numpy as np
import pytest

from remote_mi.common.text import line, visible
from remote_mi.recipes.figures import Bars, Figure, Heatmap, Lines, Table, Text, TokenGrid
from remote_mi.report.colors import interpolate, shades
from remote_mi.report.document.html import figure_html
from remote_mi.report.images import save
from remote_mi.report.terminal import figure_lines
from remote_mi.report.wording import Slice

from .pages import Page, number, page_of
from .shown import result

ALL = Slice()
PATTERN = Heatmap("pattern", rows="query", columns="key")
TOKENS = TokenGrid("top", shade="prob")


def plain(figure: Figure, found, slice_: Slice = ALL, width: int = 100) -> list[str]:
    return [text.plain for text in figure_lines(figure, found, width, slice_)]


def groups(
    figure: Figure, found, path, slice_: Slice = ALL
) -> Iterator[tuple[list[str], ET.Element]]:
    """The groups of an SVG that say what they stand for: the parts of the id, the group."""
    save(figure, found, path, slice_)
    for group in ET.parse(path).iter("{http://www.w3.org/2000/svg}g"):
        kind, colon, rest = group.get("id", "").partition(":")
        if colon:
            yield [kind, *rest.split(":")], group


def points(group: ET.Element) -> np.ndarray:
    """The points of the path in a group, moved as its `use` says; [point, (x, y)]."""
    path = next(e for e in group.iter() if e.tag.endswith("path"))
    moved = next((float(e.get("y", 0)) for e in group.iter() if e.tag.endswith("}use")), 0.0)
    found = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.get("d", ""))
    return np.array(found, float) + np.array([0.0, moved])


def fill(group: ET.Element) -> tuple[int, ...]:
    shown = re.search(r"fill: #(\w\w)(\w\w)(\w\w)", group[0].get("style", ""))
    assert shown
    return tuple(int(part, 16) for part in shown.groups())


def token(found, index: int) -> str:
    return visible(found.text(index))


def test_attention_at_a_layer_shows_that_layers_numbers(tmp_path):
    found, slice_ = result(), Slice(at={"layer": 2})
    expected = found["pattern"].values[2]
    rows = [
        re.findall(r"[·░▒▓█~]\s*(-?[\d.]+)", text.partition("│")[2])
        for text in plain(PATTERN, found, slice_)
    ]
    shown = [[number(cell) for cell in row] for row in rows if row]
    assert shown == [pytest.approx(list(row), abs=0.006) for row in expected]
    page = Page(figure_html(PATTERN, found, slice_))
    cells = [[number(cell) for cell in row[1:]] for row in page.tables[0][1:]]
    assert cells == [pytest.approx(list(row), abs=0.006) for row in expected]
    scale = shades(expected, None)
    from remote_mi.report.colors import LIGHT

    drawn = [g for g in groups(PATTERN, found, tmp_path / "p.svg", slice_) if g[0][0] == "cell"]
    assert len(drawn) == expected.size
    for (_, row, column, value), group in drawn:
        at = int(row), int(column)
        assert float(value) == pytest.approx(expected[at], rel=1e-4)
        share = float((expected[at] - scale.low) / (scale.high - scale.low))
        assert fill(group) == pytest.approx(interpolate(LIGHT.ordered, share), abs=3)


def test_bars_show_value_and_interval_in_numbers_and_in_length(tmp_path):
    found = result()
    effect = found["effect"]
    order = np.argsort(-np.abs(effect.values).reshape(-1), kind="stable")[:8]
    expected = [
        tuple(float(a.reshape(-1)[i]) for a in (effect.values, effect.low, effect.high))
        for i in order
    ]
    said = [re.findall(r"[+-]\d+\.\d+", text) for text in plain(Bars("effect"), found)[:8]]
    assert [tuple(map(float, s)) for s in said] == [pytest.approx(e, abs=0.006) for e in expected]

    html = figure_html(Bars("effect"), found, Slice())
    rows = [row for row in Page(html).tables[0][1:] if row]
    numbers = [(float(row[1]), *map(float, re.findall(r"-?[\d.]+", row[3]))) for row in rows]
    assert numbers == [pytest.approx(e, abs=0.051) for e in expected]
    bars = re.findall(r'<rect class="\w+" x="([\d.]+)" y="2" width="([\d.]+)"', html)
    whiskers = re.findall(r'class="whisker" d="M([\d.]+) 6H([\d.]+)', html)
    zero = float(re.search(r'class="zero" d="M([\d.]+)', html)[1])
    unit = float(bars[0][1]) / abs(expected[0][0])
    for (x, width), whisker, (value, low, high) in zip(bars, whiskers, expected, strict=True):
        end = float(x) + float(width) if value > 0 else float(x)
        assert end == pytest.approx(zero + unit * value, abs=0.1)
        assert [float(w) for w in whisker] == pytest.approx(
            [zero + unit * low, zero + unit * high], abs=0.1
        )

    drawn = list(groups(Bars("effect"), found, tmp_path / "b.svg"))
    ends = {int(p[1]): points(g)[:, 0] for p, g in drawn if p[0] == "bar"}
    spans = {int(p[1]): points(g)[:, 0] for p, g in drawn if p[0] == "interval"}
    zero = ends[0].min()  # the largest is positive, and begins there
    unit = (ends[0].max() - zero) / expected[0][0]
    for place, (value, low, high) in enumerate(expected):
        far = ends[place].max() if value > 0 else ends[place].min()
        assert (far - zero) / unit == pytest.approx(value, abs=0.02)
        assert sorted((spans[place] - zero) / unit) == pytest.approx([low, high], abs=0.02)


def test_bands_of_lines_lie_where_intervals_and_control_are(tmp_path):
    found = result()
    for name in ("curve", "effect"):
        array, band = found[name], found.control_band(name)
        html = figure_html(Lines(name), found, Slice())
        ticks = re.findall(r'class="end" x="46" y="([\d.]+)">(-?[\d.]+)<', html)
        slope, offset = np.polyfit(
            [float(y) - 4 for y, _ in ticks], [float(v) for _, v in ticks], 1
        )
        for css, lines in (("band l", len(array.values)), ("control", int(band is not None))):
            outlines = re.findall(rf'<polygon class="{css}\d?" points="([^"]+)"', html)
            assert len(outlines) == lines
            for index, outline in enumerate(outlines):
                y = np.array([float(p.split(",")[1]) for p in outline.split()]) * slope + offset
                high = array.high[index] if css == "band l" else band.max(0)
                low = array.low[index] if css == "band l" else -band.max(0)
                assert y == pytest.approx([*high, *low[::-1]], abs=0.02), (name, css)

        assert ('<i class="hollow">' in html) == (band is not None), "hollow points are explained"
        drawn = list(groups(Lines(name), found, tmp_path / f"{name}.svg"))
        assert ("hollow: " in (tmp_path / f"{name}.svg").read_text()) == (band is not None)
        heights = np.concatenate([points(g)[:, 1] for p, g in drawn if p[0] == "line"])
        slope, offset = np.polyfit(heights, array.values.reshape(-1), 1)
        for (kind, *at), group in drawn:
            if kind not in ("band", "control"):
                continue
            y = points(group)[:, 1] * slope + offset
            high = array.high[int(at[0])] if kind == "band" else band.max(0)
            low = array.low[int(at[0])] if kind == "band" else -high
            for corner in (*low, *high):
                assert np.abs(y - corner).min() < 0.02, (name, kind, corner)
            assert np.abs(np.subtract.outer(y, [*low, *high])).min(1).max() < 0.02, (name, kind)


def test_lines_along_another_dimension_and_figures_turned_round_keep_their_numbers(tmp_path):
    """The values, and which control belongs to which of them."""
    found = result()
    array, band = found["effect"], found.control_band("effect")
    html = figure_html(Lines("effect", x="layer"), found, Slice())
    titles = re.findall(r"<title>(.*?)</title>|aria-label=\"(layer [^\"]*)\"", html)
    said = [re.sub("<.*?>", "", a or b) for a, b in titles]
    seen = {}
    for text in said:
        place = re.match(
            r"position (\d) .*? layer (\d): effect (-?[\d.]+).*control up to ([\d.]+)", text
        )
        if place:
            seen[int(place[2]), int(place[1])] = float(place[3]), float(place[4])
    assert len(seen) == array.values.size, said[:3]
    for at, (value, control) in seen.items():
        assert value == pytest.approx(array.values[at], abs=0.006), at
        assert control == pytest.approx(band[at], rel=0.06), at

    turned = Heatmap("effect", rows="position", columns="layer", center=0)
    page = Page(figure_html(turned, found, Slice()))
    cells = [[number(cell) for cell in row[1:]] for row in page.tables[0][1:]]
    assert cells == [pytest.approx(list(row), abs=0.051) for row in array.values.T]
    titled = re.findall(r'title="([^"]*)"', figure_html(turned, found, Slice()))
    controls = [float(re.search(r"control up to ([\d.]+)", t)[1]) for t in titled if "control" in t]
    assert controls == pytest.approx(list(band.T.reshape(-1)), rel=0.06)
    drawn = [p for p, _ in groups(Lines("effect", x="layer"), found, tmp_path / "x.svg")]
    rows = [[float(v) for v in p[2].split(",")] for p in drawn if p[0] == "line"]
    assert rows == [pytest.approx(list(row), abs=1e-3) for row in array.values.T]


def test_of_many_lines_those_that_stand_out_most_are_drawn(tmp_path):
    found = result(layers=20)
    found.arrays["effect"][13, 0], found.arrays["effect:p"][13, 0] = 9.0, 0.001
    found.arrays["effect:low"][13, 0] = found.arrays["effect:high"][13, 0] = 9.0
    for figure, dim in ((Lines("effect"), "layer"), (Lines("effect", x="layer"), "position")):
        drawn = [p for p, _ in groups(figure, found, tmp_path / "m.svg") if p[0] == "line"]
        assert len(drawn) == min(8, len(found["effect"].coords[dim]))
    drawn = [
        float(p[2].split(",")[0])
        for p, _ in groups(Lines("effect"), found, tmp_path / "m.svg")
        if p[0] == "line"
    ]
    assert 9.0 in drawn and "8 of 20 lines" in figure_html(Lines("effect"), found, Slice())
    assert any("8 of 20 lines" in text for text in plain(Lines("effect"), found))


def test_a_part_of_a_figure_has_the_control_of_that_part():
    found = result()
    found.recipe = {**found.recipe, "controls": {"pattern": "pattern"}}
    band = found.control_band("pattern")
    html = figure_html(PATTERN, found, Slice(at={"layer": 2}))
    controls = [float(c) for c in re.findall(r"control up to ([\d.]+)", html)]
    assert controls == pytest.approx(list(band[2].reshape(-1)), rel=0.06)
    said = " ".join(plain(PATTERN, found, Slice(at={"layer": 2})))
    assert "nothing is claimed: this run does not say how to test it" in said


def test_lines_as_text_have_their_letters_at_their_values():
    found = result()
    curve = found["curve"].values
    rows = [
        (float(head), body)
        for head, bar, body in (text.partition("│") for text in plain(Lines("curve"), found))
        if bar
    ]
    step = rows[0][0] - rows[1][0]
    for letter, values in zip("ab", curve, strict=True):
        at = [(body.index(letter), height) for height, body in rows if letter in body]
        seen = [height for _, height in sorted(at)]
        assert [seen[0], seen[-1]] == pytest.approx([values[0], values[-1]], abs=0.6 * step)
    said = [t for t in plain(Lines("curve"), found) if "largest:" in t]
    best = [float(re.search(r"curve (-?[\d.]+)", text)[1]) for text in said]
    assert best == pytest.approx([v[np.abs(v).argmax()] for v in curve], abs=0.006)


def test_token_grids_show_the_tokens_and_shades_of_each_prompt(project, tmp_path):
    from remote_mi.report.colors import LIGHT

    found = result()
    html = page_of(project, found)
    parts = html.split("<template>")
    grids = [
        re.search(r'<table role="grid" class="grid[^"]* tokens.*?</table>', part, re.S)
        for part in parts
    ]
    grids = [grid[0] for grid in grids if grid]
    assert len(grids) == 3, "the first prompt in the page, the others to be chosen"
    for item, grid in enumerate(grids):
        top, prob = found.each("top")[item].values, found.each("prob")[item].values
        texts = [[token(found, i).replace("␠", "␣") for i in row] for row in top[::-1, :, 0]]
        assert [row[1:] for row in Page(grid).tables[0][1:]] == texts
        levels = [int(s) for s in re.findall(r'<td class="s(\d+)"', grid)]
        assert levels == [round(float(v) * 32) for v in prob[::-1, :, 0].reshape(-1)]
        said = re.search(r'data-say="([^"]+)"', grid)[1]
        ranked = ", ".join(
            f"{token(found, i)} {p:.2f}" for i, p in zip(top[-1, 0], prob[-1, 0], strict=True)
        )
        assert said == f"layer 3 · position 0 When: {ranked}".replace("␠", "␣")
        slice_ = Slice(item=item)
        rows = [
            re.findall(r"[·░▒▓█](\S+)", text.partition("│")[2])
            for text in plain(TOKENS, found, slice_)[2:6]
        ]
        assert rows == [[token(found, i) for i in row] for row in top[::-1, :, 0]]
        drawn = list(groups(TOKENS, found, tmp_path / f"{item}.svg", slice_))
        for (kind, row, column, value), group in drawn:
            at = int(row), int(column), 0
            if kind == "cell":
                assert float(value) == pytest.approx(prob[at], rel=1e-4)
                assert fill(group) == pytest.approx(
                    interpolate(LIGHT.ordered, float(prob[at])), abs=3
                )
            else:
                assert int(value) == top[at]
                written = "".join(group.itertext()).strip()
                assert written == token(found, top[at]).replace("␠", "␣")
        assert sorted({p[0] for p, _ in drawn}) == ["cell", "token"]


def test_tables_and_texts_are_those_of_the_prompts():
    found = result()
    scores = [float(array) for array in found.each("score")]
    clean = line(found.prompts[0]["clean"])
    table = Page(figure_html(Table("score", columns=("first",)), found, Slice())).tables[0]
    assert table[0] == ["prompt", "score", "first"]
    assert [row[0] for row in table[1:]] == [clean] * 3
    assert [float(row[1]) for row in table[1:]] == pytest.approx(scores, abs=6e-4)
    assert {row[2] for row in table[1:]} == {"␣to"}
    rows = plain(Table("score", columns=("first",)), found)[1:]
    assert [float(text.removeprefix(f" {clean}").split()[0]) for text in rows] == pytest.approx(
        scores, abs=6e-4
    )
    said = "".join(found.text(t) for t in found.each("said")[0].values)
    assert said in plain(Text("said"), found)[-1]
    assert Page(figure_html(Text("said"), found, Slice())).tables[0] == [[said]]


def test_rows_of_prompts_that_begin_alike_say_where_they_differ():
    found = result()
    beginning = "The opposite of what is meant by "
    for part, word in zip(found.document["parts"], ("hot", "cold and wet", "dry"), strict=True):
        part["clean"] = f"{beginning}{word} is"
    rows = plain(Table("score"), found)
    assert [row.split("  ")[0] for row in rows[1:]] == [" …hot is", " …cold and wet is", " …dry is"]
    assert beginning in figure_html(Table("score"), found, Slice()), "a page has room for all of it"
    found.document["parts"][0]["clean"] = "Another"
    assert plain(Table("score"), found)[2].startswith(f" {beginning}"[:20])

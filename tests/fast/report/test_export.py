"""Exports: drawings from which the numbers can be read back, and tables that harm no reader."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from remote_mi import Bars, Heatmap, Lines, TokenGrid
from remote_mi.common.errors import UsageError
from remote_mi.report import tables
from remote_mi.report.colors import interpolate
from remote_mi.report.images import save
from remote_mi.report.text_fitting import Pen
from remote_mi.report.wording import Slice

from .shown import FIGURES, HOSTILE, kept, result


def drawn(figure, found, path) -> list[tuple[list[str], ET.Element]]:
    """The groups of a drawing that say what they stand for."""
    save(figure, found, path, Slice())
    tree = ET.parse(path)
    groups = [(g.get("id", ""), g) for g in tree.iter("{http://www.w3.org/2000/svg}g")]
    return [(i.split(":"), g) for i, g in groups if i.startswith(("cell:", "bar:", "line:"))]


def colour(group: ET.Element) -> tuple[int, int, int]:
    found = re.search(r"fill: #(\w\w)(\w\w)(\w\w)", group[0].get("style", ""))
    assert found
    return tuple(int(part, 16) for part in found.groups())  # type: ignore[return-value]


def test_a_heatmap_shows_its_numbers_in_the_colours_of_its_scale(tmp_path):
    from remote_mi.report.colors import LIGHT

    found = result()
    effect, marked = found["effect"].values, found.explained("effect")
    cells = drawn(Heatmap("effect", center=0), found, tmp_path / "h.svg")
    assert len(cells) == effect.size
    reach = np.abs(effect).max()
    for (_, row, column, value), group in cells:
        at = int(row), int(column)
        assert float(value) == pytest.approx(effect[at], rel=1e-4)
        expected = (
            (0xED, 0xED, 0xF0)
            if marked[at]
            else interpolate(LIGHT.centred, float(effect[at] / reach + 1) / 2)
        )
        assert colour(group) == pytest.approx(expected, abs=3), at
    assert {at for at, _ in np.ndenumerate(marked) if marked[at]}, "there is something to mark"


def test_bars_and_lines_are_as_long_and_as_high_as_their_values(tmp_path):
    found = result()
    bars = drawn(Bars("effect"), found, tmp_path / "b.svg")
    lengths, values = [], []
    for (_, _, value), group in bars:
        x = [float(n) for n in re.findall(r"[ML] ([\d.]+)", group[0].get("d", ""))]
        lengths.append(max(x) - min(x))
        values.append(abs(float(value)))
    assert lengths == pytest.approx([v / values[0] * lengths[0] for v in values], rel=0.01)
    assert values == sorted(np.abs(found["effect"].values).reshape(-1), reverse=True)[:8] or (
        values
        == pytest.approx(np.sort(np.abs(found["effect"].values).reshape(-1))[::-1][:8], rel=1e-4)
    )
    lines = drawn(Lines("curve"), found, tmp_path / "l.svg")
    heights, numbers = [], []
    for (_, _, said), group in lines:
        heights += [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", group[0].get("d", ""))]
        numbers += [float(v) for v in said.split(",")]
    assert numbers == pytest.approx(list(found["curve"].values.reshape(-1)), rel=1e-4)
    slope, offset = np.polyfit(numbers, heights, 1)
    assert heights == pytest.approx([slope * v + offset for v in numbers], abs=0.1) and slope < 0


def test_the_same_numbers_give_the_same_file(tmp_path):
    found = result()
    for ending in ("svg", "pdf", "png"):
        files = [tmp_path / f"{i}.{ending}" for i in (1, 2)]
        for path in files:
            save(Bars("effect"), found, path, Slice())
        assert files[0].read_bytes() == files[1].read_bytes(), ending


@pytest.mark.parametrize(
    "figure", [f for f in FIGURES if isinstance(f, (Heatmap, TokenGrid))], ids=lambda f: f.output
)
def test_hostile_texts_are_drawn_without_a_word(tmp_path, figure):
    found = result(HOSTILE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ending in ("svg", "pdf", "png"):
            save(figure, found, tmp_path / f"f.{ending}", Slice())
    text = (tmp_path / "f.svg").read_text(encoding="utf-8")
    elements = list(ET.fromstring(text).iter())
    tags = {element.tag.partition("}")[2] for element in elements}
    assert tags.isdisjoint({"script", "foreignObject", "a"})
    links = [v for e in elements for n, v in e.attrib.items() if n.endswith("}href")]
    assert all(link.startswith(("#", "data:image/png")) for link in links)
    assert not re.search("[\x00\x07\x1b\u202e\u2066\u200b]", text)
    assert len(text) < 600_000 and "$\\frac" in text, "a token is not set as a formula"


def test_a_map_of_many_cells_stays_a_small_file(tmp_path):
    found = result([f"w{i}" for i in range(320)], n=1, layers=40)
    path = tmp_path / "big.svg"
    save(Heatmap("effect", center=0), found, path, Slice())
    assert path.stat().st_size < 400_000


def test_a_table_has_every_cell_with_interval_and_control(project, cli):
    found = kept(project, result())
    code, out, err = cli("export", "--table", "effect")
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    effect = found["effect"]
    assert len(rows) == effect.values.size
    assert list(rows[0]) == [
        "layer",
        "position",
        "position_index",
        "value",
        "low",
        "high",
        "control",
        "explained",
    ]
    for row in rows:
        at = int(row["layer"]), int(row["position_index"])
        for name, values in (
            ("value", effect.values),
            ("low", effect.low),
            ("high", effect.high),
            ("control", found.control_band("effect")),
        ):
            assert float(row[name]) == pytest.approx(values[at], rel=1e-6)
        assert row["explained"] == str(int(found.explained("effect")[at]))
    assert rows[1]["position"] == "␠Mary"
    code, out, err = cli("export", "--table", "effect", "--each", "-o", "e.json", "--json")
    assert code == 0 and json.loads(out)["file"] == "e.json", err
    each = json.loads((project / "e.json").read_text())
    assert each["columns"] == ["prompt", "layer", "position", "position_index", "value"]
    assert [r["value"] for r in each["rows"] if r["prompt"] == 2] == pytest.approx(
        list(found.each("effect")[1].values.reshape(-1)), rel=1e-6
    )
    code, out, err = cli("export", "--table", "pairs")
    assert [float(r["score"]) for r in csv.DictReader(io.StringIO(out))] == pytest.approx(
        [float(a) for a in found.each("score")]
    )


def test_no_cell_of_a_table_is_a_formula_or_a_command(project, cli):
    kept(project, result(HOSTILE[:8]))
    code, out, err = cli("export", "--table", "top")
    assert code == 0, err
    cells = [cell for row in csv.reader(io.StringIO(out)) for cell in row]
    texts = [c for c in cells if not re.fullmatch(r"-?[\d.e-]+", c)]
    assert texts and not [t for t in texts if t.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert any(t.startswith("'=cmd") for t in texts)
    assert cli("export", "--table", "top", "-o", "t.tex")[0] == 0
    body = (project / "t.tex").read_text()
    assert r"\$\textbackslash{}frac" in body and r"\begin{longtable}" in body
    assert not re.search(r"(?<!\\)[&%#_$](?![\\\s])(?![^$]*\$)", body.partition(r"\endfoot")[2])
    assert body.isascii() or all(ord(c) < 0x180 for c in body)


def test_latex_sets_text_as_it_is_whatever_the_engine():
    assert tables.escape_latex(r"a&b %c _d #e ^f ~g \h {i} $j") == (
        r"a\&b \%c \_d \#e \textasciicircum{}f \textasciitilde{}g \textbackslash{}h \{i\} \$j"
    )
    assert tables.escape_latex("--option ''q'' ?`") == "-{}-option '{}'q'{}' ?{}`", "no ligatures"
    assert tables.escape_latex('*[x]"') == r"{*}{[}x{]}\texttt{\char34}", (
        "nothing that \\\\ would take"
    )
    assert (
        tables.escape_latex("é Ł 中 ą ±") == r"é Ł \texttt{U+4E2D} \texttt{U+0105} \texttt{U+00B1}"
    )
    rows = [["a", 1.25e-7, -0.5, float("nan"), 3, True], ["b", 2.0, 0.123456, 1e9, -4, False]]
    body = tables.format_table(list("uvwxyz"), rows, ".tex")
    assert r"a & $1.25\times10^{-7}$ & $-0.5$ & -- & 3 & $\sim$ \\" in body
    assert r"b & 2 & 0.123 & $1\times10^{9}$ & -4 &  \\" in body
    assert r"\begin{tabular}{lrrrrr}" in body


def test_what_the_font_lacks_is_written_as_its_code_and_nothing_is_wider_than_its_place():
    from pathlib import Path

    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font, LoadFlags

    font = FT2Font(findfont("DejaVu Sans"))
    font.set_size(5.5, 72)
    drawn, kept_as_text = Pen(Path("f.pdf")), Pen(Path("f.svg"))
    assert drawn.fit("a␠中\U0001f389␛", 1000, 5.5) == "a␣\\u4e2d\\U0001f389\\x1b"
    assert kept_as_text.fit("a␠中", 1000, 5.5) == "a␣中"
    for text in (
        " internationalization",
        "mmmmmmmmmm",
        " 中文字",
        "iiiiiiiiiiiiiiiiiiii",
        "x" * 500,
    ):
        fitting = drawn.label(text, 30, 5.5)
        font.set_text(fitting, flags=LoadFlags.NO_HINTING)
        assert font.get_width_height()[0] / 64 <= 30.5, fitting
        assert fitting.endswith("…")
    assert drawn.label(" to", 30, 5.5) == "␣to"


def test_a_short_table_is_one_that_floats(project, cli):
    kept(project, result())
    assert cli("export", "--table", "score", "--each", "-o", "t.tex")[0] == 0
    body = (project / "t.tex").read_text()
    assert r"\toprule" in body and r"\begin{tabular}" in body and body.count(r" \\") == 4


def test_what_cannot_be_exported_is_said(project, cli, tmp_path):
    kept(project, result())
    for words, said in (
        ([], "choose --figure NAME or --table NAME"),
        (["--figure", "effect"], "a figure needs a file"),
        (["--figure", "effect", "-o", "f.gif"], ".svg, .pdf, .png"),
        (["--figure", "pairs", "-o", "f.svg"], "remote-mi export aaaa1111 --table pairs -o f.csv"),
        (["--figure", "text", "-o", "f.svg"], "remote-mi export aaaa1111 --table text -o f.csv"),
        (["--figure", "effect", "--item", "2", "-o", "f.svg"], "--table effect --item 2"),
        (["--figure", "effect", "--at", "head=1", "-o", "f.svg"], "cannot be cut at 'head'"),
        (["--figure", "largest effect", "--at", "layer=1", "-o", "f.svg"], "leave out --at"),
        (["--figure", "pattern", "--each", "-o", "f.svg"], "--each goes with --table"),
        (["--table", "effect", "--each", "--item", "2"], "without --item"),
        (["--table", "pattern", "--at", "layer=1"], "--at goes with --figure"),
        (["--table", "effect", "-o", "t.xls"], ".csv, .json, .tex"),
    ):
        code, _, err = cli("export", *words)
        assert code == 2 and said in err, err
    assert cli("export", "--table", "efect")[0] == 3
    for words in (
        ["--figure", "effect", "-o", "no/where.svg"],
        ["--table", "effect", "-o", "no/t.csv"],
        ["--figure", "nothing", "-o", "f.svg"],
        ["--table", "effect", "--item", "9"],
        ["--figure", "top", "--item", "9", "-o", "f.svg"],
        ["--figure", "pattern", "--at", "layer=9", "-o", "f.svg"],
    ):
        code, _, err = cli("export", *words)
        assert code == 3 and err.startswith("error: "), words
    assert not (project / "f.svg").exists(), "what is refused writes nothing"
    (project / "f.svg").mkdir()
    code, _, err = cli("export", "--figure", "effect", "-o", "f.svg")
    assert code == 1 and "cannot write f.svg" in err
    with pytest.raises(UsageError):
        save(FIGURES[5], result(), tmp_path / "t.svg", Slice())

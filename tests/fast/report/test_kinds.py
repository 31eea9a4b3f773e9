"""Every kind of figure through every medium: what a kind has to keep, whoever wrote it."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len

from remote_mi.common.errors import NotFound, UsageError
from remote_mi.recipes import figures
from remote_mi.recipes.card_source import cards_in
from remote_mi.recipes.figure_files import figure_module
from remote_mi.recipes.figures import (
    Bars,
    Figure,
    Heatmap,
    Lines,
    Table,
    Text,
    TokenGrid,
    figures_from_json,
)
from remote_mi.report.document.content import build_report
from remote_mi.report.document.html import figure_html, html
from remote_mi.report.document.markdown import markdown
from remote_mi.report.images import save
from remote_mi.report.kinds.registry import kind_of, kinds
from remote_mi.report.summary import summary
from remote_mi.report.tables import format_table, table
from remote_mi.report.terminal import figure_lines, plain_text
from remote_mi.report.wording import Slice
from remote_mi.store.comparison import compare
from remote_mi.store.result import Result

from ..test_docs import ROOT, blocks
from .pages import Page
from .shown import HOSTILE, kept, result
from .viewing import Viewer, driven, whole

#: A figure of every kind that comes with the package, by the class's name.
FIGURES: dict[str, Figure] = {
    "Heatmap": Heatmap("effect", center=0, unit="nats"),
    "TokenGrid": TokenGrid("top", shade="prob"),
    "Bars": Bars("effect"),
    "Table": Table("score", columns=("first",)),
    "Lines": Lines("curve"),
    "Text": Text("said"),
}
NAMES = [*FIGURES, "Histogram"]


def declared(project: Path) -> type[Figure]:
    """The kind of figure that docs/extending.md writes, in a project of its own."""
    page = ROOT / "docs" / "extending.md"
    block = next(b for b in blocks(page) if b.argument == "figures/histogram.py")
    (project / "figures").mkdir(exist_ok=True)
    (project / "figures" / "histogram.py").write_text(block.text, encoding="utf-8")
    module = figure_module("figures.histogram")
    assert module is not None
    return module.Histogram


@pytest.fixture
def figure(request: pytest.FixtureRequest, project: Path) -> Figure:
    """The figure of a name of `NAMES`."""
    if request.param in FIGURES:
        return FIGURES[request.param]
    return declared(project)("effect")  # type: ignore[call-arg]


def with_nan() -> Result:
    """A result in which some numbers are none, and all of one line."""
    found = result()
    for name in [n for n in found.arrays if n.startswith(("effect", "curve", "prob", "score"))]:
        values = np.array(found.arrays[name], np.float64)
        if values.ndim:
            values[0] = np.nan
            values.reshape(-1)[-1] = np.inf
        found.arrays[name] = values
    found.arrays["score@0"] = np.float32(np.nan)
    return found


def of_nothing_but_nan() -> Result:
    found = result()
    for name, values in found.arrays.items():
        if np.asarray(values).dtype.kind == "f":
            found.arrays[name] = np.full_like(values, np.nan)
        elif np.asarray(values).dtype.kind == "i":
            found.arrays[name] = np.full_like(values, -1)
    return found


def without_the_last_dimension(*names: str) -> Result:
    """A result in which these outputs are empty along their last dimension."""
    found = result()
    for name in [n for n in found.arrays if re.split("[@:]", n)[0] in names]:
        found.arrays[name] = found.arrays[name][..., :0]
    for name in names:
        for axes in [found.document["axes"][name]] if name in found.document["axes"] else []:
            axes["rank"] = []
    return found


RESULTS: dict[str, Callable[[], Result]] = {
    "three pairs": result,
    "one prompt": lambda: result(n=1),
    "one cell": lambda: result(["x"], n=1, layers=1),
    "no position": lambda: result([], n=2),
    "no layer": lambda: result(layers=0),
    "no rank": lambda: without_the_last_dimension("top", "prob"),
    "some NaN": with_nan,
    "all NaN": of_nothing_but_nan,
    "hostile": lambda: result(HOSTILE),
}
SLICES = {"all": Slice(), "one": Slice(item=0, pair=0)}

each_kind = pytest.mark.parametrize("figure", NAMES, indirect=True)
each_result = pytest.mark.parametrize("made", RESULTS.values(), ids=RESULTS)


def acting(text: str) -> list[str]:
    """Characters that a screen would act on."""
    categories = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [c for c in text if unicodedata.category(c) in categories and c not in "\n\t"]


def test_every_kind_is_tried_here():
    own = [kind for kind in kinds() if kind.__module__ == figures.__name__]
    assert {kind.__name__ for kind in own} == set(FIGURES)
    assert all(kind_of(FIGURES[kind.__name__]) is kinds()[kind] for kind in own)
    assert {kind.kind for kind in own} <= set(figures.KINDS)


@each_kind
@each_result
def test_text_fits_a_terminal_and_holds_nothing_that_acts(figure, made):
    found = made()
    for slice_ in SLICES.values():
        for width in (60, 80, 120):
            lines = list(figure_lines(figure, found, width, slice_))
            assert lines, "at least a word that there is nothing"
            for text in lines:
                assert not acting(text.plain) and "\n" not in text.plain
                assert not text.no_wrap or cell_len(text.plain) <= width, text.plain


@each_kind
@each_result
def test_words_are_sentences(figure, made):
    for slice_ in SLICES.values():
        said = summary(figure, made(), slice_)
        assert said and not any(acting(text) or "\n" in text or not text.strip() for text in said)


@each_kind
@each_result
def test_a_page_shows_it_and_runs_nothing_of_it(figure, made, project):
    found = made()
    for slice_ in SLICES.values():
        text = figure_html(figure, found, slice_)
        page = Page(text)
        assert page.tags and not acting(text) and not page.scripts
        assert not [tag for tag, _ in page.tags if tag in ("img", "a", "iframe", "object")]
        assert not [name for _, given in page.tags for name in given if name.startswith("on")]
    found.recipe = {**found.recipe, "figures": [figure.to_json()]}
    run = kept(project, found)
    report = build_report(project, [run.path])
    assert report.sections[0].shown[0].problem == ""
    page = Page(html(report))
    assert [kind for kind, _ in page.tags].count("figure") == 1
    kinds = [given.get("type") for given, _ in page.scripts]
    assert kinds.count("application/json") == len(kinds) - 1, "the page's own, and data"
    assert f"#### {figure.name}" in markdown(report, {})


@each_kind
@each_result
def test_a_picture_is_drawn_or_refused_with_what_to_type(figure, made, tmp_path):
    found = made()
    for ending in ("svg", "pdf", "png") if made in (result, RESULTS["hostile"]) else ("svg",):
        path = tmp_path / f"f.{ending}"
        if not kind_of(figure).can_draw:
            with pytest.raises(UsageError, match="--table"):
                save(figure, found, path, Slice())
            continue
        try:
            save(figure, found, path, Slice())
        except NotFound as error:
            assert "no values" in error.message
            continue
        assert path.stat().st_size > 1000
        if ending == "svg":
            assert not acting("".join(ET.parse(path).getroot().itertext()))


@each_kind
@each_result
def test_a_table_has_as_many_cells_as_heads_whatever_its_format(figure, made):
    found = made()
    found.recipe = {**found.recipe, "figures": [figure.to_json()]}
    for each in (None, [0]):
        heads, rows = table(found, figure.name, each)
        assert all(len(row) == len(heads) for row in rows)
        read = list(csv.reader(io.StringIO(format_table(heads, rows, ".csv"))))
        assert len(read) == len(rows) + 1 and {len(row) for row in read} == {len(heads)}
        assert len(json.loads(format_table(heads, rows, ".json"))["rows"]) == len(rows)
        assert format_table(heads, rows, ".tex").count(r" \\") >= len(rows) + 1


@each_kind
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("three pairs", (60, 20)),
        ("hostile", (60, 20)),
        ("no position", (80, 24)),
        ("all NaN", (120, 40)),
    ],
)
def test_the_viewer_takes_every_key_on_it(figure, name, size, project):
    found = RESULTS[name]()
    found.recipe = {**found.recipe, "figures": [figure.to_json()]}
    folder = kept(project, found).path
    keys = ("down", "right", "up", "end", "ctrl+end", "ctrl+home", "pagedown", "g", "G", "m", "M")
    slices = ("p", "p", "P", "l", "c", "s", "y", "d", "n")

    async def drive(app: Viewer, pilot) -> None:
        assert app.opened.problem == "" and figure.name[:10] in whole(app, size[0])
        await pilot.press(*keys, *slices)
        await pilot.press("slash", "a", "enter", "z", "enter", "w")
        whole(app, size[0])
        await pilot.press("escape")
        assert app.is_running and "damaged" not in whole(app, size[0])

    driven(folder, project, drive, size)


@each_kind
def test_two_results_are_held_side_by_side(figure, project):
    first, second = result(n=1), result(n=1)
    for name in [n for n in second.arrays if np.asarray(second.arrays[n]).dtype.kind == "f"]:
        second.arrays[name] = second.arrays[name] + 1
    runs = []
    for number, found in enumerate((first, second)):
        found.recipe = {**found.recipe, "figures": [figure.to_json()]}
        runs.append(str(kept(project, found, f"{number}" * 8).path))
    text = plain_text_of(compare(*runs))
    known = second.outputs[figure.output].kind == "number"
    assert f"{figure.name}: " in text
    assert (f"{figure.name}: b − a" in text) == (known and kind_of(figure).numeric)


def plain_text_of(comparison) -> str:
    from remote_mi.report import comparison as shown

    return shown.plain_text(comparison)


@each_kind
def test_a_figure_is_read_back_as_it_was_declared(figure):
    assert figures_from_json([figure.to_json()]) == [figure]
    assert figures_from_json([{**figure.to_json(), "of a later version": 1}]) == [figure]


def test_a_run_shows_what_it_can_where_the_kind_is_nowhere_to_be_found(project):
    found = result()
    found.recipe["figures"].append({"figure": "nowhere", "output": "effect"})
    assert [f.kind for f in found.figures] == [f["figure"] for f in found.recipe["figures"][:-1]]
    assert "probing" in plain_text(found)


def test_a_kind_in_a_project_is_met_by_its_name_and_an_edited_file_counts_as_edited(project):
    first = declared(project)
    data = first("effect", bins=3).to_json()  # type: ignore[call-arg]
    path = project / "figures" / "histogram.py"
    path.write_text(path.read_text().replace("bins: int = 8", "bins: int = 9"))
    module = figure_module("figures.histogram")
    assert module is not None
    again = module.Histogram
    assert again("effect").bins == 9 and figures_from_json([data]) == [again("effect", bins=3)]


def test_what_is_wrong_with_a_projects_figure_is_said_with_its_line(project, cli):
    (project / "figures").mkdir()
    (project / "figures" / "broken.py").write_text("import json\n\njson.nothing\n")
    found = result()
    found.recipe["figures"].append({"figure": "broken", "output": "effect"})
    kept(project, found)
    code, _, err = cli("view", "--plain")
    assert code == 7 and "broken.py:3: importing the figure failed: AttributeError" in err
    (project / "recipes").mkdir()
    (project / "recipes" / "mine.py").write_text(
        "from figures.broken import Broken\nfrom remote_mi import recipe\n\n\n"
        '@recipe(over="prompt", returns={"x": ()}, figures=[Broken("x")])\n'
        "def mine(lm, prompt):\n    return {}\n"
    )
    code, _, err = cli("recipes", "show", "mine")
    assert code == 2 and re.search(r"broken\.py:3: importing the figure failed", err)


RAISING = """
from dataclasses import dataclass
from rich.text import Text
from remote_mi.recipes.figures import Figure
from remote_mi.report.kinds.kind import Kind, Layout
from remote_mi.report.kinds.registry import register
import os, sys


@dataclass(frozen=True)
class Raising(Figure):
    kind = "raising"


class RaisingKind(Kind):
    def layout(self, figure, result, slice_):
        return Layout(figure, result, slice_)

    def text(self, layout, width):
        yield Text("as text")

    def sentences(self, layout):
        yield "A sentence."

    def html(self, layout, place):
        return "" + 1

    def draw(self, layout, axes, pen):
        os._exit(0)

    def rows(self, figure, result, each):
        sys.exit()


register(Raising, RaisingKind())
"""


def test_an_error_in_a_projects_kind_is_said_with_its_line(project, cli):
    (project / "figures").mkdir()
    (project / "figures" / "raising.py").write_text(RAISING)
    found = result()
    found.recipe = {**found.recipe, "figures": [{"figure": "raising", "output": "effect"}]}
    kept(project, found)
    lines = RAISING.splitlines()
    for words, method, raised in (
        (("report", "-o", "r.html"), "html", 'TypeError: can only concatenate str (not "int")'),
        (("report", "-o", "r.md"), "draw", "os._exit(0) would end the whole process"),
        (("export", "--figure", "effect", "-o", "f.svg"), "draw", "os._exit(0) would end"),
        (("export", "--table", "effect"), "rows", "sys.exit() would end the whole process"),
    ):
        at = next(i for i, text in enumerate(lines) if f"def {method}(" in text) + 2
        code, _, err = cli(*words)
        assert code == 2 and f"raising.py:{at}: {method}(…) of the figure 'raising'" in err, err
        assert raised in err and "bug in remote_mi" not in err
    code, out, _ = cli("view", "--plain")
    assert code == 0 and "as text" in out


def test_a_figure_that_cannot_be_shown_does_not_keep_back_the_others(project, cli):
    found = result()
    wrong = [{"figure": "token_grid", "output": "top", "shade": "effect"}]
    wrong += [{"figure": "token_grid", "output": "said"}, {"figure": "heatmap", "output": "score"}]
    found.recipe = {**found.recipe, "figures": [*wrong, Text("said", title="last").to_json()]}
    kept(project, found)
    code, out, _ = cli("view", "--plain")
    assert code == 0 and out.count("cannot be shown: ") == len(wrong) and "last" in out
    assert "'effect' has the shape (4, 4), 'top' (4, 4, 2)" in " ".join(out.split())
    code, _, err = cli("view", "--plain", "--only", "top")
    assert code == 3 and "shade names an output of one number for each token" in err


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("center", [1e308, -1e308, 1e39])
def test_a_centre_beyond_all_numbers_ends_no_command(project, cli, center):
    found = result()
    found.recipe = {**found.recipe, "figures": [Heatmap("effect", center=center).to_json()]}
    kept(project, found)
    for words in (("view", "--plain"), ("report", "-o", "r.html"), ("report", "-o", "r.md")):
        code, _, err = cli(*words)
        assert code == 0, (words, err)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "uint64", "float16", "float64"])
def test_the_figures_of_a_prompt_are_those_of_its_numbers_in_any_dtype(dtype):
    """A recipe may return booleans and whole numbers; only their means are always floats."""

    def shown(dtype: str) -> list[str]:
        found = result()
        whole = {name: (found.arrays[name] > 0.3).astype(dtype) for name in ("effect@0", "curve@0")}
        found.arrays = {**found.arrays, **whole}
        return [
            line.plain
            for figure in found.figures
            if figure.output in ("effect", "curve")
            for line in figure_lines(figure, found, 80, Slice(pair=0))
        ]

    assert shown(dtype) == shown("float32")


def test_two_classes_of_one_kind_are_refused():
    with pytest.raises(UsageError, match="two figure classes have the kind 'heatmap'"):
        type("Other", (Figure,), {"kind": "heatmap", "__module__": __name__})
    assert figures.KINDS["heatmap"] is Heatmap


def test_a_figure_that_nothing_shows_says_what_to_do():
    class Unshown(Figure):
        kind = "unshown_in_tests"

    try:
        with pytest.raises(UsageError, match="nothing to show a figure of kind 'unshown_in"):
            list(figure_lines(Unshown("effect"), result(), 80))
    finally:
        del figures.KINDS["unshown_in_tests"]


def test_a_run_with_a_figure_of_its_project_goes_elsewhere_without_it(
    project, tiny_llama, cli, tmp_path, monkeypatch
):
    declared(project)
    (project / "recipes").mkdir()
    recipe = next(b for b in blocks(ROOT / "docs" / "extending.md") if "spread.py" in b.argument)
    (project / "recipes" / "spread.py").write_text(recipe.text)
    words = ("-p", "prompt=When Mary and John", "--model", str(tiny_llama))
    code, out, err = cli("run", "spread", *words)
    assert code == 0 and "length ──" in out and "█" in out, err
    (run,) = (project / "runs").glob("*-spread-*")
    assert (run / "source" / "figures" / "histogram.py").is_file(), "a module that it imports"
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run, elsewhere / "runs" / run.name)
    monkeypatch.setenv("REMOTE_MI_PROJECT", str(elsewhere))
    monkeypatch.delitem(figures.KINDS, "histogram")
    assert cli("reproduce", run.name, "--verify-only")[0] == 0
    code, out, err = cli("view", "--plain", run.name)
    assert code == 0 and "layer │" in out, "nothing of the run's folder is imported"
    assert "histogram" not in figures.KINDS
    code, out, err = cli("reproduce", run.name)
    assert code == 0 and "reproduced" in out, err


def test_an_installed_package_declares_a_kind_by_its_entry_point(project, tmp_path, monkeypatch):
    page = ROOT / "docs" / "extending.md"
    block = next(b for b in blocks(page) if b.argument == "figures/histogram.py")
    text = block.text.replace('kind = "histogram"', 'kind = "installed_histogram"')
    (tmp_path / "installed_kind.py").write_text(text, encoding="utf-8")
    about = tmp_path / "installed_kind-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: installed_kind\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[remote_mi.figures]\ninstalled_histogram = installed_kind\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "recipe.py"
    path.write_text(
        "from installed_kind import Histogram as Spread\nfrom remote_mi import recipe\n\n\n"
        '@recipe(over="prompt", returns={"x": ()}, figures=[Spread("x", bins=3)])\n'
        "def mine(lm, prompt):\n    return {}\n"
    )
    try:
        (figure,) = cards_in(path)[0].figures
        assert figure.to_json()["figure"] == "installed_histogram" and kind_of(figure).can_draw
        figures.KINDS.pop("installed_histogram"), sys.modules.pop("installed_kind")
        (again,) = figures_from_json([figure.to_json()])
        assert again.to_json() == figure.to_json()
    finally:
        figures.KINDS.pop("installed_histogram", None)
        sys.modules.pop("installed_kind", None)

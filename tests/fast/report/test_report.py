"""Reports: every figure in words and as HTML and Markdown, true to the arrays, harmless to all."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from remote_mi import Bars, Heatmap, Lines
from remote_mi.common.errors import UsageError
from remote_mi.report.document import author_text, bibliography, method
from remote_mi.report.document.commands import run_command
from remote_mi.report.document.content import build_report
from remote_mi.report.document.markdown_text import escape
from remote_mi.report.summary import headline, summary
from remote_mi.report.terminal import figure_lines
from remote_mi.store.result import Result
from remote_mi.store.studies import PointRecord, StudyRecord, StudyRecords

from .pages import Page, number, page_of
from .shown import CARD, FIGURES, kept, result


def test_every_figure_is_said_in_words():
    found = result(n=6)
    said = {f.name: summary(f, found) for f in FIGURES}
    reading, first = said["effect"][:2]
    effect, control = found["effect"], found.control_band("effect")
    assert reading.startswith("effect (n=6) stands out at position 2 ␠and, layer 1: value ")
    assert first == (
        f"Largest effect (n=6): {effect[1, 2]:.2f} nats at layer 1 · position 2 ␠and, 95% CI "
        f"[{effect.low[1, 2]:.2f}, {effect.high[1, 2]:.2f}], control up to {control[1, 2]:.2f}."
    )
    low, high = effect.values.min(), effect.values.max()
    assert said["effect"][2] == f"All 16 cells lie between {low:.2f} and {high:.2f}."
    explained = found.explained("effect")
    assert said["effect"][3].startswith(f"Control: {explained.sum()} of 16 (marked ~) are ")
    curve = " ".join(said["curve over layers"])
    assert re.search(r"head 0: curve goes from -(1.0|0.9)", curve)
    assert "stands out at" not in curve, "without a control nothing is claimed"
    assert "head 1: It changes sign between layer 0 and layer 1." in curve
    heads = [text for text in said["curve over layers"] if "Largest at layer 3: curve " in text]
    assert len(heads) == 2
    assert said["pattern"][0].startswith("Shown at layer 0; the largest value overall is at layer ")
    assert said["top"][0] == "Prompt 1 of 6: “When Mary and to”."
    top, prob = found.each("top")[0], found.each("prob")[0]
    last = found.text(top[-1, -1, 0]).replace(" ", "␠")
    assert f"the last layer gives “{last}” (prob {prob[-1, -1, 0]:.2f})" in said["top"][1]
    assert said["text"] == ["Prompt 1 of 6: “When Mary and to”.", "When Mary and to"]
    assert said["pairs"][0] == "6 rows, one per prompt."
    score = found["score"]
    assert said["pairs"][1].startswith(
        f"score: mean {float(score):.2f}, 95% CI [{score.low:.2f}, {score.high:.2f}], from "
    )
    assert said["pairs"][2] == "first, the first of each row: “␠to” 6 times."
    assert headline(found).endswith("at position 2 ␠and, layer 1")


def test_a_figure_that_says_nothing_new_points_to_the_one_that_said_it(project):
    run = kept(project, result(n=6))
    (section,) = build_report(project, [run.path]).sections
    assert [shown.label for shown in section.shown] == [
        "Figure 1",
        "Figure 2",
        "Figure 3",
        "Figure 4",
        "Figure 5",
        "Figure 6",
        "Table 1",
    ]
    heatmap, bars = section.shown[:2]
    assert heatmap.sentences[1].startswith("Largest effect (n=6): ")
    units = Heatmap("effect", center=0), Bars("effect")
    found = result(n=6)
    found.recipe = {**found.recipe, "figures": [figure.to_json() for figure in units]}
    run = kept(project, found, "bbbb2222")
    (section,) = build_report(project, [run.path]).sections
    assert section.shown[1].sentences == ["For a description, see Figure 1."]
    assert bars.sentences, "without the unit the sentence is another one"


def test_what_a_control_explains_is_not_told():
    found = result(n=6)
    arrays = {k: np.array(v) for k, v in found.arrays.items()}
    arrays["effect:p"][1, 2] = 0.2
    other = Result(found.recipe, found.document, arrays, found.provenance)
    assert not found.explained("effect")[1, 2] and other.explained("effect")[1, 2]
    for one, named in ((found, True), (other, False)):
        said = " ".join(summary(Heatmap("effect"), one))
        assert ("layer 1 · position 2" in said) == named
        assert headline(one).endswith("at position 2 ␠and, layer 1") == named


def test_dimensions_keep_the_order_of_the_declaration_when_json_was_sorted():
    found = result()
    document = json.loads(json.dumps(found.document, sort_keys=True))
    again = Result(found.recipe, document, found.arrays, found.provenance)
    assert again["curve"].dims == ("head", "layer")
    assert again["pattern"].dims == ("layer", "query", "key")


def test_numbers_in_the_page_and_in_plain_text_are_those_of_the_arrays(project):
    found = result()
    page = Page(page_of(project, found))
    table = next(t for t in page.tables if t[0][0] == "layer" and len(t) == 5)
    assert table[0] == ["layer", "When", "␣Mary", "␣and", "␣to"]
    effect = found["effect"].values
    plain = [t.plain for t in figure_lines(Heatmap("effect", center=0), found, 80)]
    for row, values in enumerate(effect[::-1]):  # the last layer on top
        assert [number(c) for c in table[row + 1][1:]] == pytest.approx(list(values), abs=0.051)
        cells = re.findall(r"[·░▒▓█~]\s*(-?[\d.]+)", plain[row + 1].partition("│")[2])
        assert [number(c) for c in cells] == pytest.approx(list(values), abs=0.051)
    data = [json.loads(text) for a, text in page.scripts if a.get("type") == "application/json"]
    by_name = {d["output"]: d for d in data}
    for name, field, values in (
        ("effect", "v", effect),
        ("effect", "lo", found["effect"].low),
        ("effect", "band", found.control_band("effect")),
        ("pattern", "v", found["pattern"].values),
    ):
        assert by_name[name][field] == pytest.approx(list(values.reshape(-1)), rel=1e-3), name
    marked = found.explained("effect").reshape(-1)
    assert by_name["effect"]["mark"] == "".join("01"[int(m)] for m in marked)
    signs = [c.startswith("~") for row in table[1:] for c in row[1:]]
    assert signs == list(found.explained("effect")[::-1].reshape(-1))


def test_lines_are_drawn_where_their_values_are(project):
    found = result()
    page = page_of(project, found)
    scale = re.findall(r'x="46" y="([\d.]+)">(-?[\d.]+)</text>', page)
    (y0, v0), (y1, v1) = [(float(y) - 4, float(v)) for y, v in (scale[0], scale[-1])]
    points = re.findall(r'<circle class="point l(\d)[^"]*" cx="[\d.]+" cy="([\d.]+)"', page)
    drawn = [v0 + (float(y) - y0) / (y1 - y0) * (v1 - v0) for _, y in points]
    assert drawn == pytest.approx(list(found["curve"].values.reshape(-1)), abs=0.02)


def test_a_report_of_a_real_run_can_be_made_again_from_its_command(project, tiny_llama, cli):
    pair = {
        "clean": "When Mary and John went to the store, John gave a drink to",
        "corrupt": "When Mary and John went to the store, Mary gave a drink to",
        "answer": " Mary",
        "wrong": " John",
    }
    texts = [word for name, text in pair.items() for word in ("-p", f"{name}={text}")]
    ids = []
    for words in (
        ["activation_patching", *texts, "--site", "attn_out"],
        ["activation_patching", "--phenomenon", "ioi:store", "-n", "2", "--seed", "3"],
        ["logit_lens", "-p", "prompt=Mary's “city”", "--dtype", "float32"],
    ):
        code, out, err = cli("run", *words, "--model", tiny_llama, "-q")
        assert code == 0, err
        ids.append(out.strip())
    code, out, err = cli("report", *ids, "-o", "out.html", "--json")
    assert code == 0 and json.loads(out)["runs"] == ids, err
    text = (project / "out.html").read_text()
    for heading in (
        "Question",
        "Model",
        "Method",
        "Data",
        "Results",
        "Controls and limits",
        "Discussion",
        "Reproduction",
        "Environment",
        "References",
    ):
        assert f"<h2>{heading}</h2>" in text
    assert "write here: discussion" in text and "Zhang, F." in text and "Σ effect" in text
    assert str(project) not in text, "a report tells nothing of the machine but the model's folder"
    made = build_report(project, [project / "runs" / i for i in ids])
    for section in made.sections:
        words = shlex.split(section.command)
        code, out, err = cli(*words[1:], "--dry-run", "--json")
        assert code == 0, err
        assert json.loads(out)["key"] == section.result.provenance["key"], section.command


def test_a_report_cites_recipes_data_and_software_and_says_how_far_intervals_go(project):
    found = result()
    source = "after Hanna et al. 2023, arXiv:2305.00586; no such paper, arXiv:9999.99999"
    prompts = {"origin": "greater_than", "seed": 0, "source": source}
    found.provenance = {**found.provenance, "prompts": prompts}
    run = kept(project, found)
    report = build_report(project, [run.path])
    assert [r.key for r in report.references] == [
        "fiottokaufman2025nnsight",
        "hanna2023greater",
        "zhang2023patching",
    ]
    assert report.recipe_questions == [
        "To find out where something is.",
        "Studied on: A later year (see Data).",
    ]
    assert "Fieller's (1954) for ratios of means" in report.intervals
    assert report.data[0].caption == "All 3" and report.data[0].facts["pairs"] == "3"
    text = page_of(project, found)
    assert "· 3 pairs · tiny · local-cpu/float32 · 2026-01-02</p>" in text
    asked = "To find out where something is.", "Studied on:"
    assert all(f"<p>{sentence}" in text for sentence in asked)
    mine = page_of(project, found, written={"question": "Mine?"})
    question = re.search(r'<section id="question">(.*?)</section>', mine, re.S)[1]
    assert "<p>Mine?</p>" in question and "Studied on:" not in question
    many = result(n=12)
    run = kept(project, many, "bbbb2222")
    report = build_report(project, [run.path])
    assert "rough" not in report.intervals
    assert report.data[0].caption.startswith("The first 3 of 12; all are in config.lock.yaml")


def test_prompts_that_a_page_has_no_room_for_are_said_to_be_elsewhere(project, monkeypatch):
    from remote_mi.report.document import html as page

    monkeypatch.setattr(page, "MOST_OTHERS", 2 * 16)  # the grid's other prompts; texts have fewer
    text = page_of(project, result(n=3))
    grid = re.search(r'<figure id="figure-5">.*?</figure>', text, re.S)[0]
    assert grid.count("<template>") == 1 and grid.count("<option") == 2
    assert (
        "2 of 3 prompts are in this report; another: <code>remote-mi view aaaa1111 --item 3" in grid
    )
    alone = re.search(r'<figure id="figure-6">.*?</figure>', text, re.S)[0]
    assert alone.count("<template>") == 2 and "prompts are in this report" not in alone


def test_a_figure_too_large_to_carry_all_its_slices_shows_one_and_says_how_to_see_others(project):
    found = result([f"w{i}" for i in range(80)], n=1, layers=20)
    assert found["pattern"].values.size > 120_000
    text = page_of(project, found)
    figure = re.search(r'<figure id="figure-4">.*?</figure>', text, re.S)[0]
    assert "At layer 0" in figure and "remote-mi view aaaa1111 --at layer=…" in figure
    data = json.loads(re.search(r"application/json[^>]*>(.*?)</script>", figure, re.S)[1])
    assert data["v"] == pytest.approx(list(found["pattern"].values[0].reshape(-1)), rel=1e-3)


def test_what_was_written_stands_in_its_place_and_is_never_written_over(project, cli):
    kept(project, result())
    (project / "mine.md").write_text("## Question\nIs *it*?\n\n## Discussion\n\nIt <b>is</b>.\n")
    code, _, err = cli(
        "report",
        "-o",
        "r.html",
        "--text",
        "mine.md",
        "--title",
        "My <title>",
        "--author",
        "Ada <b>",
    )
    assert code == 0, err
    text = (project / "r.html").read_text()
    assert "<p>Is <em>it</em>?</p>" in text and "It &lt;b&gt;is&lt;/b&gt;." in text
    assert "To be written" not in text and "<h1>My &lt;title&gt;</h1>" in text
    assert '<p class="author">Ada &lt;b&gt;</p>' in text
    code, _, err = cli("report", "-o", "r.html")
    assert code == 2 and "may contain what you wrote" in err
    assert cli("report", "-o", "r.html", "--force", "-q")[0] == 0
    (project / "mine.md").write_text("## Discusion\nIt is.\n")
    with pytest.raises(UsageError, match="no section 'Discusion'") as caught:
        author_text.read(project / "mine.md")
    assert "did you mean 'Discussion'" in caught.value.hint


def test_a_run_without_a_result_is_listed_and_alone_it_is_an_error(project, cli):
    kept(project, result())
    kept(
        project,
        Result(
            CARD.to_json(),
            {"parts": [], "axes": {}, "notes": [], "vocabulary": {}},
            {},
            result().provenance,
        ),
        "bbbb2222",
        "out of <memory>",
    )
    code, _, err = cli("report", "aaaa", "bbbb", "-o", "r.html")
    assert code == 0 and "out of <memory>" in err
    text = (project / "r.html").read_text()
    assert "Runs without a result" in text and "out of &lt;memory&gt;" in text
    code, _, err = cli("report", "bbbb", "-o", "other.html")
    assert code == 3 and "out of <memory>" in err and not (project / "other.html").exists()
    assert cli("report", "aaaa", "-o", "r.doc")[0] == 2


def test_a_study_is_reported_with_its_question_its_figures_and_what_failed(project, cli):
    run = kept(project, result())
    point = PointRecord(0, "probing", "tiny", "a text", {}, None, "auto", "k1", "done", run.run_id)
    failed = PointRecord(
        1, "probing", "big", "a text", {}, None, "auto", "k2", "failed", None, "no memory"
    )
    records = StudyRecords(project)
    record = records.begin(
        StudyRecord("grid", "The grid", "Is it there?", [point, failed], {"probing": ["pairs"]}),
        b"study: grid\n",
    )
    for each in (point, failed):
        records.note(record, each)
    code, _, err = cli("report", "grid", "-o", "r.html")
    assert code == 0, err
    text = (project / "r.html").read_text()
    assert "<h1>The grid</h1>" in text and "Is it there?" in text and "no memory" in text
    assert "Table 1.</b> pairs" in text and "Table 2." not in text and "Figure 1." not in text
    assert "remote-mi study run grid\nremote-mi reproduce grid\n" in re.sub("<[^>]+>", "", text)
    assert cli("report", "grid", "aaaa", "-o", "x.html")[0] == 2


def test_the_markdown_report_has_its_pictures_beside_it(project, cli):
    kept(project, result())
    assert cli("report", "-o", "out/r.md")[0] == 3, "a folder may be a slip of the pen"
    (project / "out").mkdir()
    code, _, err = cli("report", "-o", "out/r.md")
    assert code == 0, err
    text = (project / "out" / "r.md").read_text()
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 5 and all((project / "out" / p).is_file() for p in pictures)
    assert "write here: question" in text and "effect[l, p] = a < b" in text
    assert "#### effect \\[nats\\]\n" in text and "**Sign:** positive is `more`." in text
    assert escape("0.8.1") == "0.8.1" and escape("1. a") == "1\\. a"
    assert "Another of the 3 prompts: `remote-mi view aaaa1111 --item 2`." in text
    (project / "out" / "r_files" / "99-of-before.svg").write_text("<svg/>")
    code, out, _ = cli("report", "-o", "out/r.md", "--force", "--json")
    assert json.loads(out)["files"] == ["out/r.md", *(f"out/{name}" for name in pictures)]
    (project / "other_files").write_text("in the way")
    code, _, err = cli("report", "-o", "other.md")
    assert code == 1 and "cannot write" in err and "other_files" in err


def test_a_docstring_becomes_prose_formulas_and_remarks():
    kinds = [(b.kind, b.label) for b in method.blocks(CARD.doc)]
    assert kinds == [
        ("prose", ""),
        ("prose", ""),
        ("formula", ""),
        ("remark", "Sign"),
        ("remark", "Control"),
        ("remark", "Not implemented"),
    ]
    exact = method.blocks("A.\n\nControl: c.\nExact. Cost per pair: 1 forward pass.")
    assert exact[-1] == method.MethodBlock("remark", "1 forward pass.", "Exact. Cost per pair")
    assert [b.text for b in method.remarks(CARD.doc, method.LIMITS)] == ["everything else."]
    assert all(b.label not in method.CONTROLS for b in method.body(CARD.doc))
    going_on = "A.\n\nControl: the mean,\n\n    c = a + b\n\nwhich is it.\n\nMore."
    assert [b.kind for b in method.remarks(going_on, method.CONTROLS)] == [
        "remark",
        "formula",
        "prose",
    ]


def test_the_command_of_a_run_on_a_server_names_it_and_what_no_command_can_say_has_none(project):
    found = result()
    found.provenance = {**found.provenance, "backend": "ndif https://nd.if/x"}
    run = kept(project, found)
    (section,) = build_report(project, [run.path]).sections
    assert section.command is not None
    assert section.command.endswith(" -p site=here --backend ndif:https://nd.if/x")
    lock = {
        "recipe": {"name": "r"},
        "model": {"name": "m", "bos": "never", "chat": True},
        "parameters": {"layers": [], "texts": ["a", "b"], "deep": False},
        "prompts": {"origin": "set.jsonl", "examples": [{}, {}]},
        "drop_invalid": True,
    }
    assert run_command(lock) == (
        "remote-mi run r --model m --bos never --chat --pairs set.jsonl -n 2 "
        "-p texts=a,b -p deep=False --drop-invalid"
    )
    for change in (
        {"prompts": {"origin": "list", "examples": [{}]}},
        {"parameters": {"texts": ["a,b"]}},
        {"parameters": {"text": "\x1b[2J"}},
        {"model": {"name": "m", "names": {"a": "b"}}},
    ):
        assert run_command({**lock, **change}) is None


def test_references_are_read_and_set(project):
    text = r"""@comment{x} @article{a, title = "A {Q}uoted \& b", year = 2020, journal={J},
      author = {Fran{\c c}ois M{\"u}ller and {\'E}. L{\"o}f and others}, doi = {10.1/x}}"""
    (found,) = bibliography.read(text)
    assert str(found) == "Müller, F., Löf, É. et al. (2020). A Quoted & b. J."
    assert found.url == "https://doi.org/10.1/x"
    known = bibliography.cite(["vig2020causal", "nobody1999"], project)
    assert str(known[0]) == "nobody1999" and known[1].url.endswith("/2004.12265")
    assert bibliography.Reference("k", {"url": "javascript:alert(1)"}).url == ""


def test_a_figure_that_does_not_fit_is_said_to_be_missing(project):
    found = result()
    found.recipe = {**found.recipe, "figures": [Lines("score").to_json(), Heatmap("top").to_json()]}
    text = page_of(project, found)
    assert text.count("Not shown:") == 2 and "is a single number" in text


def test_reports_and_exports_do_without_torch(project):
    kept(project, result())
    script = (
        "import sys; from remote_mi.cli.main import run_command\n"
        "assert run_command(['report', '-o', 'r.html']) == 0\n"
        "assert 'matplotlib' not in sys.modules\n"
        "assert run_command(['export', '--figure', 'effect', '-o', 'e.svg']) == 0\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
        "assert not {'torch', 'transformers', 'pandas', 'scipy'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=360
    )
    assert done.returncode == 0, done.stderr

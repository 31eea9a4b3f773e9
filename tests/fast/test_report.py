"""Reports: every figure in words and as HTML and Markdown, true to the arrays, harmless to all."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from remote_mi.errors import UsageError
from remote_mi.figures import Heatmap, Lines
from remote_mi.report import method, references, writing
from remote_mi.report.commands import run_command
from remote_mi.report.document import make
from remote_mi.report.html import html
from remote_mi.report.markdown import markdown
from remote_mi.report.summary import headline, summary
from remote_mi.report.terminal import figure_lines
from remote_mi.results import Result
from remote_mi.store.studies import PointRecord, StudyRecord, StudyRecords

from .shown import CARD, FIGURES, HOSTILE, kept, result


def number(text: str) -> float:
    return float(re.sub(r"^~?(-?)\.", r"\g<1>0.", text.strip()).lstrip("~"))


class Page(HTMLParser):
    """What a browser would see: tags, their attributes, and the text of table cells."""

    VOID = ("meta", "i", "rect", "path", "circle", "polygon", "polyline")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tables: list[list[list[str]]] = []
        self._inside, self._table = "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag not in self.VOID else self._inside
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        elif tag == "table":
            self.tables.append([])
            self._table = True
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._inside in ("td", "th", "span") and self._table:
            self.tables[-1][-1][-1] += data

    def handle_endtag(self, tag):
        self._inside = ""
        self._table = self._table and tag != "table"


def page_of(project, found: Result, **more) -> str:
    run = kept(project, found)
    return html(make(project, [run.path]), **more)


def test_every_figure_is_said_in_words():
    found = result()
    said = {f.name: summary(f, found) for f in FIGURES}
    first = said["effect"][0]
    assert first.startswith("Largest effect: layer 1 · position 2 ␠and: effect ")
    effect, control = found["effect"], found.control_band("effect")
    assert f"{effect[1, 2]:.2f} nats" in first and "n=3" in first
    assert f"[{effect.low[1, 2]:.2f}, {effect.high[1, 2]:.2f}]" in first
    assert f"control up to {control[1, 2]:.2f}" in first
    assert any(s.startswith("Controls: ~") for s in said["effect"])
    curve = " ".join(said["curve over layers"])
    assert (
        re.search(r"head 0: curve rises from -(1.0|0.9)", curve) and "head 1: curve falls" in curve
    )
    assert "head 0: changes sign between layer 0 and layer 1" in curve
    assert said["pattern"][0].startswith("Shown at layer 0; the largest of all is at layer ")
    assert said["top"][0] == "Prompt 1 of 3: When Mary and to"
    assert any("the last layer gives" in s for s in said["top"])
    assert said["text"] == ["Prompt 1 of 3: When Mary and to", "When Mary and to"]
    assert said["pairs"][0] == "3 rows, one a prompt."
    assert any(s.startswith("score: mean ") and "(prompt " in s for s in said["pairs"])
    assert headline(found).endswith("at layer 1 · position 2 ␠and")


def test_what_a_control_explains_is_not_the_first_to_be_told():
    found = result()
    arrays = {k: np.array(v) for k, v in found.arrays.items()}
    for end in ("", ":low", ":high"):
        arrays[f"control{end}"][1, 2] = 9.0
    other = Result(found.recipe, found.document, arrays, found.provenance)
    first = summary(Heatmap("effect"), other)[0]
    assert not first.startswith("Largest effect: layer 1 · position 2")


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
    for name, field, values in (("effect", "v", effect), ("effect", "lo", found["effect"].low),
                                ("effect", "band", found.control_band("effect")),
                                ("pattern", "v", found["pattern"].values)):  # fmt: skip
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


def test_the_page_holds_one_script_and_one_style_known_by_their_hashes_and_asks_for_nothing(
    project,
):
    text = page_of(project, result())
    page = Page(text)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    scripts = [body for attributes, body in page.scripts if "type" not in attributes]
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    for kind, body in (("script", scripts[0]), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert len(scripts) == 1 and policy.startswith("default-src 'none'")
    assert not [a for _, a in page.tags if {"src", "style", "srcset", "action"} & set(a)]
    assert {t for t, _ in page.tags}.isdisjoint({"img", "link", "iframe", "form", "object"})
    outside = [a["href"] for t, a in page.tags if t == "a" and not a["href"].startswith("#")]
    assert outside and all(href.startswith("https://arxiv.org/") for href in outside)


def test_hostile_texts_become_neither_markup_nor_script(project):
    found = result(HOSTILE)
    found.document["notes"].append(HOSTILE[0])
    text = page_of(project, found, written={"discussion": "".join(HOSTILE[:3]) + HOSTILE[7][:-1]})
    page = Page(text)
    assert len([a for a, _ in page.scripts if "type" not in a]) == 1
    names = {name for _, attributes in page.tags for name in attributes}
    assert not {n for n in names if n.startswith("on")}
    assert {t for t, _ in page.tags}.isdisjoint({"img", "b onmouseover", "object", "base"})
    links = [a.get("href") or "" for t, a in page.tags if t == "a"]
    assert not [href for href in links if "javascript" in href.lower()]
    assert not re.search("[\x00\x07\x1b\u202e\u2066\u200b\ud800]", text)
    assert len(text) < 600_000, "a token of a megabyte is cut"
    for data in (body for a, body in page.scripts if "type" in a):
        json.loads(data)


def test_hostile_texts_do_not_act_in_markdown(project):
    from markdown_it import MarkdownIt

    run = kept(project, result(HOSTILE))
    text = markdown(make(project, [run.path]), {})
    seen = Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert {t for t, _ in seen.tags}.isdisjoint({"script", "img", "b"})
    assert not [a for t, a in seen.tags if t == "a" and "javascript" in (a.get("href") or "")]
    assert not re.search("[\x00\x07\x1b\u202e\u2066\u200b]", text)
    columns = [len(r) for t in seen.tables for r in t]
    assert min(columns) == 2 or max(columns) <= 8


def test_a_report_of_a_real_run_can_be_made_again_from_its_command(project, tiny_llama, cli):
    pair = {"clean": "When Mary and John went to the store, John gave a drink to",
            "corrupt": "When Mary and John went to the store, Mary gave a drink to",
            "answer": " Mary", "wrong": " John"}  # fmt: skip
    texts = [word for name, text in pair.items() for word in ("-p", f"{name}={text}")]
    ids = []
    for words in (["activation_patching", *texts, "--site", "attn_out"],
                  ["activation_patching", "--phenomenon", "ioi:store", "-n", "2", "--seed", "3"],
                  ["logit_lens", "-p", "prompt=Mary's “city”", "--dtype", "float32"]):  # fmt: skip
        code, out, err = cli("run", *words, "--model", tiny_llama, "-q")
        assert code == 0, err
        ids.append(out.strip())
    code, out, err = cli("report", *ids, "-o", "out.html", "--json")
    assert code == 0 and json.loads(out)["runs"] == ids, err
    text = (project / "out.html").read_text()
    for heading in ("Question", "Model", "Method", "Data", "Results", "Controls and limits",
                    "Discussion", "Reproduction", "Environment", "References"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in text
    assert "write here: discussion" in text and "Zhang, F." in text and "Σ effect" in text
    assert str(project) not in text, "a report tells nothing of the machine but the model's folder"
    made = make(project, [project / "runs" / i for i in ids])
    for section in made.sections:
        words = shlex.split(section.command)
        code, out, err = cli(*words[1:], "--dry-run", "--json")
        assert code == 0, err
        assert json.loads(out)["key"] == section.result.provenance["key"], section.command


def test_what_was_written_stands_in_its_place_and_is_never_written_over(project, cli):
    kept(project, result())
    (project / "mine.md").write_text("## Question\nIs *it*?\n\n## Discussion\n\nIt <b>is</b>.\n")
    code, _, err = cli("report", "-o", "r.html", "--text", "mine.md", "--title", "My <title>")
    assert code == 0, err
    text = (project / "r.html").read_text()
    assert "<p>Is <em>it</em>?</p>" in text and "It &lt;b&gt;is&lt;/b&gt;." in text
    assert "To be written" not in text and "<h1>My &lt;title&gt;</h1>" in text
    code, _, err = cli("report", "-o", "r.html")
    assert code == 2 and "may hold what you wrote" in err
    assert cli("report", "-o", "r.html", "--force", "-q")[0] == 0
    (project / "mine.md").write_text("## Discusion\nIt is.\n")
    with pytest.raises(UsageError, match="no place 'Discusion'") as caught:
        writing.read(project / "mine.md")
    assert "did you mean 'Discussion'" in caught.value.hint


def test_a_run_without_a_result_is_listed_and_alone_it_is_an_error(project, cli):
    kept(project, result())
    kept(project, Result(CARD.shown(), {"parts": [], "axes": {}, "notes": [], "vocabulary": {}},
                         {}, result().provenance), "bbbb2222", "out of <memory>")  # fmt: skip
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
    failed = PointRecord(1, "probing", "big", "a text", {}, None, "auto", "k2", "failed", None,
                         "no memory")  # fmt: skip
    records = StudyRecords(project)
    record = records.begin(StudyRecord("grid", "The grid", "Is it there?", [point, failed],
                                       {"probing": ["pairs"]}), b"study: grid\n")  # fmt: skip
    for each in (point, failed):
        records.note(record, each)
    code, _, err = cli("report", "grid", "-o", "r.html")
    assert code == 0, err
    text = (project / "r.html").read_text()
    assert "<h1>The grid</h1>" in text and "Is it there?" in text and "no memory" in text
    assert "Figure 1.</b> pairs" in text and "Figure 2." not in text
    assert "remote-mi study run grid" in re.sub("<[^>]+>", "", text)
    assert cli("report", "grid", "aaaa", "-o", "x.html")[0] == 2


def test_the_markdown_report_has_its_pictures_beside_it(project, cli):
    kept(project, result())
    code, _, err = cli("report", "-o", "out/r.md")
    assert code == 0, err
    text = (project / "out" / "r.md").read_text()
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 5 and all((project / "out" / p).is_file() for p in pictures)
    assert "write here: question" in text and "effect[l, p] = a < b" in text


def test_results_and_jobs_show_themselves_in_a_notebook(project):
    from remote_mi.backends.ndif.ledger import Ledger
    from remote_mi.remote_jobs import RemoteJob

    found = result(HOSTILE[:4])
    page = Page(found._repr_html_())
    titles = [a["title"] for t, a in page.tags if t == "td" and "title" in a]
    assert not page.scripts and any("95% CI" in title for title in titles)
    assert {t for t, _ in page.tags}.isdisjoint({"img", "script"})
    assert "was there already" in RemoteJob(project, None, found)._repr_html_()
    assert Ledger(project).all() == []


def test_a_docstring_becomes_prose_formulas_and_remarks():
    kinds = [(b.kind, b.label) for b in method.blocks(CARD.doc)]
    assert kinds == [("prose", ""), ("prose", ""), ("formula", ""), ("remark", "Sign"),
                     ("remark", "Control"), ("remark", "Not implemented")]  # fmt: skip
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
    (section,) = make(project, [run.path]).sections
    assert section.command is not None
    assert section.command.endswith(" -p site=here --backend ndif:https://nd.if/x")
    lock = {"recipe": {"name": "r"}, "model": {"name": "m", "bos": "never", "chat": True},
            "parameters": {"layers": [], "texts": ["a", "b"], "deep": False},
            "prompts": {"origin": "set.jsonl", "examples": [{}, {}]}, "drop_invalid": True}  # fmt: skip
    assert run_command(lock) == (
        "remote-mi run r --model m --bos never --chat --pairs set.jsonl -n 2 "
        "-p texts=a,b -p deep=False --drop-invalid"
    )
    for change in ({"prompts": {"origin": "list", "examples": [{}]}},
                   {"parameters": {"texts": ["a,b"]}}, {"parameters": {"text": "\x1b[2J"}},
                   {"model": {"name": "m", "names": {"a": "b"}}}):  # fmt: skip
        assert run_command({**lock, **change}) is None


def test_references_are_read_and_set(project):
    text = r"""@comment{x} @article{a, title = "A {Q}uoted \& b", year = 2020, journal={J},
      author = {Fran{\c c}ois M{\"u}ller and {\'E}. L{\"o}f and others}, doi = {10.1/x}}"""
    (found,) = references.read(text)
    assert str(found) == "Müller, F., Löf, É. et al. (2020). A Quoted & b. J."
    assert found.url == "https://doi.org/10.1/x"
    known = references.cited(["vig2020causal", "nobody1999"], project)
    assert str(known[0]) == "nobody1999" and known[1].url.endswith("/2004.12265")
    assert references.Reference("k", {"url": "javascript:alert(1)"}).url == ""


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
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr

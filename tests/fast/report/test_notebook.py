"""Notebooks: a recipe of a cell runs and is keyed by its meaning; results, runs, jobs show themselves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import remote_mi as mi
from remote_mi.backends.options import Option
from remote_mi.jobs.dispatch.plan import Plan

from .pages import Page
from .shown import HOSTILE, kept, result

CELLS = [
    """
import torch
import remote_mi as mi
from remote_mi.interventions import run

SCALE = 2.0

@mi.recipe(over="prompt", returns={"norm": ("layer", "position")}, figures=[mi.Heatmap("norm")])
def norms(lm, prompt, *, power: float = 1.0):
    "Norms of the stream."
    stream = [s[0] for s in run(lm, prompt, "resid_post").values]
    return {"norm": SCALE * torch.stack([s.norm(dim=-1) for s in stream]) ** power}
""",
    "result = mi.run(norms, model=MODEL, prompt='Mary and John')",
    "again = mi.run(norms, model=MODEL, prompt='Mary and John')",
    "SCALE = 4.0",
    "other = mi.run(norms, model=MODEL, prompt='Mary and John')",
]

SCRIPT = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.user_ns["MODEL"] = sys.argv[1]
for cell in json.loads(sys.argv[2]):
    done = shell.run_cell(cell)
    done.raise_error()
ns = shell.user_ns
formats, _ = shell.display_formatter.format(ns["result"])
print("\\n" + json.dumps({
    "shape": list(ns["result"]["norm"].shape),
    "cache": [ns[n].provenance["cache"] for n in ("result", "again", "other")],
    "ratio": float((ns["other"]["norm"].values / ns["result"]["norm"].values).mean()),
    "html": formats["text/html"], "text": formats["text/plain"],
    "source": [p.read_text() for p in (ns["result"].path / "source").iterdir()],
}))
"""


def test_a_recipe_in_a_cell_runs_and_its_result_displays_itself(project, tiny_llama):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_llama), json.dumps(CELLS)],
        capture_output=True,
        text=True,
        timeout=360,
        env={**os.environ, "IPYTHONDIR": str(project / "ipython")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["shape"] == [3, 3]
    assert found["cache"] == ["miss", "hit", "miss"], "a changed global is a changed meaning"
    assert abs(found["ratio"] - 2.0) < 1e-5
    assert 'role="grid"' in found["html"] and "norm" in found["html"]
    assert "largest: layer" in found["text"]
    assert any("def norms" in text for text in found["source"])


def harmless_page(html: str) -> Page:
    """What was shown, after looking for anything that acts or asks for something."""
    page = Page(html)
    assert not page.scripts
    assert {t for t, _ in page.tags} <= {
        "div",
        "style",
        "p",
        "b",
        "br",
        "table",
        "thead",
        "tbody",
        "caption",
        "tr",
        "th",
        "td",
        "span",
        "i",
        "svg",
        "rect",
        "path",
        "g",
        "polygon",
        "polyline",
        "circle",
        "title",
        "text",
    }
    names = {name for _, attributes in page.tags for name in attributes}
    assert not {n for n in names if n.startswith("on") or n in ("src", "href", "action")}
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, re.S))
    assert "url(" not in styles and "@import" not in styles, "nothing is fetched"
    assert not re.search("[\x00\x07\x1b\u202e\u2066\u200b]", html)
    return page


def test_results_and_jobs_show_themselves_in_a_notebook(project):
    from remote_mi.backends.ledger import Ledger
    from remote_mi.jobs.remote import RemoteJob

    found = result(HOSTILE)
    found.document["notes"].append(HOSTILE[1] + HOSTILE[4])
    page = harmless_page(found._repr_html_())
    titles = [a["title"] for t, a in page.tags if t == "td" and "title" in a]
    assert any("95% CI" in title for title in titles)
    assert "At layer 0" in found._repr_html_(), "one part of a pattern is said to be one"
    assert "already existed" in RemoteJob(project, None, found)._repr_html_()
    assert Ledger(project).all() == []


def test_runs_are_a_list_that_shows_itself(project):
    assert len(mi.runs()) == 0 and repr(mi.runs()) == "<no runs>"
    found = result()
    found.provenance = {**found.provenance, "model": {"name": HOSTILE[1] + HOSTILE[5]}}
    names = [kept(project, found, id8).run_id for id8 in ("aaaa1111", "bbbb2222", "cccc3333")]
    mi.store.runs.Runs(project).set_tags(names[1], ["good"])
    (project / "runs" / names[2] / "run.json").write_text("{")
    runs = mi.runs()
    assert [row.name for row in runs] == sorted(names)
    assert [row.id8 for row in mi.runs(tag="good")] == ["bbbb2222"]
    assert mi.load_run(mi.runs(tag="good")[-1].name)["score"].shape == ()
    assert [row.status for row in runs[-2:]] == ["done", "damaged"]
    lines = repr(runs).splitlines()
    assert len(lines) == 3 and "#good" in lines[1] and "\u202e" not in repr(runs)
    page = harmless_page(runs._repr_html_())
    cells = [row[:5] for row in page.tables[0]]
    assert cells[0] == ["run", "when", "status", "recipe", "model"] and len(cells) == 4
    assert cells[1][0] == "aaaa1111" and "</script><img" in cells[1][4]
    assert "numbers" in page.tables[0][0] and any("score=" in c for c in page.tables[0][1])


def test_a_plan_shows_its_options_and_a_servers_words_do_nothing(project):
    chosen = Option("local", True, "it fits")
    plan = Plan(chosen, (chosen, Option("ndif:far", False, HOSTILE[1] + HOSTILE[5])))
    page = harmless_page(plan._repr_html_())
    assert page.tables[0][1][:3] == ["→", "local", "it fits"]
    assert page.tables[0][2][:2] == ["✗", "ndif:far"] and "</script><img" in page.tables[0][2][2]

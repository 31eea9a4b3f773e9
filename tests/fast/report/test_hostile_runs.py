"""A run folder may hold any text: it acts in no medium, neither as markup nor on the terminal."""

from __future__ import annotations

import json

import pytest

from remote_mi.report.run_list import runs
from remote_mi.report.viewer import lists, pages
from remote_mi.report.viewer.opened_run import open_run
from remote_mi.store.opening import load_run
from remote_mi.store.runs import Runs

from ...hostile import ACTING, EVIL, make_hostile, markup_in
from .shown import kept, result

MARKUP = ("code and html", "fence", "link", "attribute", "heading", "html")
KINDS = {
    "markup": "".join(EVIL[name] for name in MARKUP),
    "terminal": "".join(EVIL[name] for name in ("ansi", "bidi", "rich", "braces", "formula")),
    "long": EVIL["long"],
}


@pytest.fixture(params=KINDS)
def evil(request, project) -> str:
    """A hostile text, which every text of two runs of the project ends in."""
    for id8 in ("aaaa1111", "bbbb2222"):
        run = kept(project, result(n=2, layers=2), id8)
        assert run.path is not None
        make_hostile(run.path, KINDS[request.param])
    return KINDS[request.param]


def test_hostile_texts_of_a_run_act_nowhere(evil, project, cli):
    names = load_run("aaaa").names()
    for words in (
        ("view", "--plain", "aaaa"),
        ("compare", "aaaa", "bbbb"),
        ("runs", "ls"),
        ("runs", "show", "aaaa"),
        ("reproduce", "aaaa", "--verify-only"),
        ("view", "--plain", "--only", "x" + evil),
        ("export", "aaaa", "--table", names[0]),
        ("export", "aaaa", "--table", names[4], "-o", "t.tex"),
        ("export", "aaaa", "--table", names[4], "-o", "t.json"),
        ("export", "aaaa", "--figure", names[0], "-o", "t.svg"),
        ("report", "aaaa", "-o", "r.html"),
        ("report", "aaaa", "-o", "r.md"),
    ):
        code, out, err = cli(*words)
        expected = {"--verify-only": (0, 7), "--only": (3,)}
        wanted = next((codes for word, codes in expected.items() if word in words), (0,))
        assert code in wanted and "unexpected" not in err, (words, code, err[-500:])
        assert not ACTING.search(out) and not ACTING.search(err), words
        assert len(out) < 2_000_000 and len(err) < 100_000, words
        if "show" in words:
            json.loads(out)
    page, text = ((project / f"r.{end}").read_text() for end in ("html", "md"))
    assert markup_in(page) == markup_in(text, markdown=True) == []
    for name in ("t.tex", "t.json", "t.svg", "r.html", "r.md"):
        assert not ACTING.search((project / name).read_text()), name
    assert "<img" not in (project / "t.svg").read_text()


def test_hostile_texts_of_a_run_act_neither_in_the_viewer_nor_in_a_notebook(evil, project):
    rows = runs()
    found = load_run("aaaa")
    assert not ACTING.search(repr(rows)) and markup_in(rows._repr_html_()) == []
    assert not ACTING.search(repr(found)) and markup_in(found._repr_html_() or "") == []
    opened = open_run(found.path)
    table = lists.RunTable(Runs(project), [], found.path)
    for listing in (table.listing(100), pages.provenance_listing(opened, 100)):
        for text in [*listing.head, *map(listing.line, range(listing.count))]:
            assert not ACTING.search(text.plain), text.plain

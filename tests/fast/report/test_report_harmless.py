"""Reports are harmless: nothing is fetched, and no text that anyone wrote acts in them."""

from __future__ import annotations

import base64
import hashlib
import json
import re

from remote_mi.report.document.content import build_report
from remote_mi.report.document.html import html
from remote_mi.report.document.markdown import markdown

from .pages import Page, hostile_report, page_of
from .shown import HOSTILE, kept, result


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


def test_hostile_words_of_authors_studies_and_servers_do_nothing_either(project):
    from markdown_it import MarkdownIt

    report = hostile_report(project)
    page, text = Page(html(report)), markdown(report, {})
    seen = Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert len([a for a, _ in page.scripts if "type" not in a]) == 1
    for shown in (page, seen):
        assert {t for t, _ in shown.tags}.isdisjoint({"img", "b onmouseover", "object", "iframe"})
        names = {name for _, attributes in shown.tags for name in attributes}
        assert not {n for n in names if n.startswith("on")}
        links = [a.get("href") or "" for t, a in shown.tags if t == "a"]
        assert not [href for href in links if not href.startswith(("#", "https://"))]
    assert "script" not in {t for t, _ in seen.tags}
    acting = "[\x00\x07\x1b\u202e\u2066\u200b\u2028\ud800]"
    assert not re.search(acting, html(report)) and not re.search(acting, text)


def test_hostile_texts_do_not_act_in_markdown(project):
    from markdown_it import MarkdownIt

    run = kept(project, result(HOSTILE))
    text = markdown(build_report(project, [run.path]), {})
    seen = Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert {t for t, _ in seen.tags}.isdisjoint({"script", "img", "b"})
    assert not [a for t, a in seen.tags if t == "a" and "javascript" in (a.get("href") or "")]
    assert not re.search("[\x00\x07\x1b\u202e\u2066\u200b]", text)
    columns = [len(r) for t in seen.tables for r in t]
    assert min(columns) == 2 or max(columns) <= 8

"""HTML as a browser would see it: what stands in tables, tags and scripts."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from remote_mi.report.document.content import About, Failure, Report, build_report
from remote_mi.report.document.html import html
from remote_mi.store.result import Result

from .shown import HOSTILE, kept, result


def number(text: str) -> float:
    """A number as a cell shows it: "~-.05" is −0.05."""
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


def page_of(project: Path, found: Result, **more) -> str:
    """The HTML report of a result that is kept as a run of a project."""
    run = kept(project, found)
    return html(build_report(project, [run.path]), **more)


def hostile_report(project: Path) -> Report:
    """A report in which everything that anyone can write is hostile: docstring, study, server."""
    evil = "".join(HOSTILE[:8]) + "\u2028"
    found = result()
    found.recipe = {
        **found.recipe,
        "doc": f"{evil}\n\n    {evil}\n\nSign: {evil}\nControl: {evil}",
        "summary": evil,
        "references": [evil],
    }
    found.document["notes"].append(evil)
    source = found.provenance
    found.provenance = {
        **source,
        "reason": evil,
        "backend": f"ndif {evil}",
        "model": {"name": evil, "content": evil},
        "parameters": {"site": evil},
        "record": {"dtype": evil, "architecture": evil},
        "prompts": {"origin": evil, "template": evil, "source": evil, "seed": evil},
        "environment": {**source["environment"], "kind": evil},
    }
    about = About(
        evil,
        evil,
        evil,
        commands=[f"remote-mi study run '{HOSTILE[1]}'"],
        failures=[Failure(evil, evil, evil)],
    )
    return build_report(project, [kept(project, found).path], about)

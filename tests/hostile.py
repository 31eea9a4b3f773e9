"""Run folders in which every text is hostile, and what must not be seen of it in any output."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from remote_mi.store.arrays import arrays_from_bytes, arrays_to_bytes
from remote_mi.store.run_info import ARRAYS, RUN_JSON

#: Texts that would act somewhere: in a page, in Markdown, on a terminal, in a table, in a line.
EVIL = {
    "html": "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "code and html": "```<img src=x onerror=alert(1)>` `a|<script>alert(1)</script>|b`",
    "fence": "\n```\n<img src=x onerror=alert(1)>\n~~~\n",
    "link": "[l](javascript:alert(1)) ![i](http://192.0.2.7/y) <javascript:alert(1)>",
    "heading": "\n\n# h\n\n<div onclick=alert(1)>\n\n| a | b |\n|---|---|\n",
    "attribute": "\"' onmouseover=alert(1) x='",
    "ansi": "\x1b[2J\x1b]0;t\x07\x9b31m\x00\x7f\r",
    "bidi": "\u202egnp.exe\u2066\u200b\u2028\u2029\ufeff",
    "braces": "{{7*7}}{% raw %}%s{0}\\input{x}$",
    "formula": "=cmd|' /C calc'!A0",
    "rich": "[bold red]x[/][link=file:///etc]y[/link]",
    "long": "x" * 30_000,
}
#: Control characters, and those that change the text around them; a newline and a tab are none.
ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800]"
)
#: Texts of run.json that stand for something in the program, so that others are only damage.
_FIXED = {"kind", "of", "over", "figure", "status"}
_KEPT_TEXTS = {"position", "query", "key", "draw", "layer and position"}
#: Objects whose keys are names that somebody gave.
_NAMED = re.compile(
    r"recipe\.(returns|summaries|controls|labels)|document\.axes(\.[^.]*)?|scalars"
    r"|provenance\.parameters|document\.texts"
)


def altered_texts(data: Any, change: Callable[[str], str], where: str = "") -> Any:
    """The content of a run.json with every text changed, the same one everywhere in the same way."""
    if isinstance(data, dict):
        named = _NAMED.fullmatch(where)
        return {
            change(k) if named and k not in _KEPT_TEXTS else k: altered_texts(
                v, change, f"{where}.{'*' if named else k}".lstrip(".")
            )
            for k, v in data.items()
        }
    if isinstance(data, list):
        return [altered_texts(item, change, where) for item in data]
    last = where.rpartition(".")[2]
    fixed = last in _FIXED and "environment" not in where
    if not isinstance(data, str) or fixed or where.startswith("artifacts"):
        return data
    return data if data in _KEPT_TEXTS or not data else change(data)


def make_hostile(folder: Path, evil: str) -> None:
    """Append a text to every text of a run's folder, and what names may hold of it to every name.

    The folder stays valid: names are printable, and not long.
    """
    data = json.loads((folder / RUN_JSON).read_bytes())
    outputs, summaries = data["recipe"]["returns"], data["recipe"]["summaries"]
    names = {*outputs, *summaries, *(dim for o in outputs.values() for dim in o["dims"])}
    printable = "".join(c for c in evil if c.isprintable())[:150]

    def change(text: str) -> str:
        return f"{text}{printable if text in names else evil}"

    def change_array(name: str) -> str:
        base, sign, rest = re.fullmatch(r"([^@:]*)([@:]?)(.*)", name).groups()  # type: ignore[union-attr]
        return f"{change(base)}{sign}{rest}"

    arrays = arrays_from_bytes((folder / ARRAYS).read_bytes(), folder)
    content = arrays_to_bytes({change_array(name): a for name, a in arrays.items()})
    (folder / ARRAYS).write_bytes(content)
    data = altered_texts(data, change)
    data["artifacts"][ARRAYS] = hashlib.sha256(content).hexdigest()
    (folder / RUN_JSON).write_text(json.dumps(data))


def markup_in(page: str, markdown: bool = False) -> list[str]:
    """The foreign tags, attributes and addresses that act in a page, or in Markdown with HTML."""
    from tests.fast.report.pages import Page

    if markdown:
        from markdown_it import MarkdownIt

        page = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
    seen = Page(page)
    tags = {tag for tag, _ in seen.tags} & {"iframe", "object", "form"}
    pictures = [given.get("src") or "" for tag, given in seen.tags if tag == "img"]
    tags |= {f"img {src}" for src in pictures if not (markdown and src.endswith(".svg"))}
    scripts = [1 for attributes, _ in seen.scripts if "type" not in attributes]
    if len(scripts) > (0 if markdown else 1):
        tags.add("script")
    attributes = {name for _, given in seen.tags for name in given if name.startswith("on")}
    links = {
        address
        for tag, given in seen.tags
        if tag == "a" and not (address := given.get("href") or "").startswith(("#", "https://"))
    }
    return sorted(tags | attributes | links)

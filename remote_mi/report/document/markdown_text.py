"""Foreign text in Markdown: the one place where it is escaped.

Everything returned here is shown literally by a Markdown viewer, whether or not it renders HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from remote_mi.common.errors import sanitize
from remote_mi.common.text import prose

#: Characters with a meaning in Markdown: anywhere, and only at the beginning of a line.
_ANYWHERE = re.compile(r"([\\`*_\[\]<|~$&])")
_BEGINNING = re.compile(r"^([#+>=-]|\d+(?=[.)](?:\s|$)))")
#: Links are written for these addresses only.
_WEB = re.compile(r"https?://[^\s<>\"]+")


def escape(text: str) -> str:
    """Text escaped so that Markdown shows it literally."""
    return _escape_start(_escape_inline(prose(text)))


def _escape_inline(text: str) -> str:
    return _ANYWHERE.sub(r"\\\1", text)


def _escape_start(text: str) -> str:
    return _BEGINNING.sub(lambda m: m[1] + "\\" if m[1].isdigit() else "\\" + m[1], text)


def code(text: str) -> str:
    """A name as code if it is safe, also within a table; otherwise escaped text."""
    text = prose(text)
    if text.strip() and re.fullmatch(r"[\w.:\[\] -]+", text):
        return f"`{text}`"
    return escape(text)


def code_spans(text: str) -> str:
    """A sentence, escaped except for code between single backticks.

    Backticks next to each other would join into another fence, and a bar would end the cell of a
    table and with it the code: such texts are escaped as a whole.
    """
    text = prose(text)
    parts = text.split("`")
    inside = parts[1::2]
    if len(parts) % 2 == 0 or "``" in text or any("|" in p or not p.strip() for p in inside):
        return escape(text)
    return _escape_start(
        "".join(f"`{p}`" if i % 2 else _escape_inline(p) for i, p in enumerate(parts))
    )


def code_block(lines: Sequence[str], language: str = "text") -> Iterable[str]:
    """Lines as a code block, with a fence longer than any run of backticks in them."""
    longest = max((len(run) for text in lines for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    whole = (sanitize(text) for one in lines for text in one.splitlines() or [""])
    yield from (f"{fence}{language}", *whole)
    yield from (fence, "")


def link(url: str) -> str:
    """An address as a link, preceded by a space; "" if it is not one on the web."""
    return f" <{url}>" if _WEB.fullmatch(url) and url.isprintable() else ""

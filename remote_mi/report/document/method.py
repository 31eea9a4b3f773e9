"""A recipe's docstring as the method section of a report: prose, formulas, labelled remarks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from remote_mi.common.errors import sanitize

#: Remarks that a report shows under "Controls and limits" rather than in the method.
NOT_SHOWN = "What this does not show"
LIMITS = (NOT_SHOWN, "Not implemented")
CONTROLS = ("Control", "Controls")
_LABEL = re.compile(rf"^({NOT_SHOWN}|(?:[A-Z][a-z]+\. )?[A-Z][a-z]+(?: [a-z]+){{0,2}}): (?=\S)")
_ARGUMENTS = re.compile(r"^Args:\s*$")


@dataclass(frozen=True)
class MethodBlock:
    """One piece of a docstring.

    Attributes:
        kind: "prose", "formula" (kept line by line), or "remark".
        text: its text. label: label of a remark, e.g. "Sign".
    """

    kind: Literal["prose", "formula", "remark"]
    text: str
    label: str = ""


def blocks(doc: str) -> list[MethodBlock]:
    """The blocks of a cleaned docstring, in order, without arguments and control characters."""
    result: list[MethodBlock] = []
    for lines in _pieces(sanitize(doc)):
        indent = min(len(text) - len(text.lstrip()) for text in lines)
        label = _LABEL.match(lines[0])
        if indent >= 4:
            result.append(MethodBlock("formula", "\n".join(text[indent:] for text in lines)))
        elif label:
            text = " ".join(text.strip() for text in lines)[label.end() :]
            result.append(MethodBlock("remark", text, label[1]))
        else:
            result.append(MethodBlock("prose", " ".join(text.strip() for text in lines)))
    return result


def _pieces(doc: str) -> Iterator[list[str]]:
    """The lines of each block; blocks end at empty lines, labels, and before and after formulas."""
    piece: list[str] = []
    for text in doc.splitlines():
        if _ARGUMENTS.match(text):
            break
        if not text.strip():
            if piece:
                yield piece
            piece = []
            continue
        deep = text.startswith("    ")
        if piece and (_LABEL.match(text) or deep != piece[0].startswith("    ")):
            yield piece
            piece = []
        piece.append(text)
    if piece:
        yield piece


def body(doc: str) -> list[MethodBlock]:
    """The method itself: everything but controls and limits."""
    return [b for label, some in _sections(doc) if label not in (*LIMITS, *CONTROLS) for b in some]


def remarks(doc: str, labels: tuple[str, ...]) -> list[MethodBlock]:
    """The remarks with the given labels, each with the formula that continues it."""
    return [b for label, some in _sections(doc) if label in labels for b in some]


def not_shown(doc: str) -> str:
    """What a technique does not show, in the words of its docstring; "" if it does not say so."""
    return " ".join(block.text for block in remarks(doc, (NOT_SHOWN,)))


def _sections(doc: str) -> Iterator[tuple[str, list[MethodBlock]]]:
    """The blocks of a docstring, grouped: a remark with what follows its final "," or ":"."""
    label, section = "", []
    for block in blocks(doc):
        goes_on = section and (
            section[-1].kind == "formula" or section[-1].text.endswith((",", ":"))
        )
        if section and (block.kind == "remark" or not label or not goes_on):
            yield label, section
            label, section = "", []
        label = label or block.label
        section = [*section, block]
    if section:
        yield label, section

"""References: entries of references.bib, parsed and formatted as text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from remote_mi.common.paths import builtin_folder

_ACCENTS = {
    "'": "\u0301",
    "`": "\u0300",
    "^": "\u0302",
    '"': "\u0308",
    "~": "\u0303",
    "=": "\u0304",
    ".": "\u0307",
    "c": "\u0327",
    "v": "\u030c",
    "u": "\u0306",
    "H": "\u030b",
    "r": "\u030a",
    "k": "\u0328",
}
_LETTERS = {
    "ss": "ß",
    "ae": "æ",
    "AE": "Æ",
    "oe": "œ",
    "OE": "Œ",
    "aa": "å",
    "AA": "Å",
    "o": "ø",
    "O": "Ø",
    "l": "ł",
    "L": "Ł",
    "i": "ı",
}
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
#: The software with which every run is computed.
SOFTWARE = "fiottokaufman2025nnsight"


@dataclass(frozen=True)
class Reference:
    """One entry of a bibliography.

    Attributes:
        key: key by which recipes cite it. fields: lower-case name → plain text.
    """

    key: str
    fields: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Authors (year). Title. Publication. Only the key if the entry was not found."""
        if not self.fields:
            return self.key
        place = [self.fields.get(name, "") for name in ("journal", "booktitle", "note")]
        parts = [
            f"{_authors(self.fields.get('author', ''))} ({self.fields.get('year', 'n.d.')})",
            self.fields.get("title", ""),
            ", ".join(p for p in place if p),
        ]
        return ". ".join(part.rstrip(".") for part in parts if part) + "."

    @property
    def url(self) -> str:
        """Link to it: its http(s) address, DOI or arXiv number; "" if it has none."""
        given = self.fields.get("url", "")
        if given.startswith(("https://", "http://")):
            return given
        if self.fields.get("doi"):
            return f"https://doi.org/{self.fields['doi']}"
        found = _ARXIV.search(" ".join(self.fields.values()))
        return f"https://arxiv.org/abs/{found[1]}" if found else ""


def cite(keys: Iterable[str], project: Path, sources: Iterable[str] = ()) -> list[Reference]:
    """The references with some keys, without duplicates, sorted by author and year.

    A project's own recipes/references.bib takes precedence over the built-in one.

    Args:
        sources: texts that may cite an entry by its arXiv number, as a phenomenon's source does.
    """
    known: dict[str, Reference] = {}
    for folder in (builtin_folder(), project / "recipes"):
        path = folder / "references.bib"
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            known.update({entry.key: entry for entry in read(text)})
    numbers = set(_ARXIV.findall(" ".join(sources)))
    named = [
        key
        for key, entry in known.items()
        if numbers & set(_ARXIV.findall(" ".join(entry.fields.values())))
    ]
    references = [known.get(key, Reference(key)) for key in dict.fromkeys([*keys, *named])]
    return sorted(references, key=lambda r: str(r).casefold())


def read(text: str) -> list[Reference]:
    """The entries of a BibTeX text; anything else is skipped."""
    entries = []
    for start in re.finditer(r"@(\w+)\s*\{\s*([^,\s{}]+)\s*,", text):
        if start[1].lower() in ("comment", "string", "preamble"):
            continue
        entries.append(Reference(start[2], _fields(text, start.end())))
    return entries


def _fields(text: str, at: int) -> dict[str, str]:
    """The fields of the entry whose first field begins at `at`."""
    fields = {}
    name = re.compile(r"\s*,?\s*([A-Za-z_-]+)\s*=\s*")
    while (match := name.match(text, at)) is not None:
        value, at = _value(text, match.end())
        fields[match[1].lower()] = strip_markup(value)
    return fields


def _value(text: str, at: int) -> tuple[str, int]:
    """A braced, quoted or bare value, and where it ends."""
    if text[at : at + 1] not in ("{", '"'):
        bare = re.compile(r"[^,}\s]*").match(text, at)
        assert bare is not None
        return bare[0], bare.end()
    closing, depth = ("}", 0) if text[at] == "{" else ('"', 0)
    start = at = at + 1
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == closing and depth == 0:
            return text[start:at], at + 1
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return text[start:], len(text)


def strip_markup(text: str) -> str:
    """BibTeX text without markup: accents as letters, no braces or line breaks."""

    def accent(match: re.Match[str]) -> str:
        import unicodedata

        return unicodedata.normalize("NFC", match[2].replace("ı", "i") + _ACCENTS[match[1]])

    text = re.sub(
        r"\\(ss|ae|AE|oe|OE|aa|AA|o|O|l|L|i)(?![A-Za-z])\s?", lambda m: _LETTERS[m[1]], text
    )
    text = re.sub(r"\\(['`^\"~=.])\s*\{?(\w)\}?", accent, text)
    text = re.sub(r"\\([cvuHrk])(?:\s+|\s*\{)(\w)\}?", accent, text)
    text = re.sub(r"\\([&%$#_{}])", r"\1", text)
    text = re.sub(r"(?<!\\)[{}]", "", text).replace("---", "—").replace("--", "–").replace("~", " ")
    return re.sub(r"\s+", " ", text).strip()


def _authors(text: str) -> str:
    """Names formatted as "Vig, J., Gehrmann, S. et al."."""
    people = [name.strip() for name in re.split(r"\s+and\s+", text) if name.strip()]
    if not people:
        return "Unknown"
    others = people[-1].lower() == "others"
    names = [_person(name) for name in people[: -1 if others else None]]
    shown = names[:6]
    if others or len(names) > 6:
        return ", ".join(shown) + " et al."
    return " & ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def _person(name: str) -> str:
    """Family name and initials."""
    family, comma, given = name.partition(",")
    if not comma:
        given, _, family = name.rpartition(" ")
    initials = " ".join(
        "-".join(f"{part[0]}." for part in word.split("-") if part) for word in given.split()
    )
    return f"{family.strip()}, {initials}" if initials else family.strip()

"""Making untrusted text (tokens, model output) safe to print on a terminal."""

from __future__ import annotations

import itertools
import time
import unicodedata
from collections.abc import Sequence

from remote_mi.common.errors import sanitize

_NAMED = {" ": "␠", "\n": "↵", "\t": "⇥", "\r": "␍", "\x1b": "␛", "\x7f": "␡", "": "∅"}
#: Characters processed before a text is cut; a token of a megabyte must not cost a second.
_LOOK_AT = 400
#: Beginnings that all texts of a list share are left out from this many characters on.
_LEAST_SHARED = 12


def visible(text: str, most: int = _LOOK_AT) -> str:
    """The text with spaces, newlines and anything a terminal might act on made visible.

    Control characters, direction marks, zero-width and unassigned characters become visible
    stand-ins, so that a token can neither move the cursor nor alter the text around it.

    Args:
        most: the maximum number of characters; a longer text is cut and ends in "…".
    """
    if not text:
        return _NAMED[""]
    parts = []
    for character in text[:most]:
        if character in _NAMED:
            parts.append(_NAMED[character])
        elif ord(character) < 32:
            parts.append(chr(0x2400 + ord(character)))
        elif unicodedata.category(character) in (
            "Cc",
            "Cf",
            "Cs",
            "Co",
            "Cn",
            "Zl",
            "Zp",
            "Mn",
            "Me",
        ):
            parts.append(f"\\u{ord(character):04x}")
        else:
            parts.append(character)
    return "".join(parts) + ("…" if len(text) > most else "")


def line(text: str, most: int = _LOOK_AT) -> str:
    """Like `visible`, but with plain spaces, for whole sentences."""
    return visible(text, most).replace("␠", " ") if text else ""


def without_shared_beginning(texts: Sequence[str]) -> list[str]:
    """Texts of a list, each from the word where they begin to differ, if they all begin alike."""
    if len(texts) < 2:
        return list(texts)
    first, last = min(texts), max(texts)  # what these two share, all share
    if first == last:
        return list(texts)
    start = first.rfind(" ", 0, _shared(first, last)) + 1
    if start < _LEAST_SHARED:
        return list(texts)
    return [f"…{text[start:]}" for text in texts]


def distinguishable(texts: Sequence[str], width: int) -> list[str]:
    """Texts of a list, to be cut at a width, so that different ones still look different.

    A beginning that all share is left out. Of those that would look alike, the middle is, from a
    few words on to where each differs from all others.
    """
    shown = without_shared_beginning(texts)
    alike: dict[str, list[str]] = {}
    for text in dict.fromkeys(shown):
        alike.setdefault(text[: width - 1], []).append(text)
    told = {}
    for group in alike.values():
        if len(group) < 2:
            continue
        ordered = sorted(group)
        shared = [_shared(a, b) for a, b in itertools.pairwise(ordered)]
        for text, before, after in zip(ordered, [0, *shared], [*shared, 0], strict=True):
            differs = max(before, after)
            start = text.rfind(" ", 0, differs) + 1
            if differs - start > width // 2:  # within a very long word
                start = max(0, differs - width // 4)
            told[text] = f"{text[: max(1, width // 4)].rstrip('…')}…{text[start:]}"
    return [told.get(text, text) for text in shown]


def _shared(one: str, other: str) -> int:
    """How many characters two texts share at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def prose(text: str) -> str:
    """A person's text of any length, on one line and without control characters."""
    return sanitize(" ".join(text.split()))


def short_number(number: int) -> str:
    """A whole number of any length, for a message."""
    if abs(number) < 10**15:
        return f"{number:,}"
    return (
        f"a number of {len(str(abs(number)))} digits" if abs(number) < 10**4000 else "a huge number"
    )


def counted(number: int, noun: str) -> str:
    """A number of things: "1 pair", "8 pairs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def pad_or_cut(text: str, width: int) -> str:
    """The text cut or padded to a number of terminal cells, allowing for wide characters."""
    from rich.cells import cell_len, set_cell_size  # the rest of this file is used at every start

    if cell_len(text) > width:
        text = set_cell_size(text, max(0, width - 1)).rstrip() + "…"
    return set_cell_size(text, width)


def ago(moment: float) -> str:
    """How long ago a moment (in seconds since the epoch) was, in the largest fitting unit."""
    seconds = max(0, time.time() - moment)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def encoding_problem(text: str) -> str:
    """Why a text cannot be written in UTF-8, as the end of a sentence; "" if it can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        return (
            f"holds {found} at character {error.start + 1}, a lone half of a character (surrogate)"
        )
    return ""

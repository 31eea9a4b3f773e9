"""Behaviours that show only in generated text: what is asked of a continuation, and judging it.

    behaviour: {contains: [sorry, cannot]}       any of the texts occurs, whatever its capitals
    behaviour: {begins_with: [Yes]}              it begins so, after spaces, whatever its capitals
    behaviour: {matches: "\\\\d{4}"}                 a regular expression is found in it
    behaviour: {language: de}                    its language, as py3langid tells it
    behaviour: {yes_no: "Is this rude? {text}"}  the model's own answer to a question about it

Judging reads texts, and happens on this machine once they are there: another behaviour needs no new
forward pass. Only the question of `yes_no` is asked of the model, after it has generated the text.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from remote_mi.common.errors import UsageError, nearest
from remote_mi.common.text import encoding_problem

#: Version of how texts are judged: part of a result's key.
JUDGES = 1
KINDS = ("contains", "begins_with", "matches", "language", "yes_no")
_LISTS = ("contains", "begins_with")
#: Where the generated text stands in a question.
TEXT = "{text}"
#: Longest regular expression, and longest search in one text, in seconds.
LONGEST_PATTERN, LONGEST_SEARCH = 1000, 1.0
#: Fewest letters of a text whose language can be told.
FEWEST_LETTERS = 12
#: The languages that py3langid tells apart.
LANGUAGES = """
    ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa
    fi fo fr fuv fy ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka
    kab kik kk km kn ko ku ky la lb lg lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc
    om or pa pcm pl ps pt qu ro ru rw sa sdh se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt
    ug uk ur uz uzs vec vi vo wa wuu xh yo yue zh zu
"""
_EXAMPLE = "e.g. {language: de} or {contains: [sorry]}; kinds: " + ", ".join(KINDS)


class SlowPattern(Exception):
    """A regular expression searched a text for longer than `LONGEST_SEARCH`."""


@dataclass(frozen=True)
class Behaviour:
    """What is asked of a continuation.

    Attributes:
        kind: one of `KINDS`. values: the texts, of which any suffices; else a single one.
    """

    kind: str
    values: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As it is written in a file."""
        return {self.kind: list(self.values) if self.kind in _LISTS else self.values[0]}

    @property
    def question(self) -> str | None:
        """The question that the model is asked about its text; None for other kinds."""
        return self.values[0] if self.kind == "yes_no" else None

    def __str__(self) -> str:
        return f"{self.kind} {' | '.join(self.values)}"

    def filled(self, fill: Callable[[str, Callable[[str], str]], str]) -> Behaviour:
        """With slots filled.

        Args:
            fill: from a value, and what is done to each word that fills a slot of it, to the value
                with its slots filled: in a regular expression a word stands for itself.
        """
        escape = _regex().escape if self.kind == "matches" else str
        return Behaviour(self.kind, tuple(fill(value, escape) for value in self.values))

    def shown_by(self, text: str) -> bool | None:
        """Whether a text shows it; None if only the model's own answer tells.

        Raises:
            SlowPattern: if a regular expression runs for too long.
            UsageError: if the library that tells languages is missing.
        """
        if self.kind == "contains":
            return any(value.casefold() in text.casefold() for value in self.values)
        if self.kind == "begins_with":
            begins = text.lstrip().casefold()
            return any(begins.startswith(value.lstrip().casefold()) for value in self.values)
        if self.kind == "matches":
            try:
                return _compiled(self.values[0]).search(text, timeout=LONGEST_SEARCH) is not None
            except TimeoutError:
                raise SlowPattern from None
        return language_of(text) == self.values[0] if self.kind == "language" else None


def parse_behaviour(value: Any) -> Behaviour:
    """A behaviour as a file, a table's cell or the command line gives it.

    Raises:
        UsageError: naming what is wrong with it.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            pass
    if not isinstance(value, Mapping) or len(value) != 1:
        raise UsageError(f"behaviour {value!r:.80} is not one kind with its value", _EXAMPLE)
    [(kind, asked)] = value.items()
    if kind not in KINDS:
        close = nearest(str(kind), KINDS)
        hint = f"did you mean {close!r}? " if close else ""
        raise UsageError(f"there is no behaviour {kind!r:.40}", hint + "kinds: " + ", ".join(KINDS))
    values = [asked] if isinstance(asked, str) else asked
    single = kind not in _LISTS
    if not isinstance(values, list) or (single and not isinstance(asked, str)):
        raise UsageError(
            f"behaviour {kind!r} takes {'a text' if single else 'a list of texts'}, not "
            f"{asked!r:.60}",
            _EXAMPLE,
        )
    if not values:
        raise UsageError(f"behaviour {kind!r} has an empty list", "name at least one text")
    for one in values:
        if not isinstance(one, str) or not one.strip():
            raise UsageError(f"behaviour {kind!r}: {one!r:.60} is not a text", "put it in quotes")
        if problem := encoding_problem(one):
            raise UsageError(f"behaviour {kind!r} {problem}", "write the whole character")
    _check_value(kind, values[0])
    return Behaviour(kind, tuple(values))


def _check_value(kind: str, value: str) -> None:
    """Check a regular expression, a language or a question."""
    if kind == "matches":
        if len(value) > LONGEST_PATTERN:
            raise UsageError(
                f"behaviour 'matches': a regular expression of {len(value):,} characters, at most "
                f"{LONGEST_PATTERN:,} are read"
            )
        try:
            _compiled(value)
        except (_regex().error, OverflowError, RecursionError, MemoryError, ValueError) as error:
            raise UsageError(
                f"behaviour 'matches': {value!r:.60} is not a regular expression: {error}",
                "as in Python's re; put a backslash before ( [ { . * + ? to mean the character",
            ) from None
    if kind == "language" and value not in LANGUAGES.split():
        close = nearest(value.lower(), LANGUAGES.split())
        raise UsageError(
            f"behaviour 'language': {value!r:.40} is not the code of a language that can be told",
            (f"did you mean {close!r}? " if close else "") + "codes as in ISO 639: de, en, fr, zh",
        )
    if kind == "yes_no" and value.count(TEXT) != 1:
        raise UsageError(
            f"behaviour 'yes_no': the question must contain {TEXT} once, for the generated text",
            'e.g. "Text: {text}\\nIs this text polite? Answer yes or no:"',
        )


def _regex() -> Any:
    """The module `regex`, which transformers needs: as `re`, and its searches can be bounded."""
    import regex

    return regex


@functools.lru_cache(64)
def _compiled(pattern: str) -> Any:
    return _regex().compile(pattern)


def language_of(text: str) -> str:
    """The code of a text's most probable language; "" if the text is too short to tell.

    Raises:
        UsageError: if py3langid is not installed.
    """
    if is_too_short(text):
        return ""
    check_languages()
    import py3langid

    return str(py3langid.classify(text)[0])


def is_too_short(text: str) -> bool:
    """Whether a text has too few letters to tell its language; other scripts tell it sooner."""
    return text.isascii() and sum(letter.isalpha() for letter in text) < FEWEST_LETTERS


def check_languages() -> None:
    """Check that languages can be told.

    Raises:
        UsageError: if py3langid is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("py3langid") is None:
        raise UsageError(
            "behaviour 'language' needs the package py3langid, which is not installed",
            'pip install "py3langid>=0.4,<0.5"',
        )

"""What a reader of a published format is, and what several of them need."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remote_mi.prompts.examples import Example

Values = Mapping[str, Any]


class RecordMisfit(Exception):
    """A record of which no prompt can be made; its message says why."""


#: What a record gives: its prompts, or why it gives none.
Made = list[Example] | RecordMisfit


@dataclass(frozen=True)
class PublishedFormat:
    """The form of the records of a published set of prompts.

    Attributes:
        name: as `--format` takes it.
        signatures: sets of columns; records with all columns of one of them are of this format.
            `*_x` stands for any column with that ending.
        read: from all records and a variant ("" for the usual one) to what each gives. One that is
            part of another's prompt gives [].
        variants: other ways to make prompts of the records; None if the records have names for them.
    """

    name: str
    signatures: tuple[frozenset[str], ...]
    read: Callable[[Sequence[Values], str], list[Made]]
    variants: tuple[str, ...] | None = ()

    def matches(self, columns: Collection[str]) -> bool:
        """Whether records with these columns, among others, are of this format."""
        return any(
            all(fnmatch.filter(columns, wanted) for wanted in signature)
            for signature in self.signatures
        )


def each_record(make: Callable[[Values], list[Example]], records: Sequence[Values]) -> list[Made]:
    """What each record gives by itself."""
    made: list[Made] = []
    for values in records:
        try:
            made.append(make(values))
        except RecordMisfit as misfit:
            made.append(misfit)
    return made


def text_in(values: Values, name: str) -> str:
    """The text of a field.

    Raises:
        RecordMisfit: if there is none.
    """
    found = values.get(name)
    if not isinstance(found, str) or not found.strip():
        raise RecordMisfit(f"{name!r} is not a text: {found!r:.60}")
    return found


def as_continuation(text: str) -> str:
    """A word as the continuation of a text, with one space before it."""
    return " " + text.strip()


def where_they_part(one: str, other: str) -> tuple[str, str, str]:
    """What two sentences share at their beginning, and the word with which each goes on.

    Returns:
        the shared words; the two words that differ, each with a space before it and without the
        punctuation that ends its sentence.

    Raises:
        RecordMisfit: if they do not begin alike, or one is the beginning of the other.
    """
    a, b = one.split(), other.split()
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    if not shared:
        raise RecordMisfit("its sentences differ from the first word on: no text comes before")
    if shared == min(len(a), len(b)):
        raise RecordMisfit("one of its sentences is the beginning of the other")
    words = [as_continuation(side[shared].rstrip(".,;:!?")) for side in (a, b)]
    if words[0] == words[1] or not all(word.strip() for word in words):
        raise RecordMisfit("its sentences differ only in punctuation")
    return " ".join(a[:shared]), words[0], words[1]

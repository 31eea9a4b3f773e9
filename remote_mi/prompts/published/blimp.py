"""BLiMP (Warstadt et al. 2020): pairs of an acceptable and an unacceptable sentence.

A record has `sentence_good`, `sentence_bad`, `UID` (its paradigm), `pair_id`, and three flags that
say which measurements suit it; the original files also have the words of the two prefix methods.

By default a record gives the prompt that both sentences share, answered by the good sentence's next
word and not by the bad one's: BLiMP's one-prefix method. `blimp:sentences` gives both sentences as
prompts of the classes `good` and `bad`, for probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from remote_mi.prompts.examples import Example
from remote_mi.prompts.published.base import (
    Made,
    PublishedFormat,
    RecordMisfit,
    Values,
    each_record,
    text_in,
    where_they_part,
)

_SENTENCES = "sentences"


def _read(records: Sequence[Values], variant: str) -> list[Made]:
    return each_record(_sentences if variant == _SENTENCES else _prefix, records)


def _prefix(values: Values) -> list[Example]:
    good, bad = text_in(values, "sentence_good"), text_in(values, "sentence_bad")
    flag = values.get("one_prefix_method")
    if flag is not None and not _is_true(flag):
        raise RecordMisfit(
            "BLiMP's one-prefix method does not suit it: the sentences differ in more than the word"
            f" after a shared beginning; --format blimp:{_SENTENCES} takes them whole"
        )
    shared, answer, wrong = where_they_part(good, bad)
    paradigm = str(values.get("UID", ""))
    return [
        Example(
            shared, answers=(answer,), wrongs=(wrong,), template=paradigm, label=paradigm or answer
        )
    ]


def _sentences(values: Values) -> list[Example]:
    group = f"{values.get('UID', '')}/{values.get('pair_id', text_in(values, 'sentence_good'))}"
    return [
        Example(text_in(values, f"sentence_{kind}"), label=kind, group=group)
        for kind in ("good", "bad")
    ]


def _is_true(flag: Any) -> bool:
    """A flag as JSON has it, or as a table of texts or numbers does."""
    return str(flag).strip().lower() in ("true", "1")


BLIMP = PublishedFormat(
    "blimp", (frozenset({"sentence_good", "sentence_bad"}),), _read, (_SENTENCES,)
)

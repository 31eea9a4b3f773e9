"""StereoSet (Nadeem et al. 2021): contexts with a stereotyped and an anti-stereotyped ending.

A record has `context`, `bias_type`, `target` and three `sentences`, each with a `gold_label`:
`stereotype`, `anti-stereotype`, `unrelated`. The published file is one object with
`data: {intersentence: […], intrasentence: […]}`; the hub's rows have the sentences as columns of
lists, with the labels as numbers in that order of the hub's data set: anti-stereotype, stereotype,
unrelated.

By default a record within a sentence (its context has a BLANK) gives the prompt before the blank,
answered by the stereotyped word and not by the anti-stereotyped one. `stereoset:sentences` gives
all three sentences as prompts of those classes, for probes.
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
    as_continuation,
    each_record,
    text_in,
)

_SENTENCES = "sentences"
_BLANK = "BLANK"
_CLASSES = ("anti-stereotype", "stereotype", "unrelated")


def _read(records: Sequence[Values], variant: str) -> list[Made]:
    return each_record(_classes if variant == _SENTENCES else _blank, records)


def _blank(values: Values) -> list[Example]:
    context = text_in(values, "context")
    before, blank, after = context.partition(_BLANK)
    if not blank:
        raise RecordMisfit(
            f"its context has no {_BLANK}: the continuations are whole sentences; "
            f"--format stereoset:{_SENTENCES} takes them"
        )
    if not before.strip():
        raise RecordMisfit(f"no text comes before its {_BLANK}")
    fillers = {}
    for kind, sentence in _labelled(values).items():
        inside = sentence.strip()[len(before) : len(sentence.strip()) - len(after.rstrip())]
        if not sentence.startswith(before) or not inside.strip():
            raise RecordMisfit(f"its sentence {sentence!r:.60} is not its context with a word")
        fillers[kind] = as_continuation(inside)
    bias = str(values.get("bias_type", ""))
    return [
        Example(
            before.rstrip(),
            answers=(fillers["stereotype"],),
            wrongs=(fillers["anti-stereotype"],),
            label=bias,
            group=str(values.get("target", "")),
        )
    ]


def _classes(values: Values) -> list[Example]:
    context = text_in(values, "context")
    start = "" if _BLANK in context else context.strip() + " "
    group = str(values.get("id", context))
    return [
        Example(start + sentence.strip(), label=kind, group=group)
        for kind, sentence in _labelled(values).items()
    ]


def _labelled(values: Values) -> dict[str, str]:
    """Class → sentence.

    Raises:
        RecordMisfit: if one of the three classes is missing.
    """
    given: Any = values.get("sentences")
    if isinstance(given, dict):  # columns of lists
        rows = zip(given.get("sentence", ()), given.get("gold_label", ()), strict=False)
        pairs = [(label, sentence) for sentence, label in rows]
    else:
        rows = [one for one in given or () if isinstance(one, dict)]
        pairs = [(one.get("gold_label"), one.get("sentence")) for one in rows]
    found = {}
    for label, sentence in pairs:
        kind = _CLASSES[label] if isinstance(label, int) and 0 <= label < 3 else label
        if kind in _CLASSES and isinstance(sentence, str):
            found[kind] = sentence
    missing = [kind for kind in _CLASSES if kind not in found]
    if missing:
        raise RecordMisfit(f"it has no sentence of the class {missing[0]!r}")
    return found


STEREOSET = PublishedFormat(
    "stereoset", (frozenset({"context", "sentences", "bias_type"}),), _read, (_SENTENCES,)
)

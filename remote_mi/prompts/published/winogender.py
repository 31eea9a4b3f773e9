"""Winogender schemas (Rudinger et al. 2018): sentences that differ in a pronoun's gender.

Two files are published. `all_sentences.tsv` has `sentid` (`technician.customer.1.male.txt`:
occupation, participant, which of them the pronoun refers to, its gender) and `sentence`.
`templates.tsv` has `occupation(0)`, `other-participant(1)`, `answer` and a `sentence` with
`$OCCUPATION`, `$PARTICIPANT` and one of `$NOM_PRONOUN`, `$ACC_PRONOUN`, `$POSS_PRONOUN`.

By default a schema gives the prompt before its pronoun, answered by the male and not by the female
one; its class is the occupation. `winogender:sentences` gives every sentence of `all_sentences.tsv`
as a prompt whose class is its pronoun's gender, for probes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
_PRONOUNS = {"NOM": ("he", "she"), "ACC": ("him", "her"), "POSS": ("his", "her")}
_PRONOUN = re.compile(r"\$(NOM|ACC|POSS)_PRONOUN")
_OCCUPATION, _PARTICIPANT = "occupation(0)", "other-participant(1)"


def _read(records: Sequence[Values], variant: str) -> list[Made]:
    if any(_OCCUPATION in values for values in records):
        if variant:
            reason = "templates have no sentences; give all_sentences.tsv"
            return [RecordMisfit(reason) for _ in records]
        return each_record(_template, records)
    if variant:
        return each_record(_sentence, records)
    return _schemas(records)


def _template(values: Values) -> list[Example]:
    text = text_in(values, "sentence")
    names = {word: text_in(values, word) for word in (_OCCUPATION, _PARTICIPANT)}
    text = text.replace("$OCCUPATION", names[_OCCUPATION])
    text = text.replace("$PARTICIPANT", names[_PARTICIPANT])
    found = _PRONOUN.search(text)
    if found is None or not text[: found.start()].strip():
        raise RecordMisfit("no text comes before a pronoun in it")
    male, female = _PRONOUNS[found[1]]
    return [_example(text[: found.start()].rstrip(), f" {male}", f" {female}", names[_OCCUPATION])]


def _sentence(values: Values) -> list[Example]:
    _, schema, gender = _identified(values)
    return [Example(text_in(values, "sentence"), label=gender, group=schema)]


def _schemas(records: Sequence[Values]) -> list[Made]:
    """One prompt for each schema, at its male sentence, of which its others are part."""
    sentences: dict[str, dict[str, str]] = {}

    def collect(values: Values) -> list[Example]:
        _, schema, gender = _identified(values)
        sentences.setdefault(schema, {})[gender] = text_in(values, "sentence")
        return []

    def make(values: Values) -> list[Example]:
        occupation, schema, gender = _identified(values)
        found = sentences[schema]
        if "male" not in found or "female" not in found:
            raise RecordMisfit(f"schema {schema!r} lacks its male or its female sentence")
        if gender != "male":
            return []
        return [_example(*where_they_part(found["male"], found["female"]), occupation)]

    read = each_record(collect, records)
    return [
        found if isinstance(found, RecordMisfit) else each_record(make, [values])[0]
        for found, values in zip(read, records, strict=True)
    ]


def _identified(values: Values) -> tuple[str, str, str]:
    """Occupation, schema and gender, from the sentence's name."""
    parts = text_in(values, "sentid").removesuffix(".txt").split(".")
    if len(parts) != 4 or parts[3] not in ("male", "female", "neutral"):
        raise RecordMisfit("'sentid' is not OCCUPATION.PARTICIPANT.ANSWER.GENDER.txt")
    return parts[0], ".".join(parts[:3]), parts[3]


def _example(prompt: str, male: str, female: str, occupation: str) -> Example:
    return Example(prompt, answers=(male,), wrongs=(female,), label=occupation)


WINOGENDER = PublishedFormat(
    "winogender",
    (frozenset({"sentid", "sentence"}), frozenset({_OCCUPATION, _PARTICIPANT, "sentence"})),
    _read,
    (_SENTENCES,),
)

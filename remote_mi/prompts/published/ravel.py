"""RAVEL (Huang et al. 2024): prompts about an entity's attribute, each with a source prompt.

A record for interventions has `input` and `label` (the base prompt and its answer), `source_input`
and `source_label`, and `inv_label`, the answer after the attribute is exchanged. It gives a pair:
the base prompt is the clean one, the source prompt the corrupt one. Files of entities and templates,
from which such records are made, are not read.
"""

from __future__ import annotations

from collections.abc import Sequence

from remote_mi.prompts.examples import Example
from remote_mi.prompts.published.base import (
    Made,
    PublishedFormat,
    RecordMisfit,
    Values,
    each_record,
    text_in,
)


def _read(records: Sequence[Values], variant: str) -> list[Made]:
    return each_record(_pair, records)


def _pair(values: Values) -> list[Example]:
    clean, corrupt = text_in(values, "input"), text_in(values, "source_input")
    answer, wrong = text_in(values, "label"), text_in(values, "source_label")
    if answer == wrong:
        raise RecordMisfit(f"base and source have the same answer {answer!r}")
    labels = _entity(clean, values.get("entity"))
    return [
        Example(
            clean,
            corrupt,
            answers=(answer,),
            wrongs=(wrong,),
            labels=labels,
            corrupt_labels=_entity(corrupt, values.get("source_entity")) if labels else {},
            group=str(values.get("entity") or ""),
        )
    ]


def _entity(text: str, name: object) -> dict[str, tuple[int, int]]:
    """The last place of the entity in a prompt, labelled; {} if it is not given or not there."""
    if not isinstance(name, str) or not name or name not in text:
        return {}
    start = text.rindex(name)
    return {"entity": (start, start + len(name))}


RAVEL = PublishedFormat(
    "ravel",
    (frozenset({"input", "label", "source_input", "source_label"}),),
    _read,
)

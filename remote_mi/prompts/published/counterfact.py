"""CounterFact (Meng et al. 2022): facts, each with a false object.

A published record has `requested_rewrite` with `prompt` ("The mother tongue of {} is"), `subject`,
`relation_id`, `target_true` and `target_new`, each `{str, id}`. The flat form that is made for
tracing has `prompt` (filled in), `subject`, `relation_id`, `target_true` and `target_false`.

A record gives the clean prompt with the label `subject`, answered by the true object. Its corrupt
prompt is that of the next record with the same wording and another true object, which is the wrong
answer (symmetric token replacement). A record without such a partner gives a single prompt. The
false object is not used: no prompt of the set is followed by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def _read(records: Sequence[Values], variant: str) -> list[Made]:
    singles = each_record(_fact, records)
    alike: dict[str, list[Example]] = {}
    for made in singles:
        if not isinstance(made, RecordMisfit):
            alike.setdefault(made[0].template, []).append(made[0])
    paired = {name: iter(_with_partners(facts)) for name, facts in alike.items()}
    return [
        made if isinstance(made, RecordMisfit) else [next(paired[made[0].template])]
        for made in singles
    ]


def _fact(values: Values) -> list[Example]:
    rewrite = values.get("requested_rewrite", values)
    if not isinstance(rewrite, dict) and "requested_rewrite" in values:
        raise RecordMisfit("'requested_rewrite' is not an object")
    subject, wording = text_in(rewrite, "subject").strip(), text_in(rewrite, "prompt")
    if "{}" not in wording:
        wording = wording.replace(subject, "{}", 1)
    before, slot, after = wording.partition("{}")
    if not slot:
        raise RecordMisfit(f"its subject {subject!r} is not in its prompt")
    true: Any = rewrite.get("target_true")
    true = true.get("str") if isinstance(true, dict) else true
    if not isinstance(true, str) or not true.strip():
        raise RecordMisfit("it has no true object")
    span = (len(before), len(before) + len(subject))
    return [
        Example(
            (before + subject + after).rstrip(),
            answers=(as_continuation(true),),
            labels={"subject": span},
            template=f"{rewrite.get('relation_id', '')}: {wording.strip()}",
            group=subject,
        )
    ]


def _with_partners(facts: Sequence[Example]) -> Iterator[Example]:
    """Facts of one wording, each with the next of another answer, going around at the end."""
    for index, fact in enumerate(facts):
        others = (facts[(index + step) % len(facts)] for step in range(1, len(facts)))
        other = next((one for one in others if one.answer != fact.answer), None)
        if other is None:
            yield fact
            continue
        yield Example(
            fact.clean,
            other.clean,
            answers=fact.answers,
            wrongs=other.answers,
            labels=fact.labels,
            corrupt_labels=other.labels,
            template=fact.template,
            group=fact.group,
        )


COUNTERFACT = PublishedFormat(
    "counterfact",
    (
        frozenset({"requested_rewrite"}),
        frozenset({"prompt", "subject", "target_true", "target_false"}),
    ),
    _read,
)

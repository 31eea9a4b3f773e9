"""MIB (Mueller et al. 2025): tasks whose records carry their own counterfactual prompts.

A record has `prompt`, its answer, and for each kind of counterfactual an object
`NAME_counterfactual` of the same form. The answer is `choices[answerKey]`, where `choices` is a list
of texts or `{label: […], text: […]}` (multiple choice: the letter is answered), or `label` where
there are no choices (arithmetic).

It gives a pair with the first counterfactual whose answer is another one; `mib:NAME` chooses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from remote_mi.prompts.examples import Example
from remote_mi.prompts.files.records import unpacked
from remote_mi.prompts.published.base import (
    Made,
    PublishedFormat,
    RecordMisfit,
    Values,
    each_record,
    text_in,
)

_ENDING = "_counterfactual"


def _read(records: Sequence[Values], variant: str) -> list[Made]:
    name = variant and variant.removesuffix(_ENDING) + _ENDING
    return each_record(lambda values: _pair(values, name), records)


def _pair(values: Values, name: str) -> list[Example]:
    known = [key for key in values if key.endswith(_ENDING)]
    if name and name not in known:
        raise RecordMisfit(f"it has no {name!r}; it has {', '.join(known) or 'none'}")
    prompt, answer = text_in(values, "prompt"), _answer(values)
    for key in [name] if name else known:
        other: Any = unpacked(values[key])
        if not isinstance(other, dict):
            raise RecordMisfit(f"{key!r} is not an object with a prompt")
        wrong = _answer(other)
        if wrong == answer:
            continue
        return [
            Example(
                prompt.rstrip(" "),
                text_in(other, "prompt").rstrip(" "),
                answers=(_continued(prompt, answer),),
                wrongs=(_continued(prompt, wrong),),
                template=str(values.get("template") or ""),
            )
        ]
    raise RecordMisfit(f"its answer {answer!r} is also that of {name or 'all its counterfactuals'}")


def _answer(values: Values) -> str:
    """The right answer of a prompt."""
    choices, key = unpacked(values.get("choices")), values.get("answerKey")
    if isinstance(choices, dict):
        choices = choices.get("label")
    if isinstance(choices, (list, tuple)) and key is not None:
        at = int(key) if str(key).isdigit() else -1
        if not 0 <= at < len(choices):
            raise RecordMisfit(f"'answerKey' {key!r} is not the number of one of its choices")
        return str(choices[at])
    label = values.get("label")
    if label is None or not str(label).strip():
        raise RecordMisfit("it has neither choices with an answerKey nor a label")
    return str(label)


def _continued(prompt: str, answer: str) -> str:
    """The answer as it follows the prompt: after "=" as it is, after a word with a space."""
    text = answer.strip()
    return text if prompt.endswith(("=", "\n", "(", '"')) else " " + text


MIB = PublishedFormat("mib", (frozenset({"prompt", f"*{_ENDING}"}),), _read, None)

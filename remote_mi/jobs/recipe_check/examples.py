"""The prompts that a recipe is checked with if none are given."""

from __future__ import annotations

from typing import Any

from remote_mi.prompts.examples import PromptSet, parse_example
from remote_mi.recipes.card import Card

#: Of different lengths; `{who}` is the second name in the clean prompt, the first in the corrupt.
_TEMPLATES = (
    "When {a} and {b} went to the store, {who} gave a drink to",
    "Then, {a} and {b} had a long argument, and afterwards {who} said to",
    "After {a} and {b} went to the park, {who} handed a book to",
)
#: (template, first name, second name).
_CHOSEN = (
    (0, "Mary", "John"),
    (1, "Tom", "John"),
    (0, "Anna", "Paul"),
    (2, "Mark", "Lucy"),
    (1, "Paul", "Mary"),
    (2, "John", "Anna"),
    (0, "Lucy", "Tom"),
    (2, "Tom", "Mary"),
    (1, "Anna", "Mark"),
    (0, "Paul", "Lucy"),
)


def _pair(index: int) -> dict[str, str]:
    template, a, b = _CHOSEN[index]
    clean, corrupt = (_TEMPLATES[template].format(a=a, b=b, who=who) for who in (b, a))
    return {
        "clean": clean,
        "corrupt": corrupt,
        "answer": f" {a}",
        "wrong": f" {b}",
        "label": "ab"[index % 2],
        "group": str(index + 1),
    }


#: Pairs of two classes, each pair a group of its own.
PAIRS = [_pair(index) for index in range(len(_CHOSEN))]


#: Asked of a continuation: about half of the texts of a model that knows nothing have it.
_BEHAVIOUR = {"matches": "[aeiou][^aeiou]*[a-m]"}


def examples_for(card: Card, count: int = 4) -> list[dict[str, Any]]:
    """Examples as a recipe takes them: pairs, prompts with a target, or none; with a behaviour in
    place of answers if it judges texts."""
    if card.over == "none":
        return []
    sides = ("clean", "corrupt") if card.takes_pairs else ("clean",)
    found = []
    for pair in PAIRS[:count]:
        prompts = {side: pair[side] for side in sides}
        answers = {name: pair[name] for name in ("answer", "wrong")}
        if not card.takes_pairs:
            prompts, answers = {"prompt": pair["clean"]}, {"target": pair["answer"]}
        asked = {"behaviour": _BEHAVIOUR} if card.judges else answers
        found.append({**prompts, **asked, "label": pair["label"], "group": pair["group"]})
    return found


def built_in_prompts(card: Card) -> PromptSet:
    """The prompts for a recipe: three, or ten if it has an analysis, which needs several.

    A prompt has the label `subject`: the name that answers it.
    """
    examples: list[dict[str, Any]] = []
    for fields in examples_for(card, len(PAIRS) if card.analysis else 3):
        labels = {"labels": {"subject": fields["target"].strip()}} if "target" in fields else {}
        examples.append({**fields, **labels})
    return PromptSet(tuple(parse_example(fields) for fields in examples), "built-in prompts")

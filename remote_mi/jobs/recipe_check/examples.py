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


def examples_for(over: str, count: int = 4) -> list[dict[str, str]]:
    """Examples as a recipe takes them: pairs, prompts with a target, or none."""
    if over == "none":
        return []
    if over in ("pair", "pairs"):
        return PAIRS[:count]
    return [
        {"prompt": p["clean"], "target": p["answer"], "label": p["label"], "group": p["group"]}
        for p in PAIRS[:count]
    ]


def built_in_prompts(card: Card) -> PromptSet:
    """The prompts for a recipe: three, or ten if it has an analysis, which needs several.

    A prompt has the label `subject`: the name that answers it.
    """
    examples: list[dict[str, Any]] = []
    for fields in examples_for(card.over, len(PAIRS) if card.analysis else 3):
        labels = {} if card.takes_pairs else {"labels": {"subject": fields["target"].strip()}}
        examples.append({**fields, **labels})
    return PromptSet(tuple(parse_example(fields) for fields in examples), "built-in prompts")

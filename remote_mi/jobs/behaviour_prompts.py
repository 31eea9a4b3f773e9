"""Which prompts a recipe takes that judges generated texts, and which others do not take."""

from __future__ import annotations

from dataclasses import replace

from remote_mi.common.errors import UsageError
from remote_mi.prompts.behaviours import check_languages
from remote_mi.prompts.examples import Example, PromptSet
from remote_mi.recipes.card import Card

#: Classes of the prompts of a pair, if both are continued.
SIDES = ("clean", "corrupt")
#: The detail of a set of prompts that says of how many pairs or prompts they are.
OF = "of_pairs"


def with_behaviours(card: Card, prompts: PromptSet) -> PromptSet:
    """The prompts as the recipe takes them: where texts are judged, both prompts of each pair.

    Raises:
        UsageError: if prompts ask for answers where a behaviour is judged, or the reverse.
    """
    asked = [example.behaviour is not None for example in prompts.examples]
    if not card.judges:
        if card.takes_pairs and any(asked):
            raise UsageError(
                f"recipe {card.name!r} reads answers; prompt {asked.index(True) + 1} asks for a "
                "behaviour of the continuation instead",
                "give answer and wrong, or run `remote-mi run behaviour`, which judges texts",
            )
        return prompts
    if not all(asked):
        raise UsageError(
            f"recipe {card.name!r} judges texts; prompt {asked.index(False) + 1} does not say by "
            "what",
            'give each prompt a behaviour, e.g. -p behaviour=\'{"language": "de"}\', or a '
            "phenomenon that asks for one",
        )
    if any(example.behaviour.kind == "language" for example in prompts.examples):  # type: ignore[union-attr]
        check_languages()
    if card.takes_pairs or all(example.corrupt is None for example in prompts.examples):
        return prompts
    both = tuple(one for example in prompts.examples for one in _sides(example))
    details = {**prompts.details, OF: len(prompts.examples)}
    return replace(prompts, examples=both, details=details)


def _sides(example: Example) -> list[Example]:
    """The clean and the corrupt prompt of a pair, as prompts of one group; or the one prompt."""
    if example.corrupt is None:
        return [example]
    clean = replace(example, corrupt=None, corrupt_labels={}, corrupt_turns=(), label=SIDES[0])
    corrupt = replace(
        clean,
        clean=example.corrupt,
        labels=example.corrupt_labels,
        turns=example.corrupt_turns,
        label=SIDES[1],
    )
    return [clean, corrupt]

"""The question that a model is asked about its own text, as tokens around that of the text.

The text's tokens are those that the model generated: the question is tokenized before and after
them, and not as one text with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from remote_mi.prompts.behaviours import TEXT
from remote_mi.prompts.choices import DoesNotFit
from remote_mi.prompts.conversation import ChatTemplate
from remote_mi.prompts.examples import Example

_ANSWERS = {"yes": ("yes", "Yes"), "no": ("no", "No")}


def question_tokens(
    example: Example,
    tokenizer: Any,
    template: ChatTemplate | None,
    encode: Callable[[str], list[int]],
) -> dict[str, list[int]]:
    """ "before" and "after" the text, and the first tokens of "yes" and "no" after that.

    In a chat template the question is what a user says, and the answer the assistant's.

    Args:
        encode: from a text to its tokens, with what begins every prompt.

    Returns:
        {} if nothing is asked.

    Raises:
        DoesNotFit: if the chat template changes the question, or "yes" and "no" begin with the same
            token.
    """
    question = example.behaviour and example.behaviour.question
    if not question:
        return {}
    whole = question
    if template is not None:
        whole, _ = template.render((("user", question),), example.thinking, plain=True)
    if whole.count(TEXT) != 1:
        raise DoesNotFit("the chat template changes the question of its behaviour")
    before, after = whole.split(TEXT)

    def added(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    inner = added(after)
    firsts = {}
    for answer, words in _ANSWERS.items():
        longer = [added(after + space + word) for word in words for space in ("", " ")]
        firsts[answer] = {row[len(inner)] for row in longer if row[: len(inner)] == inner != row}
    yes, no = firsts["yes"] - firsts["no"], firsts["no"] - firsts["yes"]
    if not yes or not no:
        raise DoesNotFit(
            'the question of its behaviour cannot be answered by "yes" or "no": this tokenizer '
            "does not give each a first token of its own"
        )
    return {"before": encode(before), "after": inner, "yes": sorted(yes), "no": sorted(no)}

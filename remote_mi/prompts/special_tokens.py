"""The special tokens that a tokenizer puts around texts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.prompts.token_text import ORDINARY


def closing_tokens(tokenizer: Any) -> list[int]:
    """The special tokens that a tokenizer appends to every text, such as T5's </s>.

    Raises:
        UsageError: if adding special tokens changes a text in any other way.
    """
    for text in ORDINARY:
        plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        whole = list(tokenizer(text, add_special_tokens=True)["input_ids"])
        starts = [i for i in range(len(whole)) if whole[i : i + len(plain)] == plain]
        if plain and len(starts) == 1:
            return whole[starts[0] + len(plain) :]
    raise UsageError(
        "cannot determine what this tokenizer adds to a text",
        "give --bos never, which adds nothing",
    )


def doubled_bos(tokenizer: Any, ids: list[int], own: str, chat: bool) -> str:
    """What is wrong if a prompt begins with its beginning-of-sequence token twice; "" otherwise.

    Args:
        own: the text as the user gave it. chat: whether it was put into a chat template.
    """
    bos = tokenizer.bos_token_id
    if bos is None or ids[:2] != [bos, bos]:
        return ""
    token = tokenizer.bos_token
    twice = f"it begins with the beginning-of-sequence token {token} twice"
    if own.count(token) > 1 and own.startswith(token):
        return f"{twice}, as its text does: leave one of them out"
    if chat:
        return f"{twice}, as the chat template writes it; the text may have one of them"
    if own.startswith(token):
        return (
            f"{twice}: the tokenizer adds one, and the text has its own; take it out of the text, "
            "or give --bos never (a text that was put into a chat template before is given as "
            "messages)"
        )
    return f"{twice}: the tokenizer adds both; give --bos never and write one into the text"


def notes_of_spelled(special: Mapping[int, str], own: str, ids: Collection[int]) -> list[str]:
    """Notes on the special tokens that the user's own text spells out.

    Args:
        special: id → text of every special token. ids: of the prompt, without a mask that is meant
            to be one.
    """
    return [
        f"the text {text} in a prompt is that one special token of this tokenizer, not its "
        "characters"
        for token, text in special.items()
        if token in ids and text in own
    ]

"""Answers that do not continue the prompt: those of models that fill a mask, and of a decoder.

A prompt written for a causal model gets a mask in place of its continuation, so that the same
phenomena work for both kinds of model. A decoder's answer is a text of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class MaskMisfit(Exception):
    """A prompt or an answer does not fit the mask, or an answer the decoder."""


def add_mask(tokenizer: Any, text: str, role: str) -> str:
    """The text with exactly one mask token: its own, or one appended as a word.

    Raises:
        MaskMisfit: if the text has several.
    """
    mask = tokenizer.mask_token
    count = text.count(mask)
    if count > 1:
        raise MaskMisfit(f"the {role} prompt has {count} mask tokens {mask}; it may have one")
    if count:
        return text
    return f"{text}{mask}" if text[-1:].isspace() else f"{text} {mask}"


def mask_position(tokenizer: Any, ids: list[int], role: str) -> int:
    """The position of the mask.

    Raises:
        MaskMisfit: if the prompt does not have exactly one mask token.
    """
    places = [i for i, token in enumerate(ids) if token == tokenizer.mask_token_id]
    if len(places) != 1:
        raise MaskMisfit(f"the {role} prompt has {len(places)} mask tokens; it must have one")
    return places[0]


def token_at_mask(
    tokenizer: Any, encode: Callable[[str], list[int]], text: str, answer: str, role: str
) -> int:
    """The token at the mask's position once the answer replaces the mask.

    The answer's leading space is the one before the mask, so " Paris" at "… of [MASK]" gives
    "… of Paris".

    Args:
        encode: from a text to ids, with special tokens added as for the prompts.
        text: the prompt, with its mask.

    Raises:
        MaskMisfit: if the answer is not one token, or changes the tokens around it.
    """
    before, after = text.split(tokenizer.mask_token)
    if not before or before[-1].isspace():
        answer = answer.lstrip()
    if not answer:
        raise MaskMisfit(f"the {role} is empty")
    masked, filled = encode(text), encode(before + answer + after)
    end = mask_position(tokenizer, masked, "given")
    behind = len(masked) - end - 1
    stop = len(filled) - behind
    if filled[:end] != masked[:end] or filled[stop:] != masked[end + 1 :] or stop <= end:
        raise MaskMisfit(f"the {role} {answer!r} merges with the text next to the mask")
    if stop - end != 1:
        parts = [tokenizer.decode([token]) for token in filled[end:stop]]
        raise MaskMisfit(f"the {role} {answer!r} is {stop - end} tokens, {parts}; it must be one")
    return filled[end]


def first_of_answer(tokenizer: Any, answer: str, role: str) -> int:
    """The token that a decoder gives for an answer: the answer as a text of its own.

    A space before it belongs to a text to be continued, and is left out.

    Raises:
        MaskMisfit: if the answer is not one token.
    """
    own = answer.strip()
    if not own:
        raise MaskMisfit(f"the {role} is empty")
    ids = tokenizer(text_target=own, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        parts = [tokenizer.decode([token]) for token in ids]
        raise MaskMisfit(f"the {role} {own!r} is {len(ids)} tokens, {parts}; it must be one")
    return int(ids[0])

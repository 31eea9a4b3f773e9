"""Judging generated texts by the behaviour that their prompts ask for, on this machine.

It happens when the outputs of all calls are there, before they are put together: judged outputs
have intervals, controls and figures like all others, and are no part of what is computed remotely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from remote_mi.common.errors import RunFailed
from remote_mi.prompts.behaviours import (
    FEWEST_LETTERS,
    LONGEST_SEARCH,
    Behaviour,
    SlowPattern,
    is_too_short,
)
from remote_mi.recipes.card import Card

#: From the ids of a text's tokens to the text.
Decode = Callable[[Sequence[int]], str]


def judged_outputs(
    card: Card,
    arrays: Mapping[str, np.ndarray],
    behaviour: Behaviour | None,
    decode: Decode,
    index: int = 0,
) -> dict[str, np.ndarray]:
    """The judged outputs of one example: 1, 0, or NaN where nothing tells, each [...].

    Args:
        arrays: what the recipe returned for it. behaviour: that its prompt asks for.
        index: of the example, for messages.

    Raises:
        RunFailed: if a regular expression runs for too long.
    """
    found = {}
    for name, output in card.returns.items():
        if not output.judges:
            continue
        shown = _judge_all(behaviour, arrays[output.judges], decode, index)
        if output.against:
            shown = shown - _judge_all(behaviour, arrays[output.against], decode, index)
        if output.asked and len(arrays[output.asked]):
            yes = np.asarray(arrays[output.asked][0], np.float32)
            own = np.where(np.isnan(yes), np.nan, (yes > 0.5).astype(np.float32))
            shown = np.where(np.isnan(shown), own, shown)
        found[name] = shown
    return found


def _judge_all(
    behaviour: Behaviour | None, tokens: np.ndarray, decode: Decode, index: int
) -> np.ndarray:
    """Whether each text, [..., step], shows a behaviour, [...]."""
    shown = np.full(tokens.shape[:-1], np.nan, np.float32)
    for place in np.ndindex(*shown.shape):
        text = decode([int(i) for i in tokens[place] if i >= 0])
        shown[place] = _judge(behaviour, text, index)
    return shown


def _judge(behaviour: Behaviour | None, text: str, index: int) -> float:
    """1 if a text shows a behaviour, 0 if not, NaN if the text does not tell."""
    try:
        shown = behaviour.shown_by(text) if behaviour else None
    except SlowPattern:
        raise RunFailed(
            f"the regular expression {behaviour.values[0] if behaviour else ''!r:.60} searched the "
            f"text of prompt {index + 1} for more than {LONGEST_SEARCH:g} s",
            "write it without repetitions within repetitions; the texts are kept, and the same "
            "command with another one judges them again",
        ) from None
    return np.nan if shown is None else float(shown)


def judging_notes(
    card: Card, parts: Sequence[Mapping[str, np.ndarray]], behaviours: Sequence[Any], decode: Decode
) -> list[str]:
    """Notes on texts that are too short to tell their language, and on rates of 0 and of 1."""
    notes = []
    for name, output in card.returns.items():
        if not output.judges or output.against or name in card.controls.values():
            continue
        short = sum(
            is_too_short(decode([int(i) for i in row if i >= 0]))
            for part, asked in zip(parts, behaviours, strict=True)
            if asked is not None and asked.kind == "language"
            for row in part[output.judges].reshape(-1, part[output.judges].shape[-1])
        )
        if short:
            notes.append(
                f"{name}: {short} texts have fewer than {FEWEST_LETTERS} letters, whose language "
                "cannot be told; they count as not showing it"
            )
        notes += _extreme(name, [part[name] for part in parts])
    return notes


def _extreme(name: str, shown: Sequence[np.ndarray]) -> list[str]:
    """A note on a single rate of 0 or 1."""
    every = np.concatenate([values.reshape(-1) for values in shown])
    if any(values.ndim > 1 for values in shown) or not np.isin(every, (0, 1)).all():
        return []
    if len(set(every.tolist())) > 1:
        return []
    which = "every text shows" if every[0] else "no text shows"
    return [
        f"{name}: {which} the behaviour: look whether it is asked rightly, and note that nothing "
        "can make it " + ("more frequent" if every[0] else "rarer")
    ]

"""Conversations as text: turns of roles, which a tokenizer's chat template puts together later."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from remote_mi.common.errors import UsageError, nearest
from remote_mi.common.text import encoding_problem

#: A role and what it says.
Turn = tuple[str, str]
ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAPE = 'e.g. [{"role": "user", "content": "…"}, {"role": "assistant", "content": "It is"}]'


def is_messages(value: Any) -> bool:
    """Whether a value is meant as messages rather than as a text."""
    return isinstance(value, (list, tuple)) and all(isinstance(one, Mapping) for one in value)


def parse_messages(name: str, value: Any) -> tuple[Turn, ...]:
    """The turns of a conversation, from messages with `role` and `content`, or JSON of them.

    An assistant's last message is an answer that the model goes on with.

    Raises:
        UsageError: naming the message and what is wrong with it.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UsageError(f"{name!r} is not JSON of messages: {value!r:.60}", _SHAPE) from None
    if not is_messages(value) or not value:
        what = "a list of messages" if name == "messages" else "a text, nor a list of messages"
        raise UsageError(f"{name!r} is not {what}: {value!r:.60}", _SHAPE)
    turns = tuple(_turn(f"{name!r}, message {number}", one) for number, one in enumerate(value, 1))
    if all(role in ("system", "developer") for role, _ in turns):
        raise UsageError(f"{name!r} has no message of a user or an assistant", _SHAPE)
    return turns


def parse_turns(words: Iterable[str], option: str) -> list[dict[str, str]]:
    """Messages from words such as `user=Where is Oslo?`.

    Raises:
        UsageError: for another form.
    """
    messages = []
    for word in words:
        role, equals, content = word.partition("=")
        if not equals:
            raise UsageError(
                f"{option} {word!r:.60} is not ROLE=TEXT", f"roles: {', '.join(ROLES)}"
            )
        messages.append({"role": role.strip(), "content": content})
    return messages


def conversation_text(turns: Sequence[Turn]) -> tuple[str, list[int]]:
    """A conversation as one text, to be shown, and where what each turn says begins in it."""
    text, starts = "", []
    for role, content in turns:
        text += f"\n{role}: " if text else f"{role}: "
        starts.append(len(text))
        text += content
    return text, starts


def words_in_turns(turns: Sequence[Turn], words: str) -> list[int]:
    """Where words occur in what the turns say, in characters of the conversation's text."""
    found = []
    for start, (_, content) in zip(conversation_text(turns)[1], turns, strict=True):
        at = content.find(words)
        while at >= 0:
            found.append(start + at)
            at = content.find(words, at + len(words))
    return found


def _turn(where: str, message: Mapping[str, Any]) -> Turn:
    unknown = [str(key) for key in message if key not in ("role", "content")]
    if unknown:
        raise UsageError(f"{where}: {unknown[0]!r} is not read", "a message has role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        close = nearest(str(role), ROLES)
        hint = f"did you mean {close!r}? " if close else ""
        raise UsageError(
            f"{where}: there is no role {role!r:.40}", hint + f"roles: {', '.join(ROLES)}"
        )
    if isinstance(content, (list, tuple)) and len(content) == 1:  # parts, as services take them
        part = content[0]
        if isinstance(part, Mapping) and part.get("type", "text") == "text":
            content = part.get("text")
    if not isinstance(content, str) or not content.strip():
        raise UsageError(f"{where}: its content is not a text: {content!r:.60}", "write a text")
    if problem := encoding_problem(content):
        raise UsageError(f"{where}: its content {problem}", "write the whole character")
    return role, content

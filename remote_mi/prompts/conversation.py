"""Conversations in a tokenizer's chat template, and where each turn stands in the text it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from remote_mi.common.errors import UsageError, first_line
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.examples import PromptSet
from remote_mi.prompts.messages import Turn, conversation_text

#: Rendered in place of what a turn says, to find the template's frame; no template changes it.
_MARK = "Qx7remotemi{}Qx7"


def in_template(prompts: PromptSet, spec: ModelSpec) -> bool:
    """Whether prompts are put into the tokenizer's chat template.

    Raises:
        UsageError: if some are conversations and others are texts, or if thinking is switched for
            texts.
    """
    conversations = sum(bool(example.turns) for example in prompts.examples)
    if conversations in (0, len(prompts.examples)):
        chat = spec.chat or conversations > 0
        if not chat and any(example.thinking is not None for example in prompts.examples):
            raise UsageError(
                "thinking belongs to conversations, and these prompts are texts",
                "give --chat, which puts each into a user's turn",
            )
        return chat
    if not spec.chat:
        raise UsageError(
            f"{conversations} of {len(prompts.examples)} prompts are conversations, the others texts",
            "give --chat, which puts the texts into a user's turn, or run them separately",
        )
    return True


def goes_on(turns: Sequence[Turn], template: ChatTemplate | None) -> bool:
    """Whether the model goes on with the user's own text, not with what a template puts after it."""
    return template is None or (bool(turns) and turns[-1][0] == "assistant")


class Placement:
    """Where a user's text, or what the turns of a conversation say, stands in a longer text.

    Attributes:
        unclear: why that cannot be determined, "" if it can.
        roles: label of a role → (start, end) in characters of the longer text, if it is clear:
            `user.start` is the first letter of what the user says, `user.end` the last one.
    """

    def __init__(
        self,
        parts: Sequence[tuple[int, int, int]] = (),
        roles: dict[str, tuple[int, int]] | None = None,
        unclear: str = "",
    ) -> None:
        self._parts, self.roles, self.unclear = parts, roles or {}, unclear

    def find(self, start: int, stop: int) -> tuple[int, int]:
        """A span of the user's text in the longer one, both in characters.

        Negative if the template took away the spaces before the text.
        """
        for begins, ends, there in self._parts:
            if begins <= start < ends:
                return start - begins + there, stop - begins + there
        return start, stop


@dataclass(frozen=True)
class Frame:
    """What a template writes around the contents of turns.

    Attributes:
        pieces: the text before the first content, between two, and after the last one.
        unclear: why it cannot be determined, "" if it can.
    """

    pieces: list[str] = field(default_factory=list)
    unclear: str = ""


class ChatTemplate:
    """A tokenizer's chat template.

    Raises:
        UsageError: if the tokenizer has none.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError(
                "--chat: this tokenizer has no chat template"
                " (nor can it put messages together without one)",
                "leave --chat out, or write the prompt as one text",
            )
        self._tokenizer = tokenizer
        self._frames: dict[tuple[tuple[str, ...], bool | None], Frame] = {}

    def render(
        self, turns: Sequence[Turn], thinking: bool | None = None, plain: bool = False
    ) -> tuple[str, Placement]:
        """A conversation in the template, and where its turns stand in it.

        Turns are found where they were inserted, not by a search: the same words may occur earlier
        in the template. After an assistant's turn, the text ends with what it has said so far;
        otherwise with what opens the assistant's answer.

        Args:
            thinking: switches a template's `enable_thinking`; None leaves it as it is.
            plain: the turns are a single prompt, whose text has no names of roles.

        Raises:
            UsageError: if the template fails, or does not know `enable_thinking`.
        """
        if thinking is not None and "enable_thinking" not in self._source():
            raise UsageError(
                "thinking: this tokenizer's chat template does not know enable_thinking",
                "leave --thinking out",
            )
        whole = self._render(turns, thinking)
        names = (tuple(role for role, _ in turns), thinking)
        if names not in self._frames:
            self._frames[names] = self._frame(turns, thinking)
        frame = self._frames[names]
        unclear = frame.unclear
        spans = [] if unclear else _walk(frame.pieces, [content for _, content in turns], whole)
        if spans is None or unclear:
            unclear = unclear or "the chat template changes the text, or the text around it"
            return whole, Placement(unclear=unclear)
        starts = [0] if plain else conversation_text(turns)[1]
        parts = [
            (begins, begins + len(content), there)
            for begins, (_, content), (there, _, _) in zip(starts, turns, spans, strict=True)
        ]
        return whole, Placement(parts, self._roles(turns, spans, whole, thinking))

    def _roles(
        self,
        turns: Sequence[Turn],
        spans: Sequence[tuple[int, int, int]],
        whole: str,
        thinking: bool | None,
    ) -> dict[str, tuple[int, int]]:
        """Label → the character that it names; of several turns of a role the last one counts."""
        found: dict[str, tuple[int, int]] = {}
        for (role, _), (_, first, stop) in zip(turns, spans, strict=True):
            found[f"{role}.start"] = (first, first + 1)
            found[f"{role}.end"] = (stop - 1, stop)
        if turns[-1][0] == "assistant":
            del found["assistant.end"]  # it is the end of the prompt
            return found
        closed = self._render(turns, thinking, opened=False)
        found.pop("assistant.start", None)
        found.pop("assistant.end", None)
        if len(closed) < len(whole) and whole.startswith(closed):
            found["assistant.start"] = (len(closed), len(closed) + 1)
        return found

    def _frame(self, turns: Sequence[Turn], thinking: bool | None) -> Frame:
        marks = [_MARK.format(index) for index in range(len(turns))]
        marked = [(role, mark) for (role, _), mark in zip(turns, marks, strict=True)]
        rest = self._render(marked, thinking)
        for mark in marks:
            if (times := rest.count(mark)) > 1:
                return Frame(unclear=f"the chat template inserts the text {times} times")
        pieces = []
        for mark in marks:
            before, inserted, rest = rest.partition(mark)
            if not inserted:
                return Frame(
                    unclear="the chat template changes the text, or leaves out or reorders messages"
                )
            pieces.append(before)
        return Frame([*pieces, rest])

    def _source(self) -> str:
        """The text of the template, or of all if it has several."""
        found = self._tokenizer.chat_template
        return found if isinstance(found, str) else repr(found)

    def _render(self, turns: Sequence[Turn], thinking: bool | None, opened: bool = True) -> str:
        """The text of a conversation; `opened`: up to where the assistant's answer goes on."""
        switch = {} if thinking is None else {"enable_thinking": thinking}
        begun = turns[-1][0] == "assistant"
        try:
            return self._tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content in turns],
                tokenize=False,
                add_generation_prompt=opened and not begun,
                continue_final_message=opened and begun,
                **switch,
            )
        except Exception as error:  # templates are code of the tokenizer's author
            roles = ", ".join(role for role, _ in turns)
            raise UsageError(
                f"the tokenizer's chat template failed: {first_line(error)}",
                f"it may not take these roles in this order: {roles}",
            ) from error


def _walk(
    pieces: Sequence[str], contents: Sequence[str], whole: str
) -> list[tuple[int, int, int]] | None:
    """Where each content stands between the pieces of a frame; None if the text is another one.

    A template may take away the spaces around a content.

    Returns:
        for each: where its first character would stand, before what was taken away; where what is
        left of it begins and ends.
    """
    if not whole.startswith(pieces[0]):
        return None
    at, found = len(pieces[0]), []
    for index, (content, after) in enumerate(zip(contents, pieces[1:], strict=True)):
        last = index == len(contents) - 1
        for left in dict.fromkeys((content, content.rstrip(), content.lstrip(), content.strip())):
            stop = at + len(left)
            follows = whole[stop:] == after if last else whole.startswith(after, stop)
            if whole.startswith(left, at) and follows:
                break
        else:
            return None
        cut = 0 if left.startswith(content[:1]) else len(content) - len(content.lstrip())
        found.append((at - cut, at, stop))
        at = stop + len(after)
    return found


def covered_tokens(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> list[int]:
    """The tokens with a character of a span."""
    return [i for i, (a, b) in enumerate(offsets) if b > a and a < stop and b > start]

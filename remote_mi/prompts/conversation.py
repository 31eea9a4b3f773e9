"""A prompt as a turn of a conversation, and its position in the text the chat template makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from remote_mi.common.errors import RemoteMIError

#: Rendered in place of a text to find the template's frame. No template contains or changes it.
_MARK = "Qx7remotemiQx7"


@dataclass(frozen=True)
class TextPlace:
    """Where a text begins in a longer one.

    Attributes:
        start: in characters; negative if its leading spaces were removed.
        unclear: why the position cannot be determined, "" if it can.
    """

    start: int
    unclear: str = ""


class Conversation:
    """A tokenizer's chat template, applied to a single user turn."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        frame = self._render(_MARK)
        self._times = frame.count(_MARK)
        self._before, _, self._after = frame.partition(_MARK)

    def render_turn(self, text: str) -> tuple[str, TextPlace]:
        """The text in the template, and its position there.

        That is where it was inserted, not where a search finds it: the same words may occur
        earlier in the template.
        """
        whole = self._render(text)
        return whole, self._locate(whole, text)

    def _locate(self, whole: str, text: str) -> TextPlace:
        if self._times > 1:
            return TextPlace(0, f"the chat template inserts the text {self._times} times")
        before, after = self._before, self._after
        inside = whole[len(before) : len(whole) - len(after)]
        left_out = len(text) - len(text.lstrip())
        framed = self._times and whole.startswith(before) and whole.endswith(after)
        if framed and inside in (text, text.rstrip()):
            return TextPlace(len(before))
        if framed and inside in (text.lstrip(), text.strip()):
            return TextPlace(len(before) - left_out)
        return TextPlace(0, "the chat template changes the text, or the text around it")

    def _render(self, text: str) -> str:
        try:
            turn = [{"role": "user", "content": text}]
            return self._tokenizer.apply_chat_template(
                turn, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates are code of the tokenizer's author
            raise RemoteMIError(f"the tokenizer's chat template failed: {error}") from error

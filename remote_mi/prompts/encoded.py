"""A tokenized text, and where the user's own text stands in it."""

from __future__ import annotations

from remote_mi.prompts.conversation import Placement


def quote(text: str) -> str:
    """A text for a message, at most 60 characters of it."""
    return repr(text if len(text) <= 60 else text[:57] + "…")


class EncodedPrompt:
    """A tokenized text, and the position of the user's own text in it.

    Attributes:
        text: as tokenized: in the chat template, with the mask. ids: its tokens.
        end: where the answer is read. own: the user's text. place: where it stands in `text`.
        offsets: of each token in `text`; None if the tokenizer does not report them.
    """

    def __init__(
        self,
        text: str,
        ids: list[int],
        end: int,
        own: str,
        place: Placement,
        offsets: list[tuple[int, int]] | None,
    ) -> None:
        self.text, self.ids, self.end, self.own = text, ids, end, own
        self.place, self.offsets = place, offsets

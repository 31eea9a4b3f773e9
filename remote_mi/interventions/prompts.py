"""What a recipe's body is called with: token ids, answers and positions as plain Python ints.

Plain classes, so that they are sent as source: no dataclasses here (they would be sent as
bytecode). The text of the prompts stays on the user's machine; a recipe sees only ids.
"""

from __future__ import annotations

from typing import Any


class Prompt:
    """One tokenized prompt, and, of an answer of several tokens, all of these but the last.

    Attributes:
        ids: token ids, including the requested BOS token or chat template.
        own: how many of them are the prompt's own; the others are the answer's.
        whole: in a pair, the tokens of the right answer, the first of which follows the prompt's
            own; else [].
        positions: label → position, e.g. {"s2": 9, "end": 13}; "end" always exists. It is the
            last position of the label's span.
        target: id of the token of interest, or None when none was given.
        spans: label → first and last position of the tokens it covers, both included.
        end: where the answer is read: the last of the prompt's own positions, or that of an
            encoder's mask token. In a pair whose answers begin alike, the last before they part.
        start: where the answer's first token is read; other than `end` only if answers begin alike.
        question: asked about the generated text, as token ids: "before" and "after" the text, and
            the tokens of "yes" and of "no"; {} for none.
    """

    def __init__(
        self,
        ids: list[int],
        positions: dict[str, int],
        target: int | None,
        spans: dict[str, tuple[int, int]] | None = None,
        whole: list[int] | None = None,
        start: int | None = None,
    ) -> None:
        self.ids = ids
        self.whole = whole or []
        self.own = len(ids) - max(0, len(self.whole) - 1)
        self.positions = positions
        self.target = target
        self.end = positions.get("end", self.own - 1)
        self.start = self.end if start is None else start
        self.spans = {label: (position, position) for label, position in positions.items()}
        self.spans.update(spans or {})
        self.question: dict[str, list[int]] = {}

    def position(self, label: str) -> int:
        """The position of a label; "end" is where the answer is read.

        Raises:
            ValueError: if the prompt has no such label.
        """
        known = {"end": self.end, **self.positions}
        if label not in known:
            raise ValueError(f"the prompt has no position {label!r}; it has {', '.join(known)}")
        return known[label]

    def wanted(self, otherwise: Any) -> Any:
        """The target at every position, or the given tokens, [...], if there is none."""
        return otherwise if self.target is None else otherwise * 0 + self.target

    def span(self, label: str, start: int | None, end: int | None) -> tuple[int, int]:
        """First and last position, both included, from parameters or else from the label.

        Raises:
            ValueError: if neither is given, or the positions lie outside the prompt.
        """
        if start is None and label in self.spans:
            return self.spans[label]
        if start is None:
            raise ValueError(
                f"this needs to know the {label}: give {label}_start and {label}_end, the "
                f"positions of its first and last token, or a phenomenon that labels it, as "
                f"{{x:{label}}}"
            )
        last = start if end is None else end
        if not start <= last < len(self.ids):
            raise ValueError(
                f"the {label}'s positions {start} to {last} do not lie in a prompt of "
                f"{len(self.ids)} tokens"
            )
        return start, last


class Pair:
    """A clean and a corrupt prompt of equal length.

    Attributes:
        clean, corrupt: the two prompts.
        answer: id of the clean prompt's right answer; −1 in a pair that asks for a behaviour.
        wrong: id of the wrong answer, the one the corrupt prompt leads to.
        answers, wrongs: ids of all right and all wrong answers; `answer` and `wrong` come first.
            Of answers of several tokens they are the first ones in which right and wrong differ,
            and all but the last token of the right answer are part of both prompts.
        choices: all tokens of each right and then of each wrong answer, after the prompt's own.
        first_difference: first position where the ids differ, None if they are identical.
        positions: label → position, of the clean prompt.
        end: where the answer is read; see `Prompt`.
    """

    def __init__(
        self,
        clean: Prompt,
        corrupt: Prompt,
        answer: int | list[int],
        wrong: int | list[int],
        choices: list[list[int]] | None = None,
    ) -> None:
        self.clean = clean
        self.corrupt = corrupt
        self.answers = answer if isinstance(answer, list) else [answer]
        self.wrongs = wrong if isinstance(wrong, list) else [wrong]
        self.answer = self.answers[0] if self.answers else -1
        self.wrong = self.wrongs[0] if self.wrongs else -1
        self.choices = choices or [[token] for token in (*self.answers, *self.wrongs)]
        self.positions = clean.positions
        self.end = clean.end
        self.first_difference: int | None = None
        for position in range(len(clean.ids)):
            if clean.ids[position] != corrupt.ids[position]:
                self.first_difference = position
                break

    def base_and_other(self, direction: str) -> tuple[Prompt, Prompt]:
        """The prompt whose run is changed, and the one whose activations are patched in.

        "denoise" puts clean into corrupt, "noise" corrupt into clean.
        """
        return (self.corrupt, self.clean) if direction == "denoise" else (self.clean, self.corrupt)

    def ends(self, direction: str, base: Any, other: Any) -> dict[str, Any]:
        """The measures of both runs, by name: "clean", "corrupt", and their "gap".

        Args:
            base, other: measures of the runs of `base_and_other`.
        """
        clean, corrupt = (other, base) if direction == "denoise" else (base, other)
        return {"clean": clean, "corrupt": corrupt, "gap": clean - corrupt}

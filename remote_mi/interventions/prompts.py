"""What a recipe's body is called with: token ids, answers and positions as plain Python ints.

Plain classes, so that they travel as source: no dataclasses here (they would ship as bytecode).
The text of the prompts stays at home; a recipe sees ids.
"""

from __future__ import annotations


class Prompt:
    """One tokenized prompt.

    Attributes:
        ids: token ids, with whatever BOS or chat template was asked for.
        positions: label → position, e.g. {"s2": 9, "end": 13}; "end" always exists. It is the
            last position of the label's span.
        target: id of the token of interest, or None when none was given.
        spans: label → first and last position of the tokens it covers, both included.
        end: where the answer is read: the last position, or that of an encoder's mask token.
    """

    def __init__(
        self,
        ids: list[int],
        positions: dict[str, int],
        target: int | None,
        spans: dict[str, tuple[int, int]] | None = None,
    ) -> None:
        self.ids = ids
        self.positions = positions
        self.target = target
        self.end = positions.get("end", len(ids) - 1)
        self.spans = {label: (position, position) for label, position in positions.items()}
        self.spans.update(spans or {})


class Pair:
    """A clean and a corrupt prompt of equal length.

    Attributes:
        clean, corrupt: the two prompts.
        answer: id of the clean prompt's right answer.
        wrong: id of the wrong answer, the one the corrupt prompt leads to.
        answers, wrongs: ids of all right and all wrong answers; `answer` and `wrong` come first.
        first_difference: first position where the ids differ, None when they are identical.
        positions: label → position, of the clean prompt.
        end: where the answer is read; see `Prompt`.
    """

    def __init__(
        self,
        clean: Prompt,
        corrupt: Prompt,
        answer: int | list[int],
        wrong: int | list[int],
    ) -> None:
        self.clean = clean
        self.corrupt = corrupt
        self.answers = answer if isinstance(answer, list) else [answer]
        self.wrongs = wrong if isinstance(wrong, list) else [wrong]
        self.answer = self.answers[0]
        self.wrong = self.wrongs[0]
        self.positions = clean.positions
        self.end = clean.end
        self.first_difference: int | None = None
        for position in range(len(clean.ids)):
            if clean.ids[position] != corrupt.ids[position]:
                self.first_difference = position
                break

"""What a recipe's body is called with: token ids, answers and positions as plain Python ints.

Plain classes, so that they are sent as source: no dataclasses here (they would be sent as
bytecode). The text of the prompts stays on the user's machine; a recipe sees only ids.
"""

from __future__ import annotations

import copy
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
        matches: in a pair of prompts of unequal length, for each position the one of the other
            prompt that corresponds to it, None where there is none. Else None: positions of equal
            number correspond.
        place: set while calls share passes; see `shared_passes`.
        question: asked about the generated text, as token ids: "before" and "after" the text, and
            the tokens of "yes" and of "no"; {} for none.
    """

    place: Any = None

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
        self.matches: list[int | None] | None = None
        self.question: dict[str, list[int]] = {}

    @property
    def matched(self) -> list[int]:
        """The positions that have a counterpart in the other prompt of the pair."""
        if self.matches is None:
            return list(range(len(self.ids)))
        return [place for place, other in enumerate(self.matches) if other is not None]

    def position(self, label: str) -> int:
        """The position of a label; "end" is where the answer is read.

        Raises:
            ValueError: if the prompt has no such label.
        """
        known = {"end": self.end, **self.positions}
        if label not in known:
            raise ValueError(f"the prompt has no position {label!r}; it has {', '.join(known)}")
        return known[label]

    def cells(self, positions: list[str] | None) -> list[list[int]]:
        """The positions of each cell that a parameter `positions` names.

        Args:
            positions: a label (all of its tokens at once), a position's number, or "all" (all
                positions at once), each a cell; None for every position one by one.

        Raises:
            ValueError: for a label that the prompt does not have, or a position outside of it.
        """
        if positions is None:
            return [[place] for place in range(len(self.ids))]
        return [self._places(name) for name in positions]

    def _places(self, name: str) -> list[int]:
        if name == "all":
            return list(range(len(self.ids)))
        if name in self.spans:
            first, last = self.spans[name]
            return list(range(first, last + 1))
        place = int(name) if name.isdecimal() else self.position(name)
        if place >= len(self.ids):
            raise ValueError(f"position {name} does not lie in a prompt of {len(self.ids)} tokens")
        return [place]

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
    """A clean and a corrupt prompt, of equal length or aligned.

    Attributes:
        clean, corrupt: the two prompts; see `Prompt.matches` on how their positions correspond.
        answer: id of the clean prompt's right answer; −1 in a pair that asks for a behaviour.
        wrong: id of the wrong answer, the one the corrupt prompt leads to.
        answers, wrongs: ids of all right and all wrong answers; `answer` and `wrong` come first.
            Of answers of several tokens they are the first ones in which right and wrong differ,
            and all but the last token of the right answer are part of both prompts.
        choices: all tokens of each right and then of each wrong answer, after the prompt's own.
        first_difference: the first position of the clean prompt where the ids differ, or that does
            not correspond to the same number; None if the prompts are identical.
        positions: label → position, of the clean prompt.
        end: where the answer is read in the clean prompt; see `Prompt`. In prompts of unequal
            length, `corrupt.end` is another.
    """

    def __init__(
        self,
        clean: Prompt,
        corrupt: Prompt,
        answer: int | list[int],
        wrong: int | list[int],
        choices: list[list[int]] | None = None,
        *,
        matches: list[int | None] | None = None,
    ) -> None:
        """Take the prompts and their answers.

        Args:
            matches: for each position of the clean prompt the one of the corrupt prompt that
                corresponds to it, or None; given if, and only if, they differ in length.

        Raises:
            ValueError: for prompts of unequal length without `matches`, or of equal length with it.
        """
        if (len(clean.ids) == len(corrupt.ids)) != (matches is None):
            raise ValueError(
                f"the clean prompt has {len(clean.ids)} tokens and the corrupt one "
                f"{len(corrupt.ids)}: `matches` belongs to prompts of unequal length"
            )
        self.clean, self.corrupt = _matched(clean, corrupt, matches)
        self.answers = answer if isinstance(answer, list) else [answer]
        self.wrongs = wrong if isinstance(wrong, list) else [wrong]
        self.answer = self.answers[0] if self.answers else -1
        self.wrong = self.wrongs[0] if self.wrongs else -1
        self.choices = choices or [[token] for token in (*self.answers, *self.wrongs)]
        self.positions = clean.positions
        self.end = clean.end
        self.first_difference = first_unlike(clean.ids, corrupt.ids, matches)

    def cells(self, positions: list[str] | None, direction: str = "noise") -> list[list[int]]:
        """The positions of each cell in the prompt whose run is changed, as `Prompt.cells`.

        In prompts of unequal length only positions with a counterpart belong to a cell, and there
        is one cell for each position of the clean prompt, which may be empty.

        Raises:
            ValueError: also for a label that stands at different positions in prompts of equal
                length.
        """
        base, _ = self.base_and_other(direction)
        matches = self.clean.matches
        if matches is None:
            for name in positions or ():
                places = [one.spans.get(name) for one in (self.clean, self.corrupt)]
                if None not in places and places[0] != places[1]:
                    raise ValueError(f"{name!r} stands at different positions in the two prompts")
            return self.clean.cells(positions)
        # The place in the base prompt of each position of the clean one that has a counterpart.
        there = {p: p if base is self.clean else m for p, m in enumerate(matches) if m is not None}
        shared = {*base.matched}

        def cell(name: str) -> list[int]:
            if name.isdecimal():
                return [there[p] for p in self.clean.cells([name])[0] if p in there]
            return [p for p in base.cells([name])[0] if p in shared]

        names = map(str, range(len(matches))) if positions is None else positions
        return [cell(name) for name in names]

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


def first_unlike(ids: list[int], other: list[int], matches: list[int | None] | None) -> int | None:
    """The first position at which two prompts, read from the front, are not the same.

    Args:
        ids, other: the tokens of both. matches: as `Prompt.matches` of the first.

    Returns:
        a position of the first prompt: where its token is another, or where it corresponds to
        another position, or to none; None if there is no such position.
    """
    for place, token in enumerate(ids):
        there = place if matches is None else matches[place]
        if there != place or other[place] != token:
            return place
    return None


def _matched(
    clean: Prompt, corrupt: Prompt, matches: list[int | None] | None
) -> tuple[Prompt, Prompt]:
    """Both prompts, if they are of unequal length as copies that know how they correspond."""
    if matches is None:
        return clean, corrupt
    clean, corrupt = copy.copy(clean), copy.copy(corrupt)
    clean.matches = matches
    back = {other: place for place, other in enumerate(matches)}
    corrupt.matches = [back.get(place) for place in range(len(corrupt.ids))]
    return clean, corrupt

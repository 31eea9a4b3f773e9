"""Which positions of two prompts of unequal length correspond.

    labels  tokens under the same label correspond, one by one if these are equally many, else the
            last with the last; what lies between two labels corresponds token by token if it is
            equally long, else as far as it begins and ends alike
    ends    the beginning and the end that the prompts have in common correspond, and of what lies
            between, where they differ, the last tokens

The position where the answer is read always corresponds to that of the other prompt, and so do the
tokens after it, of which there are as many. Everything else has no counterpart: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.prompts.choices import DoesNotFit

ALIGN = ("labels", "ends")


@dataclass(frozen=True)
class Side:
    """One prompt of a pair.

    Attributes:
        ids: its tokens. end: where the answer is read.
        spans: label → first and last position of its tokens, without "end".
    """

    ids: Sequence[int]
    end: int
    spans: Mapping[str, tuple[int, int]]


def parse_align(value: Any) -> str:
    """How a pair of unequal length is aligned.

    Raises:
        UsageError: if it is not one of `ALIGN`.
    """
    if value not in ALIGN:
        raise UsageError(
            f"align is {value!r}",
            "give labels (by the labels that both prompts have) or ends (by what they begin and "
            "end with in common)",
        )
    return value


def matching_positions(
    align: str, clean: Side, corrupt: Side, special: Set[int]
) -> list[int | None]:
    """For each position of the clean prompt the one of the corrupt prompt that corresponds, or None.

    Positions ascend: no two of them cross.

    Args:
        align: one of `ALIGN`. special: ids that no text has of its own, like BOS.

    Raises:
        DoesNotFit: if the prompts cannot be aligned so.
    """
    found = _Matches(clean, corrupt)
    if align == "labels":
        found.by_labels()
    else:
        found.by_ends(special)
    return [found.matches.get(place) for place in range(len(clean.ids))]


class _Matches:
    """The positions that correspond, clean → corrupt, as they are found."""

    def __init__(self, clean: Side, corrupt: Side) -> None:
        self.clean, self.corrupt = clean, corrupt
        self.matches: dict[int, int] = {}

    def by_labels(self) -> None:
        """Match the labels, what lies between them, and the position of the answer."""
        own, other = 0, 0
        for (first, last), (there, until) in self._labelled():
            self.common(range(own, first), range(other, there))
            own, other = last + 1, until + 1
            if last - first == until - there:
                self.matches.update(zip(range(first, own), range(there, other), strict=True))
            self.matches[last] = until
        self.common(range(own, len(self.clean.ids)), range(other, len(self.corrupt.ids)))

    def _labelled(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """The spans of each label and of the answer's position in both prompts, in order.

        Raises:
            DoesNotFit: for labels of one prompt alone, in another order, or that overlap.
        """
        spans, others = dict(self.clean.spans), dict(self.corrupt.spans)
        for label in [*spans, *others]:
            if label not in spans or label not in others:
                where = "clean" if label in spans else "corrupt"
                raise DoesNotFit(f"the label {label!r} stands in the {where} prompt alone")
        if not spans:
            raise DoesNotFit("it has no labels to be aligned by")
        end, there = self.clean.end, self.corrupt.end
        if not any((spans[k][1], others[k][1]) == (end, there) for k in spans):
            spans["end"], others["end"] = (end, end), (there, there)
        order = sorted(spans, key=lambda label: spans[label])
        if order != sorted(others, key=lambda label: others[label]):
            raise DoesNotFit(
                f"its labels are in another order: {', '.join(order)} in the clean prompt, "
                f"{', '.join(sorted(others, key=lambda label: others[label]))} in the corrupt one"
            )
        for one, two in pairwise(order):
            if spans[one][1] >= spans[two][0] or others[one][1] >= others[two][0]:
                raise DoesNotFit(f"its labels {one!r} and {two!r} overlap")
        return [(spans[label], others[label]) for label in order]

    def by_ends(self, special: Set[int]) -> None:
        """Match the common beginning and end up to the answer's position, and one between them.

        Raises:
            DoesNotFit: if there is neither.
        """
        own, other = range(self.clean.end + 1), range(self.corrupt.end + 1)
        middle, between = self.common(own, other, most=min(len(own), len(other)) - 1)
        if all(self.clean.ids[place] in special for place in self.matches):
            raise DoesNotFit("the two prompts neither begin nor end alike")
        if middle and between:
            self.matches[middle[-1]] = between[-1]
        self.common(range(len(own), len(self.clean.ids)), range(len(other), len(self.corrupt.ids)))

    def common(self, own: range, other: range, most: int | None = None) -> tuple[range, range]:
        """Match two stretches: all if they are equally long, else what begins and ends alike.

        Args:
            most: how much may begin alike; None for all.

        Returns:
            what is left of both between the beginning and the end.
        """
        if len(own) == len(other):
            self.matches.update(zip(own, other, strict=True))
            return own[:0], other[:0]
        one = [self.clean.ids[place] for place in own]
        two = [self.corrupt.ids[place] for place in other]
        start = _alike(one[:most], two[:most])
        stop = _alike(one[start:][::-1], two[start:][::-1])
        self.matches.update(zip(own[:start], other[:start], strict=True))
        rest, left = own[len(own) - stop :], other[len(other) - stop :]
        self.matches.update(zip(rest, left, strict=True))
        return own[start : len(own) - stop], other[start : len(other) - stop]


def _alike(one: Sequence[int], two: Sequence[int]) -> int:
    """How many tokens two lists begin with in common."""
    pairs = enumerate(zip(one, two, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(two)))

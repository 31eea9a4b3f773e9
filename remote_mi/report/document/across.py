"""The figures and tables of a report across the points of a study, and how all are numbered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from remote_mi.recipes.figures import Figure
from remote_mi.report.kinds.registry import kind_of
from remote_mi.report.study.shown import ShownComparison, ShownTable
from remote_mi.report.summary import summary
from remote_mi.report.wording import Slice
from remote_mi.store.result import Result


class Numbering:
    """Numbers the figures and tables of a report, in the order in which they are taken."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def take(self, noun: str) -> tuple[int, str]:
        """The next number among all figures and tables, and a label: "Figure 3", "Table 1"."""
        self._counts[noun] += 1
        return self._counts.total(), f"{noun} {self._counts[noun]}"


@dataclass(frozen=True)
class NumberedComparison:
    """A comparison with the number of its figure or table in the report.

    Attributes:
        number: among all figures and tables, from 1. label: "Figure 3" or "Table 1".
        sentences: its description.
    """

    number: int
    label: str
    shown: ShownComparison
    sentences: list[str]
    slice_: Slice = Slice()  # noqa: RUF009 - immutable

    @property
    def title(self) -> str:
        return self.shown.title

    @property
    def table(self) -> ShownTable | None:
        return self.shown.table

    @property
    def figure(self) -> Figure | None:
        return self.shown.figure

    @property
    def result(self) -> Result | None:
        return self.shown.result


def number_comparisons(
    comparisons: Sequence[ShownComparison], numbers: Numbering
) -> list[NumberedComparison]:
    """The comparisons of a study, each with a number and a description."""
    made = []
    for shown in comparisons:
        noun, sentences = "Table", list(shown.notes)
        if shown.figure is not None and shown.result is not None:
            noun = kind_of(shown.figure).noun
            sentences = [*summary(shown.figure, shown.result), *sentences]
        made.append(NumberedComparison(*numbers.take(noun), shown, sentences))
    return made

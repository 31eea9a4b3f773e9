"""Sentences about results, parsed back and held against the arrays: each is true, or it fails."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from remote_mi import Lines
from remote_mi.common.statistics.intervals import mean_interval
from remote_mi.common.text import visible
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.outputs import Ratio
from remote_mi.report.summary import headline, summary
from remote_mi.report.wording import format_amount, place_text
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

VERBS = {
    "": "stands out at",
    "observational": "can be read from",
    "interventional": "changes with interventions at",
    "counterfactual": "is carried by",
}
NUMBER = r"-?[\d.]+(?:e[+-]?\d+)?"
REASON = "told from its control|with an interval without 0"


def check_everything_said(result: Result) -> int:
    """Check every sentence about every figure of a result.

    Returns:
        How many were checked.
    """
    many = 0
    for figure in result.figures:
        said = summary(figure, result)
        assert said
        checker = _Lines(figure, result) if isinstance(figure, Lines) else _Map(figure, result)
        for sentence in said:
            try:
                checker.check(sentence)
            except AssertionError as error:
                raise AssertionError(f"{figure}: {sentence}\n{error}") from error
        many += len(said)
    checker = _Map(Figure(result.figures[0].output), result)
    checker.check_headline(headline(result))
    return many


class _Checker:
    """A figure's numbers, read from the result by themselves."""

    def __init__(self, figure: Figure, result: Result) -> None:
        self.figure, self.result = figure, result
        self.array = result[figure.output].transpose(*figure.shows(result[figure.output].dims))
        self.values, self.n = self.array.values.astype(float), len(result.prompts)
        order = [result[figure.output].dims.index(dim) for dim in self.array.dims]
        explained = result.explained(figure.output)
        self.without_size = result.without_size(figure.output).transpose(order)
        self.controlled = explained is not None
        finite = np.isfinite(self.values)
        allowed = finite & (np.abs(self.values) > 0)
        allowed &= ~self.without_size
        if explained is not None:
            allowed &= ~explained.transpose(order)
        if self.array.low is not None and self.array.high is not None:
            allowed &= (self.array.low > 0) | (self.array.high < 0)
        elif not self.controlled:
            allowed &= False
        self.allowed, self.finite = allowed, finite
        self.sizes = np.where(allowed, np.abs(self.values), 0.0)

    @property
    def verb(self) -> str:
        return VERBS[self.result.card.evidence]

    def sized(self, at: tuple[int, ...]) -> bool:
        """Whether a cell is more than rounding."""
        whole = 1.0 if self.figure.output in self.result.card.summaries else 0.0
        known = self.finite & ~self.without_size
        largest = max(whole, np.abs(self.values[known]).max(initial=0.0))
        return bool(abs(self.values[at]) > 1e-6 * largest and not self.without_size[at])

    def at(self, place: str, array: NamedArray | None = None) -> tuple[int, ...]:
        array = array or self.array
        every = {place_text(array, index): index for index in np.ndindex(*array.shape)}
        assert place in every, f"there is no {place!r}"
        return every[place]

    def check_number(self, text: str, value: float) -> None:
        assert text == format_amount(value), f"{text} is not {value}"

    def check_cell(self, text: str, told: bool = True) -> tuple[int, ...]:
        """A value with its place and interval, "0.31 nats at layer 1, 95% CI [0.2, 0.4], …"."""
        found = re.fullmatch(
            rf"({NUMBER})(?: \w+)? at (.+?)(?:, 95% CI \[({NUMBER}|nan), ({NUMBER}|nan)\])?"
            rf"(?:, control up to ({NUMBER}|nan))?",
            text,
        )
        assert found, text
        at = self.at(found[2])
        self.check_number(found[1], self.values[at])
        if found[3]:
            assert self.array.low is not None and self.array.high is not None
            self.check_number(found[3], self.array.low[at])
            self.check_number(found[4], self.array.high[at])
        assert self.allowed[at] and self.sized(at) if told else not self.controlled
        return at

    def check_sized(self, sentence: str) -> bool:
        """Whether any value of the map, or of the line that a sentence is about, has a size."""
        line = re.match(r"head (\d+): ", sentence)
        of = [at for at in np.ndindex(*self.values.shape) if not line or at[0] == int(line[1])]
        return any(self.finite[at] and self.sized(at) for at in of)

    def check_span(self, text: str, values: Sequence[float]) -> None:
        found = re.fullmatch(rf"values? (?:from )?({NUMBER})(?: to ({NUMBER}))?(?: \w+)?", text)
        assert found and values, text
        self.check_number(found[1], min(values))
        self.check_number(found[2] or found[1], max(values))

    def check_range(self, sentence: str) -> bool:
        found = re.fullmatch(
            rf"(?:(\d+) of (\d+) cells have no value\. The other|All) (\d+) cells lie between "
            rf"({NUMBER}) and ({NUMBER})\.",
            sentence,
        )
        if not found:
            return False
        values = self.values[self.finite]
        assert int(found[3]) == values.size
        assert int(found[1] or 0) == self.values.size - values.size
        self.check_number(found[4], values.min())
        self.check_number(found[5], values.max())
        return True

    def check_common(self, sentence: str) -> bool:
        """Sentences of maps and lines alike."""
        name = re.escape(self.figure.output)
        if re.fullmatch(rf"{name} has no values\.", sentence):
            assert not self.finite.any()
        elif re.fullmatch(
            rf"(?:.+: )?No {name} \(n={self.n}\) is told from its control\.", sentence
        ):
            assert self.controlled
        elif re.fullmatch(
            rf"(?:.+: )?No {name} \(n={self.n}\) has an interval without 0\.", sentence
        ):
            assert not self.controlled and self.array.low is not None
        elif re.fullmatch(
            rf"(?:Every {name} \(n={self.n}\)|(?:.+: )?It) is 0 up to rounding\.", sentence
        ):
            assert not self.check_sized(sentence)
        elif found := re.match(r"Control: (\d+) of (\d+) ", sentence):
            explained = self.result.explained(self.figure.output)
            sized = ~self.result.without_size(self.figure.output)
            assert explained is not None and int(found[1]) == explained.sum()
            assert int(found[2]) == sized.sum()
        elif re.match(rf"Nothing is claimed of {name} \(n={self.n}\): .+\.", sentence):
            assert self.controlled and not self.allowed.any()
        else:
            return self.check_range(sentence)
        return True


class _Map(_Checker):
    def check(self, sentence: str) -> None:
        done = self.check_common(sentence) or self._check_course(sentence)
        done = done or self._check_layers(sentence)
        done = done or self._check_handover(sentence) or self._check_cells(sentence)
        done = done or self._check_sum(sentence) or self._check_single(sentence)
        assert done, "no known sentence"
        if sentence.startswith("No "):
            assert not (self.allowed & self._sized_cells()).any()

    def _sized_cells(self) -> np.ndarray:
        found = np.zeros(self.values.shape, bool)
        for at in np.ndindex(*found.shape):
            found[at] = self.sized(at)
        return found

    def _columns(self) -> tuple[np.ndarray, list[Any], str]:
        """[layer, column] of the values, the layers' labels, and the other dimension."""
        axis = self.array.dims.index("layer")
        other = next(dim for dim in self.array.dims if dim != "layer")
        return np.moveaxis(self.values, axis, 0), list(self.array.coords["layer"]), other

    def _column(self, name: str, dim: str) -> int:
        labels = list(self.array.coords[dim])
        if name in labels:
            assert labels.count(name) == 1
            return labels.index(name)
        found = re.fullmatch(rf"{dim} (?:(\d+) )?(.+?)(?: \[(\w+)\])?", name)
        assert found, name
        if found[1] is None:
            return [visible(str(label)) for label in labels].index(found[2])
        index = int(found[1])
        shown = visible(str(labels[index]))
        assert shown in (found[2], f"{found[2]} [{found[3]}]")
        if found[3] and shown == found[2]:
            assert all(p["labels"][found[3]] == index for p in self.result.prompts)
        return index

    def _check_course(self, sentence: str) -> bool:
        """What is said of one column of a map over layers, as of a line."""
        found = re.fullmatch(r"(.+?): ((?:Largest at layer|By its) .+)", sentence)
        if not found:
            return False
        assert not self.controlled
        column = self._column(found[1], self._columns()[2])
        along = _Lines(Lines(self.figure.output, x="layer"), self.result)
        assert along.sizes[column].max() == along.sizes.max()
        along.check(f"head {column}: {found[2]}")
        return True

    def _check_layers(self, sentence: str) -> bool:
        found = re.fullmatch(
            rf"{re.escape(self.figure.output)} \(n={self.n}\) {self.verb} (.+?)"
            rf"(?:; and in (\d+) more columns?)?: (values? .+), each ({REASON}) and at least half "
            r"as large as the largest\.",
            sentence,
        )
        if not found:
            return False
        assert (found[4] == "told from its control") == self.controlled
        values, labels, dim = self._columns()
        sizes = np.moveaxis(self.sizes, self.array.dims.index("layer"), 0)
        large = (sizes > 0) & (sizes >= 0.5 * sizes.max())
        sign = 0.0
        for place in found[1].split("; "):
            name, layers = re.fullmatch(r"(.+), (layers? .+)", place).groups()  # type: ignore[union-attr]
            column = self._column(name, dim)
            named = indices(layers, "layer", labels)
            sign = sign or float(np.sign(values[named[0], column]))
            same = large[:, column] & (np.sign(values[:, column]) == sign)
            assert named == np.flatnonzero(same).tolist(), (named, same)
        every = large & (np.sign(values) == sign)
        many = len(found[1].split("; ")) + int(found[2] or 0)
        assert every.any(0).sum() == many
        self.check_span(found[3], values[every].tolist())
        return True

    def _check_handover(self, sentence: str) -> bool:
        found = re.fullmatch(
            r"It passes from (.+?) to (.+?) between layers (\d+) and (\d+): over the pairs it is "
            r"larger at (.+?) in (layers? .+?), and at (.+?) in (layers? .+?) \(95% confidence\)\.",
            sentence,
        )
        if not found:
            return False
        values, labels, dim = self._columns()
        assert found[1] == found[5] and found[2] == found[7]
        one, other = self._column(found[1], dim), self._column(found[2], dim)
        before, after = (indices(found[i], "layer", labels) for i in (6, 8))
        assert int(found[3]) == labels[before[-1]] and int(found[4]) == labels[after[0]]
        assert before[-1] < after[0] and other > -1
        sign = np.sign(values[before[0], one])
        samples = self._samples(dim)
        difference = sign * (samples[:, :, one] - samples[:, :, other])
        assert (mean_interval(difference[:, before]).low > 0).all()
        assert (mean_interval(-difference[:, after]).low > 0).all()
        return True

    def _samples(self, dim: str) -> np.ndarray:
        """[example, layer, column], from the raw arrays."""
        summary_ = self.result.card.summaries.get(self.figure.output)
        output = summary_.effect if isinstance(summary_, Ratio) else self.figure.output
        samples, labels = [], list(self.array.coords[dim])
        for array, prompt in zip(self.result.each(output), self.result.prompts, strict=True):
            values = np.moveaxis(array.values, array.dims.index("layer"), 0)
            if len(prompt["tokens"]) != len(labels):
                values = values[:, [prompt["labels"][label[1:-1]] for label in labels]]
            samples.append(values)
        return independent(np.stack(samples).astype(float), self.result)

    def _check_cells(self, sentence: str) -> bool:
        found = re.fullmatch(
            rf"{re.escape(self.figure.output)} \(n={self.n}\) {self.verb} (\d+) of (\d+) [\w]+, "
            rf"(?:(\d+) positive)?(?: and )?(?:(\d+) negative)?: each ({REASON})\.",
            sentence,
        )
        if found:
            told = self.allowed & self._sized_cells()
            assert int(found[1]) == told.sum() and int(found[2]) == told.size
            assert int(found[3] or 0) == (told & (self.values > 0)).sum()
            assert int(found[4] or 0) == (told & (self.values < 0)).sum()
            assert (found[5] == "told from its control") == self.controlled
            return True
        found = re.fullmatch(r"Largest (positive|negative): (.+)\.", sentence)
        if not found:
            return False
        values = self._of_sign(found[1])
        for place, text in enumerate(found[2].split("; ")):
            assert abs(self.values[self.check_cell(text)]) == values[place]
        return True

    def _of_sign(self, word: str) -> list[float]:
        """Sizes of the told cells of a sign, largest first."""
        sign = 1 if word == "positive" else -1
        told = self.allowed & self._sized_cells() & (np.sign(self.values) == sign)
        return sorted(np.abs(self.values[told]).tolist(), reverse=True)

    def _check_sum(self, sentence: str) -> bool:
        found = re.fullmatch(
            rf"The (\d+) (?:largest )?(positive|negative) ones sum to ({NUMBER})"
            rf"(?: of the mean (\w+)| \w+)?(?:, all (\d+) to ({NUMBER}))?(; single effects need not "
            r"add)?\.",
            sentence,
        )
        if not found:
            return False
        ratio = self.figure.output in self.result.card.summaries
        assert (not found[7]) == (self.result.card.evidence == "observational" and not ratio)
        sign = 1 if found[2] == "positive" else -1
        values = [sign * value for value in self._of_sign(found[2])]
        self.check_number(found[3], sum(values[: int(found[1])]))
        assert int(found[5] or found[1]) == len(values)
        if found[6]:
            self.check_number(found[6], sum(values))
        if found[4]:
            assert self.result.card.summaries[self.figure.output].gap == found[4]  # type: ignore[union-attr]
        return True

    def _check_single(self, sentence: str) -> bool:
        name = re.escape(self.figure.output)
        if found := re.fullmatch(rf"Largest {name}(?: \(n={self.n}\))?: (.+)\.", sentence):
            several = found[1].split("; ")
            known = self.array.low is not None or self.controlled
            ats = [self.check_cell(text, known) for text in several]
            sizes = self.sizes if known else np.abs(np.where(self.finite, self.values, 0))
            best = np.sort(sizes.reshape(-1))[::-1]
            assert [abs(self.values[at]) for at in ats] == best[: len(ats)].tolist()
            return True
        if found := re.fullmatch(rf"Every {name} is ({NUMBER})\.", sentence):
            assert (self.values[self.finite] == float(found[1])).all()
            return True
        return False

    def check_headline(self, text: str) -> None:
        if text.endswith(": none told from its control"):
            assert self.controlled and not (self.allowed & self._sized_cells()).any()
        elif text.endswith(" 0 up to rounding"):
            assert not self._sized_cells().any()
        elif text:
            found = re.fullmatch(rf"{re.escape(self.figure.output)} ({NUMBER}) at (.+)", text)
            assert found, text
            cells = self.allowed & self._sized_cells()
            told = np.abs(np.where(cells if cells.any() else self.finite, self.values, 0.0))
            best = float(self.values[np.unravel_index(int(told.argmax()), told.shape)])
            self.check_number(found[1], best)
            assert not self.controlled or cells.any()


class _Lines(_Checker):
    def check(self, sentence: str) -> None:
        if self.check_common(sentence):
            if re.match(r"(?:head \d+: )?No ", sentence):
                assert not self._line(sentence)[1].any()
            return
        if found := re.fullmatch(r"The other(?: (\d+) lines stand| stands) out less\.", sentence):
            assert len(self.values) == 3 + int(found[1] or 1)
            return
        text, allowed, line = self._line(sentence)
        done = self._check_ends(text, line) or self._check_where(text, line, allowed)
        done = done or self._check_peak(text, line, allowed) or self._check_half(text, line)
        assert done or self._check_turns(text, line, allowed), "no known sentence"

    def _line(self, sentence: str) -> tuple[str, np.ndarray, int]:
        """The sentence without the name of its line, which points may be named, its index."""
        found = re.match(r"(head (\d+)): ", sentence)
        line = 0 if found is None else int(found[2])
        allowed = np.atleast_2d(self.allowed)[line].copy()
        values = np.atleast_2d(self.values)[line]
        for point in range(len(allowed)):
            at = (line, point) if self.values.ndim == 2 else (point,)
            allowed[point] &= self.sized(at) and np.isfinite(values[point])
        return sentence[found.end() :] if found else sentence, allowed, line

    def _row(self, line: int) -> tuple[np.ndarray, list[Any], str]:
        dim = self.array.dims[-1]
        return np.atleast_2d(self.values)[line], list(self.array.coords[dim]), dim

    def _check_ends(self, text: str, line: int) -> bool:
        row, labels, dim = self._row(line)
        if text == "no values.":
            assert not np.isfinite(row).any()
            return True
        found = re.fullmatch(
            rf"{re.escape(self.figure.output)} goes from ({NUMBER}) \({dim} (.+?)\) to ({NUMBER})"
            rf"(?: \w+)? \({dim} (.+?)\)\.",
            text,
        )
        if found:
            known = np.flatnonzero(np.isfinite(row))
            for number, label, at in (
                (found[1], found[2], known[0]),
                (found[3], found[4], known[-1]),
            ):
                self.check_number(number, float(row[at]))
                assert label == str(labels[at])
        return bool(found)

    def _check_where(self, text: str, line: int, allowed: np.ndarray) -> bool:
        row, labels, dim = self._row(line)
        found = re.fullmatch(
            rf"{re.escape(self.figure.output)} \(n={self.n}\) {self.verb} (.+), each ({REASON})\.",
            text,
        )
        if not found:
            return False
        assert (found[2] == "told from its control") == self.controlled
        named: list[int] = []
        for piece in found[1].split(") and "):
            where, span = piece.rstrip(")").split(" (")
            some = indices(where, dim, labels)
            assert len({float(np.sign(row[i])) for i in some}) == 1
            self.check_span(span, row[some].tolist())
            named += some
        assert sorted(named) == np.flatnonzero(allowed).tolist()
        return True

    def _check_peak(self, text: str, line: int, allowed: np.ndarray) -> bool:
        row, labels, dim = self._row(line)
        found = re.fullmatch(
            rf"Largest at (?:{dim}) (.+?): {re.escape(self.figure.output)} ({NUMBER})[^;]*?"
            rf"(?:; (every other {dim} is told to be smaller|only (.+) cannot be told from it) "
            r"\(95% confidence\))?\.",
            text,
        )
        if not found:
            return False
        peak = [str(label) for label in labels].index(found[1])
        self.check_number(found[2], row[peak])
        told = allowed if allowed.any() else np.isfinite(row)
        assert allowed.any() or not self.controlled
        assert abs(row[peak]) == np.abs(row[told]).max()
        if found[3]:
            near = indices(found[4], dim, labels) if found[4] else []
            others = [i for i in range(len(row)) if i != peak and i not in near]
            sign = np.sign(row[peak])
            each = np.stack([np.atleast_2d(self._each(i))[line] for i in range(self.n)])
            samples = independent(each, self.result)
            less = sign * (samples[:, [peak]] - samples[:, others])
            assert others and (mean_interval(less).low > 0).all(), "at a stricter level even"
        return True

    def _each(self, index: int) -> np.ndarray:
        summary_ = self.result.card.summaries.get(self.figure.output)
        output = summary_.effect if isinstance(summary_, Ratio) else self.figure.output
        each = self.result.each(output)[index]
        values = each.transpose(*self.array.dims).values.astype(float)
        labels, prompt = self.array.coords.get("position"), self.result.prompts[index]
        if labels is None or len(labels) == len(prompt["tokens"]):
            return values
        axis = self.array.dims.index("position")
        return values.take([prompt["labels"][label[1:-1]] for label in labels], axis)

    def _check_half(self, text: str, line: int) -> bool:
        row, labels, dim = self._row(line)
        if not text.startswith("By its 95% intervals it "):
            return False
        assert self.array.low is not None and self.array.high is not None
        low, high = (np.atleast_2d(end)[line] for end in (self.array.low, self.array.high))
        allowed = self._line(f"head {line}: " if self.values.ndim == 2 else "")[1]
        peak = int(np.where(allowed, np.abs(row), -1).argmax())
        if row[peak] < 0:
            low, high = -high, -low
        half = abs(row[peak]) / 2
        names = [str(label) for label in labels]
        done = text.removeprefix("By its 95% intervals it ").rstrip(".").split(" and ")
        # "between layer 1 and layer 2" is cut by "and", too
        clauses = re.findall(
            rf"is beyond half of that from {dim} \S+ on|passes half of that between {dim} \S+ and "
            rf"{dim} [^\s.]+|stays beyond half of it to {dim} [^\s.]+|falls back below half of it "
            rf"between {dim} \S+ and {dim} \S+?(?=\.$|$)",
            text.rstrip("."),
        )
        assert clauses and " and ".join(clauses) == " and ".join(done)
        for clause in clauses:
            points = [names.index(p) for p in re.findall(rf"{dim} (\S+)", clause)]
            if clause.startswith("is beyond"):
                assert points == [0] and (low[: peak + 1] > half).all()
            elif clause.startswith("passes"):
                assert (high[: points[0] + 1] < half).all()
                assert (low[points[1] : peak + 1] > half).all() and points[0] < points[1] <= peak
            elif clause.startswith("stays"):
                assert points == [len(row) - 1] and (low[peak:] > half).all()
            else:
                assert (low[peak : points[0] + 1] > half).all() and points[0] >= peak
                assert (high[points[1] :] < half).all() and points[1] > points[0]
        return True

    def _check_turns(self, text: str, line: int, allowed: np.ndarray) -> bool:
        row, labels, dim = self._row(line)
        found = re.fullmatch(r"It changes sign between (.+?)(?:, and (\d+) times more)?\.", text)
        if not found:
            return False
        names = [str(label) for label in labels]
        pairs = re.findall(rf"{dim} (\S+?) and {dim} (\S+?)(?:,|$)", found[1])
        for one, other in pairs:
            a, b = names.index(one), names.index(other)
            assert allowed[a] and allowed[b] and row[a] * row[b] < 0
            assert not allowed[a + 1 : b].any()
        sure = np.sign(row[allowed])
        assert (np.diff(sure) != 0).sum() == len(pairs) + int(found[2] or 0)
        return True


def independent(samples: np.ndarray, result: Result) -> np.ndarray:
    """Samples with those of one cluster summed."""
    clusters = result.document["clusters"] or range(len(samples))
    names = sorted(set(clusters))
    return np.stack([samples[[c == name for c in clusters]].sum(0) for name in names])


def indices(text: str, dim: str, labels: Sequence[Any]) -> list[int]:
    """The indices that "layers 0–19, 22" names."""
    names = [str(label) for label in labels]
    body = re.sub(rf"^{dim}s? ", "", text)
    if found := re.fullmatch(rf"(\d+) {dim}s from (.+) to (.+)", text):
        raise AssertionError(f"too many to name: {found[0]}")
    found_at: list[int] = []
    for piece in body.split(", "):
        first, _, last = piece.partition("–")
        start, end = names.index(first), names.index(last or first)
        assert all(
            not isinstance(labels[i], int) or labels[i] == labels[start] + i - start
            for i in range(start, end + 1)
        )
        found_at += range(start, end + 1)
    return found_at

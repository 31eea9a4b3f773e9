"""From the raw outputs of every example to one result: alignment, means, intervals.

Outputs are averaged; summaries are ratios of means if the recipe declares them so. Intervals are
95% percentile bootstrap intervals over examples, or over draws if there is only one example.
Positions are averaged index by index only within one template; prompts of different templates
are aligned by their labelled positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remote_mi.common.errors import RunFailed
from remote_mi.common.process_state import IgnoredWarnings, SharedSettings
from remote_mi.recipes.card import Card
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import DRAW, POSITIONS, Output, Ratio, coordinates, position_problem

RESAMPLES = 1000
LEVEL = 0.95
#: Most numbers in one bootstrap batch, so that a large grid does not use up the memory.
_BATCH_NUMBERS = 8_000_000


@dataclass
class Part:
    """Raw outputs of one prompt or pair, with its tokens and labels.

    Attributes:
        arrays: output → values.
        tokens: text of each token of the (clean) prompt.
        labels: label → position.
        template: prompts of the same template are aligned index by index.
        text: the prompt's own texts, for display.
    """

    arrays: Mapping[str, np.ndarray]
    tokens: list[str]
    labels: Mapping[str, int]
    template: str = ""
    text: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Assembled:
    """Arrays, coordinates and notes of a whole job."""

    arrays: dict[str, np.ndarray]
    axes: dict[str, dict[str, list[Any]]]
    notes: list[str]


def assemble(
    card: Card,
    parts: Sequence[Part],
    of_set: Mapping[str, np.ndarray] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Assembled:
    """Combine the raw outputs of a job.

    Args:
        card: the recipe. parts: one per example, in order.
        of_set: outputs of the whole set. parameters: of the recipe, for coordinates.

    Raises:
        RunFailed: if an output has not one entry for each position, or the outputs of several
            examples have no mean because they differ in shape.
    """
    with np.errstate(all="ignore"):  # independent of the caller's settings
        return _Assembly(card, parts, of_set or {}, parameters or {}).run()


class _Assembly:
    """The samples of every output, aligned, and what is computed from them."""

    def __init__(
        self,
        card: Card,
        parts: Sequence[Part],
        of_set: Mapping[str, np.ndarray],
        parameters: Mapping[str, Any],
    ) -> None:
        self.card, self.parts, self.of_set, self.parameters = card, parts, of_set, parameters
        self.positions, self.columns = _alignment(parts) if parts else ([], [])
        self.result = Assembled({}, {}, [])

    def run(self) -> Assembled:
        arrays, card = self.result.arrays, self.card
        for index, part in enumerate(self.parts):
            for name, values in part.arrays.items():
                self._check_positions(name, np.asarray(values), index)
                arrays[f"{name}@{index}"] = np.asarray(values)
        arrays.update({f"{name}@0": np.asarray(values) for name, values in self.of_set.items()})
        self.result.notes += self._non_finite_notes()
        for name, output in card.returns.items():
            averaged = kind_of_output(output).averaged
            if not averaged and output.of == "example" and len(self.parts) > 1:
                continue  # token ids and texts have no mean; they are kept per prompt
            self._label(name, output)
            if not averaged and not self.parts and output.of == "example":
                continue
            samples = self._samples(name)
            if not averaged:
                arrays[name] = samples[0]
            else:
                self._estimate(name, samples, None)
        for name, summary in card.summaries.items():
            if isinstance(summary, Ratio):
                self._ratio(name, summary)
        return self.result

    def _check_positions(self, name: str, values: np.ndarray, index: int) -> None:
        """Refuse an output whose entries cannot be told to which tokens they belong."""
        output = self.card.returns[name]
        shape, tokens = values.shape[: len(output.dims)], len(self.parts[index].tokens)
        if problem := position_problem(output, shape, tokens):
            raise RunFailed(
                f"recipe {self.card.name!r}: output {name!r} of prompt {index + 1} {problem}",
                "return one entry for each token, NaN where there is none; or name the dimension "
                "something else",
            )

    def _non_finite_notes(self) -> Iterator[str]:
        """A note on each output with NaN or infinite values, or some that float32 cannot hold."""
        for name, output in self.card.returns.items():
            if not kind_of_output(output).averaged:
                continue
            raw = [self.of_set] if output.of == "set" else [part.arrays for part in self.parts]
            arrays = [np.asarray(each[name]) for each in raw if name in each]
            for note in non_finite_notes(name, arrays):
                yield f"{note}, and so is every mean that includes them"

    def _samples(self, name: str) -> np.ndarray:
        """The aligned samples of an output: [example, ...], or [draw, ...] for a single example."""
        output = self.card.returns[name]
        if output.of == "set":
            stacked = np.asarray(self.of_set[name])[None]
        else:
            aligned = [self._align(output, name, i) for i in range(len(self.parts))]
            other = next((i for i, a in enumerate(aligned) if a.shape != aligned[0].shape), 0)
            if other:
                raise RunFailed(
                    f"recipe {self.card.name!r}: output {name!r} has the shape {aligned[0].shape} "
                    f"for prompt 1 and {aligned[other].shape} for prompt {other + 1}: they have "
                    "no mean",
                    "return the same shape for every prompt, or declare the output as Json(…)",
                )
            stacked = np.stack(aligned)
        if DRAW not in output.dims or not kind_of_output(output).averaged:
            return stacked
        axis = 1 + output.dims.index(DRAW)
        if stacked.shape[axis] == 0:  # no draws were requested
            return np.full([1, *np.delete(stacked.shape[1:], axis - 1)], np.nan)
        if len(stacked) > 1:
            return stacked.mean(axis)
        return np.moveaxis(stacked[0], axis - 1, 0)

    def _align(self, output: Output, name: str, index: int) -> np.ndarray:
        values = np.asarray(self.parts[index].arrays[name])
        for axis, dim in enumerate(output.dims):
            if dim in POSITIONS:
                values = np.take(values, self.positions[index], axis)
        return values

    def _label(self, name: str, output: Output) -> None:
        """Set the coordinates of an output or summary."""
        averaged = kind_of_output(output).averaged
        dims = [d for d in output.dims if d != DRAW or not averaged]
        self.result.axes[name] = {dim: self._coordinates(name, dim) for dim in dims}

    def _coordinates(self, name: str, dim: str) -> list[Any]:
        source = self.card.summaries.get(name)
        if isinstance(source, Ratio):
            name = source.effect
        output = self.card.returns[name]
        raw = self.of_set[name] if output.of == "set" else self.parts[0].arrays[name]
        return coordinates(
            dim,
            np.asarray(raw).shape[output.dims.index(dim)],
            self.parameters,
            self.columns if output.of == "example" else None,
        )

    def _estimate(self, name: str, samples: np.ndarray, gap: np.ndarray | None) -> None:
        """Add the mean of the samples, or its ratio to the mean gap, with an interval."""
        mean = samples.astype(np.float64).mean(0)
        divisor = 1.0 if gap is None else gap.mean()
        self.result.arrays[name] = (mean / divisor).astype(np.float32)
        if len(samples) > 1:
            _add_interval(self.result.arrays, name, samples.astype(np.float64), gap)

    def _ratio(self, name: str, ratio: Ratio) -> None:
        effect = self._samples(ratio.effect).astype(np.float64)
        gap = self._samples(ratio.gap).astype(np.float64)
        self._label(name, self.card.returns[ratio.effect])
        for note in _gap_notes(ratio.gap, gap):
            if note not in self.result.notes:
                self.result.notes.append(note)
        if abs(gap.mean()) < 1e-6:
            self.result.notes.append(
                f"{name} is not computed: the mean {ratio.gap} it would be divided by is "
                f"{gap.mean():.2g}; the raw {ratio.effect} is kept"
            )
            self.result.arrays[name] = np.full(effect.shape[1:], np.nan, np.float32)
            return
        if len(gap) != len(effect):  # one side has draws, the other does not
            gap = np.full(len(effect), gap.mean())
        self._estimate(name, effect, gap)
        if np.isfinite(effect).all() and np.isfinite(gap).all():  # else there is a note already
            self.result.notes += non_finite_notes(name, [self.result.arrays[name]])


def non_finite_notes(name: str, arrays: Sequence[np.ndarray]) -> list[str]:
    """How many numbers of an output or summary are not finite, or not in float32; [] if all are."""
    total = sum(array.size for array in arrays)
    lost = sum(int((~np.isfinite(array)).sum()) for array in arrays)
    with np.errstate(over="ignore"):
        bad = sum(int((~np.isfinite(array.astype(np.float32))).sum()) for array in arrays)
    if not bad:
        return []
    what = "NaN or infinite" if lost == bad else "NaN, infinite or too large for float32"
    return [f"{bad} of {total} numbers of {name} are {what}"]


def _gap_notes(name: str, gap: np.ndarray) -> list[str]:
    bad = [i for i, value in enumerate(gap) if not value > 0]
    if not bad:
        return []
    shown = ", ".join(f"{i + 1} ({gap[i]:+.2f})" for i in bad[:10])
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    return [
        f"{len(bad)} of {len(gap)} pairs have a {name} that is not positive: {shown}{more}; "
        "they are included in the means"
    ]


def _alignment(parts: Sequence[Part]) -> tuple[list[list[int]], list[str]]:
    """For each part the positions that are aligned, and the labels of those columns."""
    if _one_template(parts):
        columns = []
        by_position = {position: label for label, position in parts[0].labels.items()}
        for position in range(len(parts[0].tokens)):
            texts = {part.tokens[position] for part in parts}
            label = by_position.get(position, "")
            columns.append(texts.pop() if len(texts) == 1 else f"[{label or '*'}]")
        everything = list(range(len(parts[0].tokens)))
        return [everything for _ in parts], columns
    shared = [label for label in parts[0].labels if all(label in p.labels for p in parts)]
    shared.sort(key=lambda label: np.mean([p.labels[label] / len(p.tokens) for p in parts]))
    return [[p.labels[label] for label in shared] for p in parts], [f"[{s}]" for s in shared]


def _one_template(parts: Sequence[Part]) -> bool:
    first = parts[0]
    if len(parts) == 1:
        return True
    return bool(first.template) and all(
        p.template == first.template
        and len(p.tokens) == len(first.tokens)
        and dict(p.labels) == dict(first.labels)
        for p in parts
    )


def _warnings_to_ignore() -> list[IgnoredWarnings]:
    from scipy.stats import DegenerateDataWarning

    return [IgnoredWarnings(DegenerateDataWarning)]


_degenerate_data_ignored = SharedSettings(_warnings_to_ignore)


def _add_interval(
    arrays: dict[str, np.ndarray], name: str, values: np.ndarray, gap: np.ndarray | None
) -> None:
    """Add the interval of the mean of `values`, or of its ratio to the mean of `gap`."""
    from scipy.stats import bootstrap  # slow to import, only needed here

    n = len(values)
    cells = values.reshape(n, -1)
    low, high = np.empty(cells.shape[1]), np.empty(cells.shape[1])
    step = max(1, _BATCH_NUMBERS // (RESAMPLES * n))

    def ratio(effect: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return effect.mean(axis) / other.mean(axis)

    for start in range(0, cells.shape[1], step):
        some = cells[:, start : start + step].T  # [cell, sample]
        data = (some,) if gap is None else (some, np.broadcast_to(gap, some.shape))
        # Where a sample is NaN, so is the interval, and it is shown as such.
        with _degenerate_data_ignored.hold():
            found = bootstrap(
                data,
                np.mean if gap is None else ratio,
                axis=-1,
                paired=gap is not None,
                n_resamples=RESAMPLES,
                confidence_level=LEVEL,
                method="percentile",
                rng=np.random.default_rng(0),
            )
        low[start : start + step] = found.confidence_interval.low
        high[start : start + step] = found.confidence_interval.high
    arrays[f"{name}:low"] = low.reshape(values.shape[1:]).astype(np.float32)
    arrays[f"{name}:high"] = high.reshape(values.shape[1:]).astype(np.float32)


def interval_over_groups(values: np.ndarray, groups: Sequence[int]) -> tuple[np.ndarray, ...]:
    """The percentile bootstrap interval of a mean over examples, resampling whole groups.

    Args:
        values: [..., example]. groups: the group of each example.

    Returns:
        The lower and upper ends, each [...].
    """
    group, ids = np.asarray(groups), sorted(set(groups))
    sums = np.stack([values[..., group == one].sum(-1) for one in ids], -1)
    sizes = np.array([(group == one).sum() for one in ids])
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), RESAMPLES)
    tails = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)
    low, high = np.percentile(sums @ drawn.T / (drawn @ sizes), tails, axis=-1)
    return low, high

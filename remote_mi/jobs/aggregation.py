"""From the raw outputs of every example to one result: alignment, means, intervals.

Outputs are averaged; summaries are ratios of means if the recipe declares them so. Intervals are
those of `remote_mi.common.statistics.intervals`, over examples, or over draws if there is only one
example; examples of one cluster count as one sample. What is told from its control is tested in
`remote_mi.jobs.control_tests`. Positions are averaged index by index only within one template; prompts of different templates
are aligned by their labelled positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from remote_mi.common.errors import RunFailed
from remote_mi.common.statistics import ROUNDING
from remote_mi.common.statistics.intervals import (
    Interval,
    mean_interval,
    ratio_interval,
    share_interval,
)
from remote_mi.interventions.vocabulary import METRICS, MetricFacts
from remote_mi.jobs.control_tests import ControlSamples, against_control
from remote_mi.jobs.number_notes import gap_notes, non_finite_notes
from remote_mi.jobs.positions import Part as Part
from remote_mi.jobs.positions import alignment, alone_notes, with_value
from remote_mi.jobs.verdicts import Measured, find_verdict
from remote_mi.recipes.card import Card
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import (
    DRAW,
    POSITIONS,
    Output,
    Ratio,
    chosen_cells,
    coordinates,
    position_problem,
)
from remote_mi.store.verdict import SET, ControlTest, Verdict


@dataclass
class Assembled:
    """Arrays, coordinates and notes of a whole job.

    Attributes:
        clusters: number of each example's cluster; None if each is its own.
        tests: output or summary → how it was tested against its control.
        withheld: ratio → why it is not given.
        verdict: whether the model does what is studied; None if nothing rests on that.
    """

    arrays: dict[str, np.ndarray]
    axes: dict[str, dict[str, list[Any]]]
    notes: list[str]
    clusters: list[int] | None = None
    tests: dict[str, ControlTest] = field(default_factory=dict)
    withheld: dict[str, str] = field(default_factory=dict)
    verdict: Verdict | None = None

    @property
    def document(self) -> dict[str, Any]:
        """What a run's document says of the arrays, as JSON."""
        return {
            "axes": self.axes,
            "clusters": self.clusters,
            "tests": {name: asdict(test) for name, test in self.tests.items()},
            "withheld": self.withheld,
            "verdict": self.verdict and self.verdict.to_json(),
        }


def assemble(
    card: Card,
    parts: Sequence[Part],
    of_set: Mapping[str, np.ndarray] | None = None,
    parameters: Mapping[str, Any] | None = None,
    empty_layers: Sequence[int] = (),
    metric: MetricFacts | None = None,
) -> Assembled:
    """Combine the raw outputs of a job.

    Args:
        card: the recipe. parts: one per example, in order.
        of_set: outputs of the whole set. parameters: of the recipe, for coordinates.
        empty_layers: those that lack what is measured: their numbers are none, which needs no note.
        metric: what is known of the metric that was measured, if it is the project's own.

    Raises:
        RunFailed: if an output has not one entry for each position, or the outputs of several
            examples have no mean because they differ in shape.
    """
    with np.errstate(all="ignore"):  # independent of the caller's settings
        assembly = _Assembly(card, parts, of_set or {}, parameters or {}, metric)
        assembly.empty_layers = list(empty_layers)
        return assembly.run()


class _Assembly:
    """The samples of every output, aligned, and what is computed from them."""

    def __init__(
        self,
        card: Card,
        parts: Sequence[Part],
        of_set: Mapping[str, np.ndarray],
        parameters: Mapping[str, Any],
        own_metric: MetricFacts | None,
    ) -> None:
        self.card, self.parts, self.of_set, self.parameters = card, parts, of_set, parameters
        self.own_metric = own_metric
        self.positions, self.columns = alignment(parts) if parts else ([], [])
        self.result = Assembled({}, {}, [], _clusters(parts))
        self.empty_layers: list[int] = []

    def run(self) -> Assembled:
        arrays, card = self.result.arrays, self.card
        for index, part in enumerate(self.parts):
            for name, values in part.arrays.items():
                self._check_positions(name, np.asarray(values), index)
                arrays[f"{name}@{index}"] = np.asarray(values)
        arrays.update({f"{name}@0": np.asarray(values) for name, values in self.of_set.items()})
        self.result.notes += self._non_finite_notes()
        self.result.notes += alone_notes(
            card, self.parts, self.positions, self.columns, self.parameters
        )
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
                self._keep(name, self._interval(name, samples))
        for name, summary in card.summaries.items():
            if isinstance(summary, Ratio):
                self._ratio(name, summary)
        for name, control in card.controls.items():
            if name in card.returns and control in card.returns:
                self._test(name, control)
        self.result.verdict = self._verdict()
        return self.result

    def _check_positions(self, name: str, values: np.ndarray, index: int) -> None:
        """Refuse an output whose entries cannot be told to which tokens they belong."""
        output = self.card.returns[name]
        shape, tokens = values.shape[: len(output.dims)], len(self.parts[index].tokens)
        if problem := position_problem(output, shape, tokens, self.parameters):
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
            arrays = [np.asarray(self.of_set[name])] if output.of == "set" else []
            if output.of != "set":
                arrays = [with_value(output, name, part, self.parameters) for part in self.parts]
            arrays = [self._expected(output, values) for values in arrays]
            for note in non_finite_notes(name, arrays):
                yield f"{note}, and so is every mean that includes them"

    def _expected(self, output: Output, found: np.ndarray) -> np.ndarray:
        """The values of an output without those of layers that are empty."""
        if not self.empty_layers or "layer" not in output.dims:
            return found
        axis = output.dims.index("layer")
        there = [index for index in self.empty_layers if index < found.shape[axis]]
        return np.delete(found, there, axis)

    def _aligned(self, name: str) -> np.ndarray:
        """The aligned values of an output, with its draws: [example, ...]."""
        output = self.card.returns[name]
        if output.of == "set":
            return np.asarray(self.of_set[name])[None]
        aligned = [self._align(output, name, i) for i in range(len(self.parts))]
        other = next((i for i, a in enumerate(aligned) if a.shape != aligned[0].shape), 0)
        if other:
            raise RunFailed(
                f"recipe {self.card.name!r}: output {name!r} has the shape {aligned[0].shape} "
                f"for prompt 1 and {aligned[other].shape} for prompt {other + 1}: they have no mean",
                "return the same shape for every prompt, or declare the output as Json(…)",
            )
        return np.stack(aligned)

    def _samples(self, name: str) -> np.ndarray:
        """The aligned samples of an output: [example, ...], or [draw, ...] for a single example."""
        output, stacked = self.card.returns[name], self._aligned(name)
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
            if dim in POSITIONS and not chosen_cells(dim, self.parameters):
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

    def _interval(self, name: str, samples: np.ndarray) -> Interval:
        """The mean of an output's samples with its interval."""
        output = self.card.returns.get(name)
        of_share = output is not None and output.kind == "share"
        return (share_interval if of_share else mean_interval)(samples, self._clusters_of(samples))

    def _clusters_of(self, samples: np.ndarray) -> list[int] | None:
        """The clusters of samples, if these are the examples."""
        return self.result.clusters if len(samples) == len(self.parts) else None

    def _keep(self, name: str, found: Interval) -> None:
        """Add an estimate and the ends of its interval."""
        arrays = self.result.arrays
        arrays[name] = found.value.astype(np.float32)
        if found.clusters > 1:
            arrays[f"{name}:low"] = found.low.astype(np.float32)
            arrays[f"{name}:high"] = found.high.astype(np.float32)

    def _ratio(self, name: str, ratio: Ratio) -> None:
        effect = self._samples(ratio.effect).astype(np.float64)
        gap = self._samples(ratio.gap).astype(np.float64)
        self._label(name, self.card.returns[ratio.effect])
        for note in gap_notes(ratio.gap, gap, self.metric.rises if self.metric else 1):
            if note not in self.result.notes:
                self.result.notes.append(note)
        if why := self._why_no_ratio(ratio, effect, gap):
            self.result.withheld[name] = why
            note = f"{name} is not given: {why}; {ratio.effect} is shown in its own unit"
            self.result.notes += [] if name in self.card.controls.values() else [note]
            self.result.arrays[name] = np.full(effect.shape[1:], np.nan, np.float32)
            return
        if len(gap) != len(effect):  # one side has draws, the other does not
            gap = np.full(len(effect), gap.mean())
        self._keep(name, ratio_interval(effect, gap, self._clusters_of(effect)))
        if np.isfinite(effect).all() and np.isfinite(gap).all():  # else there is a note already
            self.result.notes += non_finite_notes(name, [self.result.arrays[name]])

    def _why_no_ratio(self, ratio: Ratio, effect: np.ndarray, gap: np.ndarray) -> str:
        """Why nothing may be divided by a mean gap, "" if it may."""
        what = f"the mean {ratio.gap} it would be divided by"
        size = max(np.nanmax(np.abs(x), initial=0.0) for x in (gap, effect))
        if abs(gap.mean()) <= ROUNDING * size or not gap.mean():
            return f"{what} is {gap.mean():.2g}"
        found = self._interval(ratio.gap, gap)
        if found.clusters < 2 or not np.isfinite(found.value) or bool(found.excludes_zero):
            return ""
        return (
            f"{what}, {found.value:+.2g} [{found.low:+.2g}, {found.high:+.2g}], is not told from 0"
        )

    def _test(self, name: str, control: str) -> None:
        """Test an output, and the ratios of it, against its control."""
        if not kind_of_output(self.card.returns[name]).averaged:
            return
        samples = self._control_samples(name, control)
        p, test = against_control(samples, control)
        if self.card.returns[name].kind == "share":  # a share of 0 is a value like any other
            p = np.where(np.isnan(p) & np.isfinite(samples.effect.mean(0)), 1.0, p)
        divisors = {name: 1.0}
        for key, summary in self.card.summaries.items():
            if isinstance(summary, Ratio) and summary.effect == name and key in self.card.controls:
                gap = np.nan if key in self.result.withheld else self._samples(summary.gap).mean()
                divisors[key] = abs(float(gap))
        for key, divisor in divisors.items():
            self.result.tests[key] = test
            self.result.arrays[f"{key}:p"] = p.astype(np.float32)
            if test.draws:
                band = np.abs(samples.control.mean(0)).max(0) / divisor
                self.result.arrays[f"{key}:band"] = band.astype(np.float32)

    def _control_samples(self, name: str, control: str) -> ControlSamples:
        """The samples of an output and the draws of its control, unit by unit."""
        effect = self._samples(name).astype(np.float64)
        many, paired = len(self.parts) > 1, DRAW in self.card.returns[name].dims
        of_control = self.card.returns[control]
        drawn = self._aligned(control).astype(np.float64)  # [example, ...]
        axis = 1 + of_control.dims.index(DRAW) if DRAW in of_control.dims else None
        if axis is not None and not drawn.shape[axis]:  # no draws were requested
            drawn = np.zeros((len(effect), 0))
        elif axis is None:
            drawn = drawn[:, None]
        elif paired:  # its draws belong to those of the effect
            drawn = drawn.mean(axis)[:, None] if many else np.moveaxis(drawn, axis, 0)
        else:
            drawn = np.moveaxis(drawn, axis, 1)
        rest = effect.shape[1:]
        drawn = drawn.reshape(*drawn.shape, *(1,) * (len(rest) + 2 - drawn.ndim))
        drawn = np.broadcast_to(drawn, (len(effect), drawn.shape[1], *rest))
        unit, clusters = self.unit, self._clusters_of(effect)
        shared = self.card.shared.get(control)
        if shared == SET:  # more examples would not be more draws
            clusters, unit = [0] * len(effect), SET
        elif shared is not None and many:
            clusters, unit = self._samples(shared).astype(int).tolist(), shared
        if paired and not many:
            unit = DRAW
        return ControlSamples(effect, drawn, clusters, unit)

    @property
    def metric(self) -> MetricFacts | None:
        """What is known of the metric that was measured, if the recipe takes one."""
        return self.own_metric or METRICS.get(str(self.parameters.get("metric")))

    @property
    def unit(self) -> str:
        """What an example is called."""
        return "pair" if self.card.takes_pairs else "prompt"

    def _verdict(self) -> Verdict | None:
        """Whether the model does what the recipe studies; None if it rests on nothing."""
        name, metric = self.card.rests_on, self.metric
        if not name or not self.parts or self.card.returns[name].of == "set":
            return None
        # Entropy is neither the behaviour nor its lack, and a divergence from the clean run says
        # something of what differs from it alone.
        if metric and (not metric.rises or (metric.against_clean and name == "clean")):
            return None
        values = self._samples(name).astype(np.float64)
        if len(values) != len(self.parts):  # draws of a single example
            values = values.mean(0, keepdims=True)
        share = self.card.returns[name].kind == "share"
        ratios = [k for k in self.result.withheld if k not in self.card.controls.values()]
        prob = self._samples("answer_prob").mean() if "answer_prob" in self.card.returns else np.nan
        falls = metric is not None and metric.rises < 0
        interval = self._interval(name, values)
        measured = Measured(name, values, interval, share, float(prob), falls)
        return find_verdict(measured, self.unit, ratios)


def _clusters(parts: Sequence[Part]) -> list[int] | None:
    """The number of each example's cluster; None if each is its own."""
    names = [part.cluster or str(index) for index, part in enumerate(parts)]
    first = {name: index for index, name in reversed(list(enumerate(names)))}
    clusters = [first[name] for name in names]
    return clusters if len(first) < len(parts) else None

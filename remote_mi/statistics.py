"""From the raw outputs of every prompt to one result: alignment, means, intervals.

Aggregation is a ratio of means where the recipe declares one, otherwise a mean; the intervals
are 95% percentile bootstrap intervals over prompts. Positions are averaged index by index only
within one template; prompts of different templates are aligned by their labelled positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remote_mi.recipe import Card

RESAMPLES = 1000
LEVEL = 0.95
#: Numbers one bootstrap batch may hold, so that a large grid does not take all memory.
_BATCH_NUMBERS = 8_000_000


@dataclass
class Part:
    """Raw outputs of one prompt or pair, with what labels them.

    Attributes:
        arrays: output → values.
        tokens: text of each token of the (clean) prompt.
        labels: label → position.
        template: prompts of one template are aligned index by index.
        text: the prompt's own texts, to be shown.
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


def assemble(card: Card, parts: Sequence[Part]) -> Assembled:
    """Put the parts of a job together.

    Args:
        card: the recipe; parts: at least one, in the order of the prompts.
    """
    result = Assembled({}, {}, [])
    for index, part in enumerate(parts):
        for name, values in part.arrays.items():
            result.arrays[f"{name}@{index}"] = np.asarray(values)
    positions, columns = _alignment(parts)
    for name, output in card.returns.items():
        if name not in parts[0].arrays:
            continue
        if output.kind == "token" and len(parts) > 1:
            continue  # token ids have no mean; the parts keep them
        stacked = _stack(card, name, parts, positions)
        result.axes[name] = _axes(output.dims, stacked.shape[1:], columns)
        if len(parts) == 1:
            result.arrays[name] = stacked[0]
            continue
        numbers = stacked.astype(np.float64)
        result.arrays[name] = numbers.mean(0).astype(np.float32)
        _put_interval(result.arrays, name, numbers, None)
    for name, ratio in card.summaries.items():
        effect = _stack(card, ratio.effect, parts, positions).astype(np.float64)
        gap = _stack(card, ratio.gap, parts, positions).astype(np.float64)
        result.axes[name] = _axes(card.returns[ratio.effect].dims, effect.shape[1:], columns)
        result.notes += _gap_notes(ratio.gap, gap)
        if abs(gap.mean()) < 1e-6:
            result.notes.append(
                f"{name} is not given: the mean {ratio.gap} is {gap.mean():.2g}, and nothing can "
                f"be divided by it; the raw {ratio.effect} is kept"
            )
            result.arrays[name] = np.full(effect.shape[1:], np.nan, np.float32)
            continue
        result.arrays[name] = (effect.mean(0) / gap.mean()).astype(np.float32)
        if len(parts) > 1:
            _put_interval(result.arrays, name, effect, gap)
    return result


def _gap_notes(name: str, gap: np.ndarray) -> list[str]:
    bad = [i for i, value in enumerate(gap) if not value > 0]
    if not bad:
        return []
    shown = ", ".join(f"{i + 1} ({gap[i]:+.2f})" for i in bad[:10])
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    return [f"{len(bad)} of {len(gap)} pairs have a {name} that is not positive: {shown}{more}; "
            "they are kept in the means"]  # fmt: skip


def _alignment(parts: Sequence[Part]) -> tuple[list[list[int]], list[str]]:
    """Per part the positions that are compared, and the labels of those columns."""
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


def _stack(card: Card, name: str, parts: Sequence[Part], positions: list[list[int]]) -> np.ndarray:
    """One output of all parts, aligned, [part, ...]."""
    dims = card.returns[name].dims
    aligned = []
    for part, kept in zip(parts, positions, strict=True):
        values = np.asarray(part.arrays[name])
        if "position" in dims:
            values = np.take(values, kept, dims.index("position"))
        aligned.append(values)
    return np.stack(aligned)


def _axes(
    dims: tuple[str, ...], shape: tuple[int, ...], columns: list[str]
) -> dict[str, list[Any]]:
    return {
        dim: list(columns) if dim == "position" else list(range(size))
        for dim, size in zip(dims, shape, strict=True)
    }


def _put_interval(
    arrays: dict[str, np.ndarray], name: str, values: np.ndarray, gap: np.ndarray | None
) -> None:
    """Add the interval of the mean of `values`, or of its ratio to the mean of `gap`."""
    from scipy.stats import bootstrap  # half a second to import, and only needed here

    n = len(values)
    cells = values.reshape(n, -1)
    low, high = np.empty(cells.shape[1]), np.empty(cells.shape[1])
    step = max(1, _BATCH_NUMBERS // (RESAMPLES * n))

    def ratio(effect: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return effect.mean(axis) / other.mean(axis)

    for start in range(0, cells.shape[1], step):
        some = cells[:, start : start + step].T  # [cell, part]
        data = (some,) if gap is None else (some, np.broadcast_to(gap, some.shape))
        found = bootstrap(
            data, np.mean if gap is None else ratio, axis=-1, paired=gap is not None,
            n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile",
            rng=np.random.default_rng(0),
        )  # fmt: skip
        low[start : start + step] = found.confidence_interval.low
        high[start : start + step] = found.confidence_interval.high
    arrays[f"{name}:low"] = low.reshape(values.shape[1:]).astype(np.float32)
    arrays[f"{name}:high"] = high.reshape(values.shape[1:]).astype(np.float32)

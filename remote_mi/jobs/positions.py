"""The prompts of a result: which of their positions are averaged together, and which lack a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remote_mi.recipes.card import Card
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import POSITIONS, Output, chosen_cells


@dataclass
class Part:
    """Raw outputs of one prompt or pair, with its tokens and labels.

    Attributes:
        arrays: output → values.
        tokens: text of each token of the (clean) prompt.
        labels: label → position.
        template: prompts of the same template are aligned index by index.
        text: the prompt's own texts, for display.
        cluster: examples of the same cluster are not independent of each other.
        alone: positions without a counterpart in the pair's other prompt.
    """

    arrays: Mapping[str, np.ndarray]
    tokens: list[str]
    labels: Mapping[str, int]
    template: str = ""
    text: Mapping[str, Any] = field(default_factory=dict)
    cluster: str = ""
    alone: Sequence[int] = ()


def alignment(parts: Sequence[Part]) -> tuple[list[list[int]], list[str]]:
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


def with_value(output: Output, name: str, part: Part, parameters: Mapping[str, Any]) -> np.ndarray:
    """An output of an example without positions that have no counterpart, and so perhaps no value."""
    values = np.asarray(part.arrays[name])
    for axis, dim in enumerate(output.dims):
        if dim in POSITIONS and not chosen_cells(dim, parameters):
            values = np.delete(values, list(part.alone), axis)
    return values


def alone_notes(
    card: Card,
    parts: Sequence[Part],
    positions: Sequence[Sequence[int]],
    columns: Sequence[str],
    parameters: Mapping[str, Any],
) -> list[str]:
    """A note on aligned positions that have no mean, as some of the examples have no value there.

    Args:
        positions, columns: as from `alignment`.
    """
    lost = [
        sum(at[column] in part.alone for at, part in zip(positions, parts, strict=True))
        for column in range(len(columns))
    ]
    shown = [f"{column} ({few})" for column, few in zip(columns, lost, strict=True) if few]
    by_token = {
        name: output
        for name, output in card.returns.items()
        if not any(chosen_cells(dim, parameters) for dim in output.dims)
    }
    empty = any(_is_empty_alone(output, name, parts) for name, output in by_token.items())
    if len(parts) < 2 or not shown or not empty:
        return []
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return [
        f"{len(shown)} of {len(columns)} positions have no mean, since some of the {len(parts)} "
        f"pairs have no counterpart there: {', '.join(shown[:8])}{more}"
    ]


def _is_empty_alone(output: Output, name: str, parts: Sequence[Part]) -> bool:
    """Whether an output of each example has NaN at positions without a counterpart."""
    axes = [axis for axis, dim in enumerate(output.dims) if dim in POSITIONS]
    if not axes or not kind_of_output(output).averaged or output.of == "set":
        return False
    values = (np.take(np.asarray(p.arrays[name]), list(p.alone), axes[0]) for p in parts if p.alone)
    return any(bool(np.isnan(found).any()) for found in values)

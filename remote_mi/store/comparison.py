"""Comparing two results: how they were made, and how far apart their numbers are.

An output is within a tolerance T if

    max |b − a| ≤ T · max(1, max |a|)        numbers; NaN and infinities in the same cells
    cells that differ ≤ T · cells            token ids, texts, JSON values

So T is absolute for outputs whose largest value is below 1, and relative to that value otherwise.
Outputs that cannot be compared are beyond every tolerance. Intervals are not compared: they follow
from the values of the individual prompts, which are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from remote_mi.common.display import Displayed
from remote_mi.common.errors import NotFound, nearest
from remote_mi.common.valid_json import without_non_finite
from remote_mi.recipes.output_kinds import KINDS, OutputKind, kind_of_output
from remote_mi.recipes.outputs import DRAW
from remote_mi.store.contrasts.contrast import Contrast
from remote_mi.store.differences import (
    PromptComparison,
    SettingDifference,
    compare_prompts,
    differing_settings,
)
from remote_mi.store.named_array import NamedArray
from remote_mi.store.opening import load_run
from remote_mi.store.result import Result

#: Default tolerance between two runs of the same job.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Difference:
    """How far apart two results are in one output or summary.

    Attributes:
        name: of the output or summary.
        each: False for the values over all prompts, True for those of each prompt.
        kind: of the output: "number", "share", "token", "text" or "json".
        why_not: why it cannot be compared; "" if it can.
        cells: number of values. differing: how many of them are not equal.
        largest: largest |b − a|; for kinds other than numbers, 1 if any differ.
        mean: mean |b − a|. scale: largest |a|.
        unmatched: cells that are NaN or infinite in one result, and not the same in the other.
        nan: number of NaN cells in a, and in b.
        prompt: index of the prompt with the largest difference; None over all prompts.
        index, coords: location of the largest difference: its index, and dimension → coordinate.
        values: the two values there.
    """

    name: str
    each: bool = False
    kind: str = "number"
    why_not: str = ""
    cells: int = 0
    differing: int = 0
    largest: float = 0.0
    mean: float = 0.0
    scale: float = 0.0
    unmatched: int = 0
    nan: tuple[int, int] = (0, 0)
    prompt: int | None = None
    index: tuple[int, ...] = ()
    coords: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[Any, Any] | None = None

    @property
    def numbers(self) -> bool:
        """Whether the output holds numbers, so that differences have a size."""
        return KINDS[self.kind].averaged

    @property
    def relative(self) -> float:
        """The value that is compared with a tolerance; infinite if nothing can be compared."""
        if self.why_not or self.unmatched:
            return float("inf")
        if not self.numbers:
            return self.differing / max(1, self.cells)
        return self.largest / max(1.0, self.scale)

    def to_json(self) -> dict[str, Any]:
        relative = self.relative
        return {
            "output": self.name,
            "each": self.each,
            "kind": self.kind,
            "token": self.kind == "token",
            "why_not": self.why_not or None,
            "cells": self.cells,
            "differing": self.differing,
            "largest": self.largest,
            "mean": self.mean,
            "scale": self.scale,
            "relative": relative if np.isfinite(relative) else None,
            "unmatched": self.unmatched,
            "nan": list(self.nan),
            "prompt": self.prompt,
            "index": list(self.index),
            "coords": dict(self.coords),
            "values": [without_non_finite(v) for v in self.values] if self.values else None,
        }


@dataclass(frozen=True, repr=False)
class Comparison(Displayed):
    """The comparison of two results. In a notebook it displays itself.

    Attributes:
        a, b: the results.
        configuration: the settings that differ.
        prompts: how their prompts compare.
        outputs: summaries and outputs over all prompts, then outputs of each prompt.
    """

    a: Result
    b: Result
    configuration: list[SettingDifference]
    prompts: PromptComparison
    outputs: list[Difference]

    def within(self, tolerance: float) -> bool:
        """Whether every output is within a tolerance, as defined at the top of this module."""
        return not self.beyond(tolerance)

    def beyond(self, tolerance: float) -> list[Difference]:
        """The outputs that are not within a tolerance."""
        return [difference for difference in self.outputs if not difference.relative <= tolerance]

    @property
    def worst(self) -> Difference | None:
        """The output with the largest difference."""
        return max(self.outputs, key=lambda difference: difference.relative, default=None)

    @property
    def contrast(self) -> Contrast | None:
        """Paired differences and agreement of maps; None if nothing differs, or not the same
        prompts, at least two, are in both."""
        known = [d.name for d in self.outputs if not d.each and not d.why_not and d.relative > 0]
        if not self.prompts.equal or self.prompts.a < 2 or not known:
            return None
        return Contrast(self.a, self.b, tuple(known))

    def only(self, name: str | None) -> Comparison:
        """The comparison restricted to one output or summary; all of it for None.

        Raises:
            NotFound: if neither result has it.
        """
        if name is None:
            return self
        selected = [difference for difference in self.outputs if difference.name == name]
        if not selected:
            known = list(dict.fromkeys(difference.name for difference in self.outputs))
            close = nearest(name, known)
            raise NotFound(
                f"there is no output {name!r} to compare",
                f"did you mean {close!r}?" if close else f"there are: {', '.join(known)}",
            )
        return Comparison(self.a, self.b, self.configuration, self.prompts, selected)

    def to_json(self) -> dict[str, Any]:
        return {
            "a": self.a.run_id or None,
            "b": self.b.run_id or None,
            "configuration": [
                {"path": s.path, "a": without_non_finite(s.a), "b": without_non_finite(s.b)}
                for s in self.configuration
            ],
            "prompts": {
                "same": self.prompts.same,
                "a": self.prompts.a,
                "b": self.prompts.b,
                "first": self.prompts.first,
            },
            "outputs": [difference.to_json() for difference in self.outputs],
            "paired": self.contrast and self.contrast.to_json()["outputs"],
        }


def compare(
    a: Result | str | Path,
    b: Result | str | Path,
    project: str | Path | None = None,
) -> Comparison:
    """Compare two results.

    Args:
        a, b: results, or runs: name, id, prefix of an id, or path of a run's folder.
        project: folder that contains runs/; the working folder by default.

    Raises:
        NotFound, UsageError, Mismatch: as `remote_mi.load_run`.
    """
    first, second = (x if isinstance(x, Result) else load_run(str(x), project) for x in (a, b))
    return Comparison(
        first,
        second,
        differing_settings(first, second),
        compare_prompts(first, second),
        list(_differences(first, second)),
    )


def _differences(a: Result, b: Result) -> Iterable[Difference]:
    """The difference in everything that either result has: over all prompts, then per prompt."""
    names = list(dict.fromkeys([*a.names(), *b.names()]))
    for name in names:
        here, there = (name in result.arrays for result in (a, b))
        if here and there:
            yield _compare_arrays(a, b, name, [(None, a[name], b[name])])
        elif here or there:
            yield Difference(name, why_not=_missing_reason(a, b, name, here))
        elif name not in a.outputs or name not in b.outputs:
            yield Difference(name, why_not=_missing_reason(a, b, name, name in a.names()))
    for name in names:
        if name not in a.outputs or name not in b.outputs:
            continue
        lists = a.each(name), b.each(name)
        if not _has_separate_prompts(a, name) and not _has_separate_prompts(b, name):
            continue  # the same values as over all prompts, compared above
        if len(lists[0]) != len(lists[1]):
            yield Difference(name, True, why_not=f"{len(lists[0])} and {len(lists[1])} prompts")
            continue
        pairs = [(i, one, other) for i, (one, other) in enumerate(zip(*lists, strict=True))]
        yield _compare_arrays(a, b, name, pairs)


def _missing_reason(a: Result, b: Result, name: str, here: bool) -> str:
    """Why only one of two results has values of this name."""
    other = b if here else a
    where = "a" if here else "b"
    if name in other.names():
        return f"only {where} has a value over all prompts"
    return f"only {where} has it"


def _has_separate_prompts(result: Result, name: str) -> bool:
    """Whether the values of each prompt differ from those over all prompts."""
    return result.outputs[name].of == "example" and (
        len(result.prompts) > 1 or DRAW in result.outputs[name].dims
    )


def _compare_arrays(
    a: Result, b: Result, name: str, pairs: Sequence[tuple[int | None, NamedArray, NamedArray]]
) -> Difference:
    """The difference between pairs of arrays: one pair over all prompts, or one per prompt."""
    each = pairs[0][0] is not None
    kinds = [kind_of_output(r.outputs.get(name)) for r in (a, b)]
    kind = kinds[0]
    if kinds[1] is not kind:
        unlike = " and ".join("token ids" if k.name == "token" else k.plural for k in kinds)
        return Difference(name, each, kind.name, unlike)
    for prompt, one, other in pairs:
        reason = _mismatch(one, other)
        if reason:
            return Difference(
                name,
                each,
                kind.name,
                f"prompt {prompt + 1}: {reason}" if prompt is not None else reason,
            )
    gaps = [kind.gap(*_comparable_values(a, b, kind, x.values, y.values)) for _, x, y in pairs]
    cells = sum(gap.size for gap in gaps)
    if not cells:
        return Difference(name, each, kind.name)
    at = max(range(len(gaps)), key=lambda i: gaps[i].max(initial=-1.0))
    gap, (prompt, one, other) = gaps[at], pairs[at]
    index = tuple(int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape))
    finite = [g[np.isfinite(g)] for g in gaps]
    known = sum(g.size for g in finite)
    ones, others = [x.values for _, x, _ in pairs], [y.values for _, _, y in pairs]
    return Difference(
        name,
        each,
        kind.name,
        "",
        cells,
        differing=int(sum((g > 0).sum() for g in gaps)),
        largest=float(max(g.max(initial=0.0) for g in finite)),
        mean=float(sum(g.sum() for g in finite) / known) if known else 0.0,
        scale=max(_largest_finite(v) for v in ones) if kind.averaged else 0.0,
        unmatched=cells - known,
        nan=(_count_nans(ones), _count_nans(others)),
        prompt=prompt,
        index=index,
        coords={dim: one.coords[dim][i] for dim, i in zip(one.dims, index, strict=True)},
        values=(_to_python(one.values[index]), _to_python(other.values[index])),
    )


def _mismatch(a: NamedArray, b: NamedArray) -> str:
    """Why two arrays cannot be compared cell by cell; "" if they can."""
    if a.dims != b.dims:
        return f"dimensions ({', '.join(a.dims)}) and ({', '.join(b.dims)})"
    for dim, one, other in zip(a.dims, a.shape, b.shape, strict=True):
        if one != other:
            return f"{dim}: {one} and {other}"
    for dim in a.dims:
        for index, (one, other) in enumerate(zip(a.coords[dim], b.coords[dim], strict=True)):
            if one != other:
                return f"{dim} {index} is {one!r} and {other!r}"
    return ""


def _comparable_values(
    a: Result, b: Result, kind: OutputKind, one: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The values to compare: texts in place of token ids if the vocabularies differ."""
    if kind.name != "token":
        return one, other
    known = a.document.get("vocabulary", {}), b.document.get("vocabulary", {})
    if all(known[1].get(i, text) == text for i, text in known[0].items()):
        return one, other
    first, second = (
        np.array([r.text(t) if t >= 0 else "" for t in v.reshape(-1)], object).reshape(v.shape)
        for r, v in ((a, one), (b, other))
    )
    return first, second


def _to_python(value: Any) -> Any:
    """A numpy scalar as a Python number; texts and JSON values unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def _largest_finite(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def _count_nans(arrays: list[np.ndarray]) -> int:
    return int(sum(np.isnan(v).sum() for v in arrays if v.dtype.kind == "f"))

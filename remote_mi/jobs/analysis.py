"""Running a recipe's own analysis on the outputs of all examples, locally and never on a server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from remote_mi.common.authors_code import contained, describe_error
from remote_mi.common.errors import Mismatch, RunFailed, line_number_in
from remote_mi.common.paths import cache_root
from remote_mi.common.statistics.intervals import mean_interval, share_interval
from remote_mi.jobs.aggregation import Assembled, Part
from remote_mi.jobs.control_tests import ControlSamples, against_control
from remote_mi.jobs.number_notes import non_finite_notes
from remote_mi.models.isolation import exclusive_model_use
from remote_mi.recipes.card import Card
from remote_mi.recipes.loading import load_function, recipe_imports
from remote_mi.recipes.output_kinds import as_numbers, kind_of_output
from remote_mi.recipes.outputs import DRAW, Output, coordinates
from remote_mi.store.cache import Cache
from remote_mi.store.draft import Draft
from remote_mi.store.kept_artifacts import kept
from remote_mi.store.verdict import SET


def add_analysis(draft: Draft, parts: Sequence[Part], assembled: Assembled) -> None:
    """Run the recipe's analysis, if it has one, and add its summaries to the result.

    The function is loaded from the sources stored with the job, not from the current file.

    Raises:
        RunFailed: if it fails, or does not return the declared summaries.
    """
    card = draft.card
    declared = {k: v for k, v in card.summaries.items() if isinstance(v, Output)}
    if not declared:
        return
    clusters = assembled.clusters or list(range(len(parts)))
    examples = [
        analysis_input(
            card,
            part,
            kept.get("label", ""),
            draft.parts[of].get("group")
            or (f"copies of {of + 1}" if clusters.count(of) > 1 else ""),
        )
        for part, kept, of in zip(parts, draft.parts, clusters, strict=True)
    ]
    parameters = {**draft.parameters, **kept_numbers(draft)}
    returned = _call(draft, card.analysis, examples, parameters)
    found = summary_arrays(card, declared, returned)
    draws = {name: found[name] for name, output in declared.items() if DRAW in output.dims}
    for name, output in declared.items():
        if name in draws:
            _check_shape(draft, name, output.dims, found[name])
            draws[name] = np.moveaxis(found[name], output.dims.index(DRAW), 0)
            found.update(average_over_draws(name, draws[name]))
        else:
            found.update(average_over_examples(name, output, found[name], assembled.clusters))
        for key in (name, f"{name}:low", f"{name}:high"):
            if key in found:
                dims = [dim for dim in output.dims if dim != DRAW]
                assembled.arrays[key] = _check_shape(draft, key, dims, found[key])
        assembled.notes += non_finite_notes(name, [np.asarray(found[name])])
        shape = assembled.arrays[name].shape
        dims = [dim for dim in output.dims if dim != DRAW]
        assembled.axes[name] = {
            dim: _names(draft, returned, dim, size) or coordinates(dim, size, parameters, None)
            for dim, size in zip(dims, shape, strict=True)
        }
    for name, control in card.controls.items():
        if name in declared and control in draws:
            _test(assembled, name, control, draws[control])


def kept_numbers(draft: Draft) -> dict[str, np.ndarray]:
    """Parameter → the numbers of its artifact, from the cache.

    Raises:
        Mismatch: if they are no longer there.
    """
    cache, found = Cache(Path(draft.store) if draft.store else cache_root()), {}
    for name, record in draft.provenance.get("artifacts", {}).items():
        artifact = kept(cache, str(record["digest"]))
        if artifact is None:
            raise Mismatch(
                f"the numbers of {record['named']} are no longer in the cache",
                "run the same command again",
            )
        found[name] = artifact.array
    return found


def _names(draft: Draft, returned: Mapping[str, Any], dim: str, size: int) -> list[str]:
    """The coordinates of a dimension that an analysis returned under its name; [] if none.

    Raises:
        RunFailed: if they are not one text for each index.
    """
    names = returned.get(dim, [])
    if dim in draft.card.summaries or not len(names) or not size:
        return []
    if len(names) != size or not all(isinstance(name, str) for name in names):
        raise RunFailed(
            f"recipe {draft.card.name!r}: its analysis named {len(names)} indices of {dim!r}, "
            f"which has {size}"
        )
    return list(names)


def _test(assembled: Assembled, name: str, control: str, draws: np.ndarray) -> None:
    """Test a summary against the draws of its control, each computed like it over all examples."""
    effect = assembled.arrays[name].astype(np.float64)[None]
    p, test = against_control(ControlSamples(effect, draws[None], None, SET), control)
    assembled.tests[name] = test
    assembled.arrays[f"{name}:p"] = p.astype(np.float32)
    assembled.arrays[f"{name}:band"] = np.abs(draws).max(0).astype(np.float32)


def analysis_input(card: Card, part: Part, label: str, group: str) -> dict[str, Any]:
    """What an analysis is passed of one example."""
    return {
        "arrays": _unpack(card, part.arrays),
        "tokens": part.tokens,
        "positions": dict(part.labels),
        "template": part.template,
        "label": label,
        "group": group,
    }


def summary_arrays(
    card: Card, declared: Mapping[str, Output], returned: Any
) -> dict[str, np.ndarray]:
    """The summaries, and the ends of their intervals, that an analysis returned, as arrays.

    Raises:
        RunFailed: if a summary is missing, or anything is not numbers.
    """
    what = f"recipe {card.name!r}: its analysis {card.analysis!r}"
    if not isinstance(returned, Mapping):
        raise RunFailed(
            f"{what} returned {type(returned).__name__}, not a dict of its summaries",
            "return " + "{" + ", ".join(f'"{name}": …' for name in declared) + "}",
        )
    found = {}
    for name in declared:
        if name not in returned:
            raise RunFailed(f"{what} did not return {name!r}")
        for key in (name, f"{name}:low", f"{name}:high"):
            if key in returned:
                array = as_numbers(returned[key])
                if array is None:
                    raise RunFailed(f"{what} returned {key!r}, which is not an array of numbers")
                found[key] = array
    return found


def average_over_draws(name: str, draws: np.ndarray) -> dict[str, np.ndarray]:
    """The mean of a control's draws, [draw, ...], and the smallest and the largest of them."""
    return {name: draws.mean(0), f"{name}:low": draws.min(0), f"{name}:high": draws.max(0)}


def average_over_examples(
    name: str, output: Output, values: Any, clusters: Sequence[int] | None
) -> dict[str, Any]:
    """The mean and interval of a summary, if an analysis returned it per example; else {}.

    Args:
        values: [..., example]; NaN for an example that does not count in a cell. If each is 0 or 1,
            or the summary is declared as a share, their mean is one.
        clusters: of the examples; None if each is its own.
    """
    array = np.asarray(0.0 if values is None else values, np.float64)
    dims = [dim for dim in output.dims if dim != DRAW]
    if array.ndim != len(dims) + 1 or not array.shape[-1]:
        return {}
    by_example = np.moveaxis(array, -1, 0)
    share = output.kind == "share" or bool(np.isin(array[np.isfinite(array)], (0, 1)).all())
    interval = share_interval if share else mean_interval
    found = interval(by_example, clusters)
    if found.clusters < 2:
        return {name: found.value}
    ends = [found.value, found.low, found.high]
    missing = np.isnan(by_example)
    for cell in np.argwhere(np.asarray(missing.any(0) & ~missing.all(0))).tolist():
        counted = ~missing[(slice(None), *cell)]
        own = None if clusters is None else np.asarray(clusters)[counted].tolist()
        one = interval(by_example[(counted, *cell)], own)
        for array, value in zip(ends, (one.value, one.low, one.high), strict=True):
            array[cell] = value
    return {name: ends[0], f"{name}:low": ends[1], f"{name}:high": ends[2]}


def _unpack(card: Card, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The outputs of an example as the recipe returned them: arrays, texts, JSON values."""
    outputs: dict[str, Any] = {}
    for name, packed in arrays.items():
        values = kind_of_output(card.returns[name]).unpack(packed)
        outputs[name] = values if values.dtype.kind != "O" else values.tolist()
    return outputs


def _call(draft: Draft, name: str, examples: list[Any], parameters: dict[str, Any]) -> Any:
    assert draft.file is not None
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for file, text in draft.sources.items():
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            (home / file).write_text(text, encoding="utf-8")
        path = home / draft.file
        try:
            card = replace(draft.card, name=name, path=path)
            function: Callable[..., Any] = load_function(card, home)
            return call_analysis(function, examples, parameters)
        except ValueError as error:
            raise RunFailed(f"recipe {draft.card.name!r}: {error}") from error
        except Exception as error:  # the analysis is the recipe author's code: anything can happen
            line = line_number_in(error, path.resolve())
            raise RunFailed(
                f"{draft.file}:{line}: the analysis {name!r} failed: {describe_error(error)}",
                "--debug shows the whole traceback",
            ) from error


def call_analysis(
    function: Callable[..., Any], examples: Sequence[Any], parameters: Mapping[str, Any]
) -> Any:
    """What a recipe's analysis returns; it may raise anything, but cannot end the process."""
    with exclusive_model_use(), recipe_imports(function), contained():
        return function(examples, **parameters)


def _check_shape(draft: Draft, key: str, dims: Sequence[str], values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # a note says it
        array = values.astype(np.float32)
    if array.ndim != len(dims):
        raise RunFailed(
            f"recipe {draft.card.name!r}: {key!r} of its analysis has the shape "
            f"{array.shape} and is declared as ({', '.join(dims)})"
        )
    return array

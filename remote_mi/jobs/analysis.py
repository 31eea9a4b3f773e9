"""Running a recipe's own analysis on the outputs of all examples, locally and never on a server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from remote_mi.common.authors_code import contained, describe_error
from remote_mi.common.errors import RunFailed, line_number_in
from remote_mi.jobs.aggregation import Assembled, Part, interval_over_groups, non_finite_notes
from remote_mi.models.isolation import exclusive_model_use
from remote_mi.recipes.card import Card
from remote_mi.recipes.loading import load_function, recipe_imports
from remote_mi.recipes.output_kinds import as_numbers, kind_of_output
from remote_mi.recipes.outputs import DRAW, Output, coordinates
from remote_mi.store.draft import Draft


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
    examples = [
        analysis_input(card, part, kept.get("label", ""), kept.get("group", ""))
        for part, kept in zip(parts, draft.parts, strict=True)
    ]
    parameters = dict(draft.parameters)
    returned = _call(draft, card.analysis, examples, parameters)
    found = summary_arrays(card, declared, returned)
    for name, output in declared.items():
        found.update(average_over_examples(name, output, found[name], examples))
        for key in (name, f"{name}:low", f"{name}:high"):
            if key in found:
                assembled.arrays[key] = _check_shape(draft, key, output, found[key])
        assembled.notes += non_finite_notes(name, [np.asarray(found[name])])
        shape = assembled.arrays[name].shape
        dims = [dim for dim in output.dims if dim != DRAW]
        assembled.axes[name] = {
            dim: coordinates(dim, size, parameters, None)
            for dim, size in zip(dims, shape, strict=True)
        }


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


def average_over_examples(
    name: str, output: Output, values: Any, examples: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The mean and interval of a summary, if an analysis returned it per example; else {}."""
    array = np.asarray(0.0 if values is None else values)
    dims = [dim for dim in output.dims if dim != DRAW]
    if array.ndim != len(dims) + 1 or array.shape[-1] != len(examples):
        return {}
    # An example without a group is a group of its own.
    groups = [example["group"] or ("", index) for index, example in enumerate(examples)]
    low, high = interval_over_groups(array, [groups.index(group) for group in groups])
    return {name: array.mean(-1), f"{name}:low": low, f"{name}:high": high}


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


def _check_shape(draft: Draft, key: str, output: Output, values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # a note says it
        array = values.astype(np.float32)
    if array.ndim != len([dim for dim in output.dims if dim != DRAW]):
        raise RunFailed(
            f"recipe {draft.card.name!r}: {key!r} of its analysis has the shape "
            f"{array.shape} and is declared as {output.dims}"
        )
    return array

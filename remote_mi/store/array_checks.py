"""Whether the arrays of a result are what its card and its document say.

Whoever shows a result relies on it: that each output of each prompt is there, of the declared kind
and dimensions, with as many entries along its positions as the prompt has tokens; and that what is
over all prompts has one coordinate for each index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from remote_mi.recipes.card import Card
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import POSITIONS, Output, position_problem
from remote_mi.store.typed_json import WrongJson

Arrays = Mapping[str, np.ndarray]
#: Output or summary → dimension → coordinates.
Axes = Mapping[str, Mapping[str, Sequence[Any]]]


def check_arrays(
    card: Card,
    tokens: Sequence[int],
    axes: Axes,
    arrays: Arrays,
    parameters: Mapping[str, Any] | None = None,
) -> None:
    """Check that the card, the document and the arrays of a result agree.

    Args:
        tokens: how many each prompt has. axes: of the document. parameters: of the recipe.

    Raises:
        WrongJson: naming the place in run.json that an array contradicts.
    """
    for name, output in card.returns.items():
        for index in range(1 if output.of == "set" else len(tokens)):
            array = _check_one(name, output, f"{name}@{index}", arrays)
            count = tokens[index] if output.of == "example" else 0
            shape = array.shape[: len(output.dims)]
            if problem := position_problem(output, shape, count, parameters or {}):
                raise WrongJson(f"document.parts[{index}].tokens", f"{name} {problem}")
    for name in (*card.summaries, *card.returns):
        if name in arrays:
            _check_over_all(card, name, axes.get(name), arrays)
            _check_alike(name, card.returns.get(name), axes[name], arrays, len(tokens))
    for name, control in card.controls.items():
        if name in arrays and control in arrays:
            own, other = arrays[name].shape, arrays[control].shape
            if own[: len(other)] != other:
                what = f"an array of the shape {other}, for one of the shape {own}"
                raise WrongJson(f"recipe.controls.{name}", what)


def check_call(card: Card, prompts: int, arrays: Arrays) -> None:
    """Check that arrays are what one call of a recipe returns, as far as its card says.

    Args:
        prompts: how many the run has; a recipe that is called once has outputs of each.

    Raises:
        WrongJson: naming the output that is missing, not declared, or of another kind.
    """
    names = {
        key: (name, output)
        for name, output in card.returned.items()
        for key in (
            [f"{name}@{index}" for index in range(prompts)]
            if card.called_once and output.of == "example"
            else [name]
        )
    }
    if unknown := sorted(set(arrays) - set(names)):
        raise WrongJson("arrays", f"{unknown[0]!r:.80} is no output of {card.name}")
    for key, (name, output) in names.items():
        _check_one(name, output, key, arrays)


def _check_over_all(
    card: Card, name: str, axes: Mapping[str, Sequence[Any]] | None, arrays: Arrays
) -> None:
    """Check an output or summary over all prompts, and the ends of its interval."""
    if axes is None:
        raise WrongJson("document.axes", repr(KeyError(name)))
    output, array = card.returns.get(name), arrays[name]
    dims = [dim for dim in card.dims(name) if dim in axes]
    where = f"recipe.returns.{name}" if output else f"recipe.summaries.{name}"
    _check_kind(where, output, array)
    if kind_of_output(output).averaged:
        _check_estimate(where, array)
    shape = array.shape[: array.ndim - kind_of_output(output).packed_dims]
    if shape != tuple(len(axes[dim]) for dim in dims):
        sizes = ", ".join(f"{dim}: {len(axes[dim])}" for dim in dims) or "none"
        raise WrongJson(
            f"document.axes.{name}", f"the coordinates ({sizes}) are not those of the shape {shape}"
        )
    for more in ("p", "band"):
        of_test = arrays.get(f"{name}:{more}")
        if of_test is not None:
            if of_test.shape != array.shape:
                what = f"a test of the shape {of_test.shape} for the shape {array.shape}"
                raise WrongJson(f"document.tests.{name}", what)
            _check_estimate(f"document.tests.{name}", of_test)
    ends = [arrays.get(f"{name}:{end}") for end in ("low", "high")]
    for end in ends:
        other = None if end is None else end.shape
        if other != array.shape and (end is not None or any(e is not None for e in ends)):
            what = f"an interval of the shape {other} for the shape {array.shape}"
            raise WrongJson(f"document.axes.{name}", what)
        if end is not None:
            _check_estimate(f"document.axes.{name}", end)


def _check_alike(
    name: str,
    output: Output | None,
    axes: Mapping[str, Sequence[Any]],
    arrays: Arrays,
    count: int,
) -> None:
    """Check that the values of each prompt have the sizes of the mean over them, but for tokens."""
    if output is None or output.of == "set" or not kind_of_output(output).averaged:
        return
    sizes = {dim: len(labels) for dim, labels in axes.items() if dim not in POSITIONS}
    for index in range(count):
        shape = arrays[f"{name}@{index}"].shape
        for dim, size in zip(output.dims, shape, strict=True):
            if sizes.get(dim, size) != size:
                what = f"prompt {index + 1} has {size} along {dim!r}, the mean {sizes[dim]}"
                raise WrongJson(f"document.axes.{name}", what)


def _check_one(name: str, output: Output, key: str, arrays: Arrays) -> np.ndarray:
    """Check the array of an output, of one prompt or of the whole set; returns it."""
    array = arrays.get(key)
    if array is None:
        raise WrongJson("document.parts", f"there is no array {key}")
    ndim = array.ndim - kind_of_output(output).packed_dims
    if ndim != len(output.dims):
        what = f"{len(output.dims)} names for the {ndim} dimensions of its array"
        raise WrongJson(f"recipe.returns.{name}.dims", what)
    _check_kind(f"recipe.returns.{name}", output, array)
    return array


def _check_estimate(where: str, array: np.ndarray) -> None:
    """Check that a mean, an end of its interval or a figure of its test is of real numbers."""
    if array.dtype.kind != "f":
        raise WrongJson(where, f"its array holds {array.dtype}, not floating-point numbers")


def _check_kind(where: str, output: Output | None, array: np.ndarray) -> None:
    if problem := kind_of_output(output).packed_problem(array):
        raise WrongJson(where, f"its array {problem}")

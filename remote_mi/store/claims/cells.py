"""Selecting cells of an output by their coordinates: `at: {layer: ">=24", position: end}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from remote_mi.common.errors import NotFound, UsageError
from remote_mi.common.text import line
from remote_mi.recipes.outputs import POSITIONS
from remote_mi.store.claims.bounds import is_comparison, parse_bound
from remote_mi.store.named_array import NamedArray
from remote_mi.store.samples import Sampled, shown_positions

#: Most coordinates that a message lists.
_MOST_LISTED = 12
FORMS = 'write a coordinate, a list of them, or a comparison such as ">= 24"'


def check_selector(wanted: Any) -> None:
    """Check that a selector of coordinates is well formed.

    Raises:
        UsageError: saying what to write.
    """
    if is_comparison(wanted):
        parse_bound(wanted)
        return
    several = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    if not several:
        raise UsageError("the list of coordinates is empty", FORMS)
    for one in several:
        if isinstance(one, bool) or not isinstance(one, (int, float, str)) or one == "":
            raise UsageError(f"{line(str(one)) or repr(one)!s:.60} is not a coordinate", FORMS)
        if is_comparison(one):
            raise UsageError(f"{one!r} is a comparison within a list", FORMS)


def selects_one(wanted: Any) -> bool:
    """Whether a selector names exactly one coordinate."""
    return not is_comparison(wanted) and (not isinstance(wanted, (list, tuple)) or len(wanted) == 1)


def matching(coordinates: Sequence[Any], wanted: Any, dim: str) -> list[int]:
    """The indices of the coordinates that a selector names.

    Args:
        dim: name of the dimension, for messages.

    Raises:
        NotFound: if a named coordinate does not exist, or a comparison holds for none.
        UsageError: if the coordinates are not numbers and are compared with one, or if a text
            names several.
    """
    if is_comparison(wanted):
        bound = parse_bound(wanted)
        if not all(_is_number(c) for c in coordinates):
            raise UsageError(
                f"{dim} {wanted!r}: the coordinates of {dim} are no numbers", _listed(coordinates)
            )
        found = [i for i, c in enumerate(coordinates) if bound.contains(c)]
        if not found:
            raise NotFound(f"no {dim} is {wanted}", _listed(coordinates))
        return found
    several = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    return list(dict.fromkeys(_index(coordinates, one, dim) for one in several))


def _index(coordinates: Sequence[Any], wanted: Any, dim: str) -> int:
    same = [i for i, c in enumerate(coordinates) if c == wanted or str(c) == str(wanted)]
    if not same:
        raise NotFound(f"there is no {dim} {wanted!r}", _listed(coordinates))
    if len(same) > 1:
        raise UsageError(f"{dim} {wanted!r} occurs {len(same)} times", f"give an index: {same}")
    return same[0]


def selected_indices(result: Sampled, array: NamedArray, at: Mapping[str, Any]) -> list[list[int]]:
    """For each dimension of an output or summary the selected indices; all if it is not in `at`.

    A position is selected by its label, by its index if every token has a column, or by its token.

    Raises:
        NotFound, UsageError: if a dimension or coordinate does not exist.
    """
    for dim in at:
        if dim not in array.dims:
            has = f"it has: {', '.join(array.dims)}" if array.dims else "it is a single number"
            raise NotFound(f"{array.name!r} has no dimension {dim!r}", has)
    return [
        list(range(size))
        if dim not in at
        else _positions(result, list(array.coords[dim]), at[dim], dim)
        if dim in POSITIONS
        else matching(list(array.coords[dim]), at[dim], dim)
        for dim, size in zip(array.dims, array.shape, strict=True)
    ]


def _positions(result: Sampled, columns: list[Any], wanted: Any, dim: str) -> list[int]:
    prompts = result.prompts
    every = bool(prompts) and all(len(p["tokens"]) == len(columns) for p in prompts)
    if is_comparison(wanted):
        if not every:
            raise UsageError(
                f"{dim} {wanted!r}: prompts of several templates share only labelled positions",
                _listed(columns),
            )
        return matching(list(range(len(columns))), wanted, dim)
    several = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    labels = {str(c)[1:-1]: i for i, c in enumerate(columns) if str(c)[:1] == "["}
    if every:
        first = prompts[0]["labels"]
        shared = {k: v for k, v in first.items() if all(p["labels"].get(k) == v for p in prompts)}
        at = shown_positions(result, columns, 0)
        labels = {k: at.index(v) for k, v in shared.items() if v in at}
    found = []
    for one in several:
        name = str(one).strip("[]")
        if isinstance(one, int) and every and 0 <= one < len(columns):
            found.append(one)
        elif name in labels:
            found.append(labels[name])
        elif isinstance(one, str) and one in columns:
            found.append(_index(columns, one, dim))
        else:
            raise NotFound(f"there is no {dim} {one!r}", _listed([*labels, *columns]))
    return list(dict.fromkeys(found))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _listed(coordinates: Sequence[Any]) -> str:
    """The coordinates there are, as a hint."""
    names = list(dict.fromkeys(line(str(c)) for c in coordinates))
    numbers = [c for c in coordinates if _is_number(c)]
    if len(names) > 3 and numbers == list(range(len(coordinates))):
        return f"there are: 0 to {len(numbers) - 1}"
    more = f" … ({len(names)} in all)" if len(names) > _MOST_LISTED else ""
    return f"there are: {', '.join(names[:_MOST_LISTED])}{more}" if names else "there is none"

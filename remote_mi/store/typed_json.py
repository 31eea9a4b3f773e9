"""JSON objects as dataclasses: checked against the annotations, and told by their place."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")
_CALLED = {dict: "an object", list: "a list", str: "a text", int: "a whole number", bool: "a bool"}


class WrongJson(Exception):
    """A JSON value that is not what its place asks for.

    Attributes:
        where: its place, e.g. "provenance.record.dtype". what: what is wrong with it.
    """

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where, self.what = where, what


def typed(kind: type[T], data: Any, where: str) -> T:
    """A JSON object as a dataclass; fields that are missing take their defaults.

    Args:
        where: the object's place, for errors.

    Raises:
        WrongJson: for a field that is missing and has no default, or is of another type.
    """
    if not isinstance(data, Mapping):
        raise WrongJson(where, f"is {_name(data)}, not an object")
    hints, values = _hints(kind), {}
    for item in fields(kind):  # type: ignore[arg-type]
        place = f"{where}.{item.name}" if where else item.name
        if item.name in data:
            values[item.name] = _checked(hints[item.name], data[item.name], place)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise WrongJson(place, repr(KeyError(item.name)))
    return kind(**values)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _checked(hint: Any, value: Any, where: str) -> Any:
    """The value as its annotation has it."""
    if hint is Any:
        return value
    if is_dataclass(hint):
        return typed(hint, value, where)  # type: ignore[arg-type]
    of, inner = typing.get_origin(hint), typing.get_args(hint)
    if of in (types.UnionType, typing.Union):
        return _one_of(inner, value, where)
    if of in (Sequence, list, tuple):
        if not isinstance(value, list):
            raise WrongJson(where, f"is {_name(value)}, not a list")
        return [_checked(inner[0], item, f"{where}[{at}]") for at, item in enumerate(value)]
    if of in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise WrongJson(where, f"is {_name(value)}, not an object")
        return {key: _checked(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    if not _is(hint, value):
        raise WrongJson(where, f"is {_name(value)}, not {_CALLED.get(hint, hint.__name__)}")
    return value


def _one_of(inner: Sequence[Any], value: Any, where: str) -> Any:
    if value is None and type(None) in inner:
        return None
    some = [hint for hint in inner if hint is not type(None)]
    if len(some) == 1:
        return _checked(some[0], value, where)
    if not any(_is(hint, value) for hint in some):
        raise WrongJson(where, f"is {_name(value)}")
    return value


def _is(hint: type, value: Any) -> bool:
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _name(value: Any) -> str:
    return "null" if value is None else _CALLED.get(type(value), f"a {type(value).__name__}")

"""Converting JSON objects to dataclasses, checked against their annotations."""

from __future__ import annotations

import functools
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")
_TYPE_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    bool: "a bool",
    float: "a number that a float can hold",
}


class WrongJson(ValueError):
    """A JSON value of the wrong type or content.

    Attributes:
        where: its path, e.g. "provenance.record.dtype". what: what is wrong with it.
    """

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where, self.what = where, what


def dataclass_from_json(kind: type[T], data: Any, where: str) -> T:
    """Convert a JSON object to a dataclass; missing fields take their defaults.

    Args:
        where: the object's path, for errors.

    Raises:
        WrongJson: if a field without a default is missing, or a field has the wrong type.
    """
    if not isinstance(data, Mapping):
        raise WrongJson(where, f"is {_type_name(data)}, not an object")
    hints, values = _hints(kind), {}
    for item in fields(kind):  # type: ignore[arg-type]
        place = f"{where}.{item.name}" if where else item.name
        if item.name in data:
            values[item.name] = _convert(hints[item.name], data[item.name], place)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise WrongJson(place, repr(KeyError(item.name)))
    return kind(**values)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """The value, converted to its annotated type."""
    if hint is Any:
        return value
    if is_dataclass(hint):
        return dataclass_from_json(hint, value, where)  # type: ignore[arg-type]
    of, inner = typing.get_origin(hint), typing.get_args(hint)
    if of in (types.UnionType, typing.Union):
        return _convert_union(inner, value, where)
    if of in (Sequence, list, tuple):
        if not isinstance(value, list):
            raise WrongJson(where, f"is {_type_name(value)}, not a list")
        return [_convert(inner[0], item, f"{where}[{at}]") for at, item in enumerate(value)]
    if of in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise WrongJson(where, f"is {_type_name(value)}, not an object")
        return {key: _convert(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    if not _is_instance(hint, value):
        raise WrongJson(
            where, f"is {_type_name(value)}, not {_TYPE_NAMES.get(hint, hint.__name__)}"
        )
    return value


def _convert_union(inner: Sequence[Any], value: Any, where: str) -> Any:
    if value is None and type(None) in inner:
        return None
    some = [hint for hint in inner if hint is not type(None)]
    if len(some) == 1:
        return _convert(some[0], value, where)
    if not any(_is_instance(hint, value) for hint in some):
        raise WrongJson(where, f"is {_type_name(value)}")
    return value


def _is_instance(hint: type, value: Any) -> bool:
    if hint is float:  # not an integer that no float can hold
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _type_name(value: Any) -> str:
    return "null" if value is None else _TYPE_NAMES.get(type(value), f"a {type(value).__name__}")

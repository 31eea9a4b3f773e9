"""Checking values against type annotations, for what users pass from Python or declare."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from remote_mi.common.text import encoding_problem, line

_LONGEST = 60
_UNIONS = (typing.Union, types.UnionType)
#: Types that are checked and have a name of their own in messages.
_WORDS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    type(None): "None",
    Path: "a path",
}


def shown(value: Any) -> str:
    """A value as messages quote it: shortened, and by its type if it is an object."""
    if not isinstance(value, (str, bytes, int, float, bool, list, tuple, dict, type(None), Path)):
        return line(f"an object of type {type(value).__name__}", _LONGEST)
    try:
        return line(repr(value), _LONGEST)
    except ValueError:  # more digits than Python converts to text
        return "a huge number"


def field_problem(instance: Any) -> str:
    """The first field of a dataclass whose value does not fit its annotation; "" if none."""
    kind = type(instance)
    for field in fields(instance):
        value, hint = getattr(instance, field.name), _hints(kind).get(field.name, Any)
        if not fits(value, hint):
            return f"{kind.__name__} has {field.name}={shown(value)}, which is not {words(hint)}"
    return ""


def argument_problem(function: Callable[..., Any], given: Mapping[str, Any]) -> tuple[str, str]:
    """The first argument that does not fit its annotation, and the problem; ("", "") if none."""
    for name, value in given.items():
        hint = _hints(function).get(name, Any)
        if not fits(value, hint):
            return name, f"{name} is {shown(value)}, not {words(hint)}"
        if isinstance(value, str) and (problem := encoding_problem(value)):
            return name, f"{name} {problem}"
    return "", ""


@functools.lru_cache(maxsize=256)
def _hints(owner: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(owner)
    except Exception:  # a class of somebody else, with annotations that cannot be evaluated
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; types that are not simple fit anything."""
    if hint is Any:
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple and inner[1:] == (...,):
        return isinstance(value, (list, tuple)) and all(fits(one, inner[0]) for one in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(
            fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items()
        )
    if hint in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (hint is float and isinstance(value, float))
    if origin is not None:
        return not isinstance(origin, type) or isinstance(value, origin)
    checked = hint in _WORDS or getattr(hint, "_is_runtime_protocol", not _is_protocol(hint))
    return isinstance(value, hint) if isinstance(hint, type) and checked else True


def _is_protocol(hint: Any) -> bool:
    return getattr(hint, "_is_protocol", False)


def words(hint: Any) -> str:
    """An annotated type in a message."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        *most, last = (words(one) for one in inner)
        return f"{', '.join(most)} or {last}"
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner))
    if origin is tuple:
        return f"a list, each {words(inner[0])}"
    if origin in (dict, Mapping):
        return "a dict" if inner[1] is Any else f"a dict of texts to {words(inner[1])}"
    name = getattr(hint, "__name__", str(hint))
    return _WORDS.get(hint, f"a {name}" if isinstance(hint, type) else name)

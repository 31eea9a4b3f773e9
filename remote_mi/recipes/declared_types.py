"""Checking the types of what a recipe declares, before anything else reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from remote_mi.common.annotated_types import field_problem, shown
from remote_mi.common.errors import nearest
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.outputs import Output, Ratio


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any, of: Callable[[Any], bool] = _is_text) -> bool:
    return isinstance(value, (list, tuple)) and all(of(one) for one in value)


def _is_mapping(value: Any, to: Callable[[Any], bool] = _is_text) -> bool:
    return isinstance(value, Mapping) and all(_is_text(k) and to(v) for k, v in value.items())


def _is_dims(value: Any) -> bool:
    return isinstance(value, Output) or _is_list(value)


#: Argument of the decorator → a check of its value, and what is expected, with an example.
_ARGUMENTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "over": (_is_text, 'a text, e.g. "prompt"'),
    "returns": (
        lambda value: _is_mapping(value, _is_dims),
        'a dict of names and tuples of dimension names, e.g. {"effect": ("layer", "position")}',
    ),
    "summaries": (
        lambda value: _is_mapping(value, lambda v: isinstance(v, Ratio) or _is_dims(v)),
        'a dict of names and tuples or ratios, e.g. {"share": Ratio("effect", gap="gap")}',
    ),
    "controls": (_is_mapping, 'a dict of texts, e.g. {"effect": "random_effect"}'),
    "labels": (_is_mapping, 'a dict of texts, e.g. {"class": "class_names"}'),
    "evidence": (_is_text, 'a text, e.g. "interventional"'),
    "behaviour": (_is_text, "a text, the name of an output"),
    "shared": (_is_mapping, 'a dict of texts, e.g. {"random_effect": "fold"}'),
    "setup": (_is_text, "a text, the name of a function in the same file"),
    "analysis": (_is_text, "a text, the name of a function in the same file"),
    "figures": (
        lambda value: _is_list(value, lambda v: isinstance(v, Figure)),
        'a list of figures, e.g. [Bars("effect")]',
    ),
    "needs": (_is_list, 'a list of texts, e.g. ["gradients"]'),
    "lengths": (
        lambda value: _is_text(value) or (isinstance(value, Mapping) and bool(value)),
        'a text or a dict of parameters, e.g. "any"',
    ),
    "references": (_is_list, 'a list of texts, e.g. ["vig2020"]'),
}


def declaration_problem(declaration: Mapping[str, Any]) -> str:
    """The first argument of a declaration that is unknown or of the wrong type; "" if none is."""
    for name, value in declaration.items():
        if name not in _ARGUMENTS:
            close = nearest(name, _ARGUMENTS)
            return f"unknown argument {name!r}" + (f": did you mean {close!r}?" if close else "")
        check, expected = _ARGUMENTS[name]
        if value is not None and not check(value):
            return f"{name}={shown(value)} is not {expected}"
        parts = value.values() if isinstance(value, Mapping) else value
        for part in parts if isinstance(parts, Iterable) else ():
            if isinstance(part, (Figure, Output, Ratio)) and (problem := field_problem(part)):
                return f"{name}: {problem}"
    return ""

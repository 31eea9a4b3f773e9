"""A recipe's parameters: their types, defaults and bounds, and how values are parsed."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from remote_mi.common.annotated_types import field_problem, shown
from remote_mi.common.errors import UsageError, nearest
from remote_mi.common.text import encoding_problem
from remote_mi.interventions.vocabulary import ArtifactForm

#: The most numbers that a span stands for.
_MOST_OF_A_SPAN = 10_000
#: A metric of the project's own, as a parameter names it.
OWN_METRIC = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)")
#: How many characters of an invalid value a message quotes.
_LONGEST = 80


@dataclass(frozen=True)
class Range:
    """Bounds of a numeric parameter, both included: `Annotated[int, Range(1, 50)]`."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Param:
    """One parameter of a recipe: its type, default and bounds; also a command-line option.

    Attributes:
        optional: whether it may be None, written `none` on the command line.
        dims, site: of an artifact, as `remote_mi.interventions.vocabulary.ArtifactForm`.
    """

    name: str
    kind: Literal[
        "str",
        "int",
        "float",
        "bool",
        "choice",
        "metric",
        "ints",
        "strs",
        "floats",
        "prompt",
        "prompts",
        "artifact",
    ]
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    help: str = ""
    optional: bool = False
    dims: tuple[str, ...] = ()
    site: str = ""

    @property
    def expected(self) -> str:
        """A description of valid values."""
        return self._expected + (", or none" if self.optional else "")

    @property
    def default_text(self) -> str:
        """The default as the command line takes it."""
        return "none" if self.default is None else str(self.default)

    @property
    def _expected(self) -> str:
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        if self.kind == "metric":
            return f"one of {', '.join(self.choices)}, or FILE.py:FUNCTION"
        words = {
            "str": "a text",
            "prompt": "a prompt's text",
            "prompts": "a phenomenon, a file of prompts or a list of them",
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "ints": "whole numbers, e.g. 1,2,3 or 4-8",
            "floats": "numbers, e.g. 0.5,1",
            "strs": "texts, e.g. a,b",
            "artifact": f"an artifact ({' × '.join(self.dims) or 'a number'}): RUN:output, "
            "or FILE.safetensors:name",
        }[self.kind]
        if self.low is not None and self.high is not None:
            return f"{words} from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{words} of at least {self.low:g}"
        return words if self.high is None else f"{words} of at most {self.high:g}"

    def parse(self, value: Any) -> Any:
        """Parse a Python value or a command-line text into the value passed to the recipe.

        Raises:
            UsageError: if the value has the wrong type or lies outside the bounds.
        """
        if self.optional and (value is None or value == "none"):
            return None
        try:
            parsed = self._convert(value)
        except (TypeError, ValueError, OverflowError):
            raise self._refuse(value) from None
        for part in parsed if isinstance(parsed, list) else [parsed]:
            if isinstance(part, str) and (problem := encoding_problem(part)):
                raise UsageError(f"parameter {self.name!r} {problem}", "write the whole character")
            number: Any = part
            if self.low is not None and number < self.low:
                raise self._refuse(value)
            if self.high is not None and number > self.high:
                raise self._refuse(value)
        return parsed

    def _convert(self, value: Any) -> Any:
        if self.kind in ("choice", "metric"):
            own = self.kind == "metric" and isinstance(value, str) and OWN_METRIC.fullmatch(value)
            return value if own or value in self.choices else _fail()
        if self.kind in ("ints", "floats", "strs"):
            parts = value.split(",") if isinstance(value, str) else list(value)
            convert = {"ints": _to_int, "floats": float, "strs": _to_text}[self.kind]
            if self.kind == "ints":
                parts = [number for part in parts for number in _spanned(part)]
            return [convert(part) for part in parts]
        if self.kind == "artifact":
            named = str(value).strip() if isinstance(value, (str, Path)) else ""
            return named or _fail()
        if self.kind == "bool":
            words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            return words[str(value).lower()] if str(value).lower() in words else _fail()
        if self.kind == "prompts":  # read when the job is made (`remote_mi.prompts.parameter`)
            return value if value and isinstance(value, (str, list, dict)) else _fail()
        if self.kind in ("str", "prompt"):
            return value if isinstance(value, str) else _fail()
        if isinstance(value, bool):
            raise ValueError
        number = _to_int(value) if self.kind == "int" else float(value)
        return number if number == number and abs(number) != float("inf") else _fail()

    def _refuse(self, value: Any) -> UsageError:
        hint = None
        if self.choices and (close := nearest(str(value), self.choices)):
            hint = f"did you mean {close!r}?"
        elif self.kind == "metric":
            hint = "a function of yours: its file and its name, e.g. metrics.py:margin"
        parts = value if isinstance(value, (list, tuple)) else [value]
        if self.kind == "strs" and any(isinstance(part, float) for part in parts):
            hint = "numbers with a point are texts here: put them in quotes (9.10 and 9.1 differ)"
        shown = repr(value)
        shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
        return UsageError(f"parameter {self.name!r}: {shown} is not {self.expected}", hint)


def _to_int(value: Any) -> int:
    return int(value) if int(value) == float(value) else _fail()


def _spanned(part: Any) -> list[Any]:
    """The numbers of a span, "4-8", both ends included; anything else as it is."""
    match = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", part) if isinstance(part, str) else None
    if match is None:
        return [part]
    low, high = int(match[1]), int(match[2])
    return list(range(low, high + 1)) if low <= high < low + _MOST_OF_A_SPAN else _fail()


def _to_text(value: Any) -> str:
    return str(value) if not isinstance(value, float) else _fail()


def _fail() -> Any:
    raise ValueError


def param_from(name: str, annotation: Any, has_default: bool, default: Any) -> Param:
    """A parameter from its annotation and default.

    Raises:
        TypeError: if the annotation is missing or of an unsupported type.
    """
    bounds, extras = Range(), []
    annotation, optional = _without_none(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *extras = typing.get_args(annotation)
        bounds = next((extra for extra in extras if isinstance(extra, Range)), bounds)
    plain = {
        str: "str",
        int: "int",
        float: "float",
        bool: "bool",
        list[int]: "ints",
        list[str]: "strs",
        list[float]: "floats",
    }
    choices: tuple[str, ...] = ()
    form = next((extra for extra in extras if isinstance(extra, ArtifactForm)), None)
    of_prompts = next((one for one in ("prompt", "prompts") if one in extras), "")
    if form is not None:
        kind = "artifact"
    elif of_prompts:
        kind = of_prompts
    elif typing.get_origin(annotation) is Literal:
        kind = "metric" if "metric" in extras else "choice"
        choices = typing.get_args(annotation)
    elif isinstance(annotation, Hashable) and annotation in plain:
        kind = plain[annotation]
    else:
        raise TypeError(
            f"its type must be str, int, float, bool, Literal[...], a list of these, "
            f"PromptText or Artifact[...], each with or without `| None`, not {annotation!r}"
        )
    required: Any = not has_default
    low, high = bounds.low, bounds.high
    param = Param(name, kind, default, required, choices, low, high, "", optional)  # type: ignore[arg-type]
    if form is not None:
        param = replace(param, dims=form.dims, site=form.site)
    _check_declared(param, bounds)
    return param


def _check_declared(param: Param, bounds: Range) -> None:
    """Check the choices, bounds and default of a parameter.

    Raises:
        TypeError: if they contradict each other or its type.
    """
    if not all(isinstance(choice, str) for choice in param.choices):
        raise TypeError(f"the choices of a Literal must be texts, not {shown(param.choices)}")
    if problem := field_problem(bounds):
        raise TypeError(problem)
    if bounds != Range() and param.kind not in ("int", "float", "ints", "floats"):
        raise TypeError("a Range is only for numbers")
    if param.low is not None and param.high is not None and param.low > param.high:
        raise TypeError(f"no number is from {param.low:g} to {param.high:g}")
    text = param.kind in ("str", "prompt", "prompts", "choice", "metric")
    if param.default is None:  # required, or left to the recipe
        return
    try:
        if isinstance(param.default, str) and not text:
            raise ValueError
        param.parse(param.default)
    except (UsageError, ValueError):
        raise TypeError(f"its default {shown(param.default)} is not {param.expected}") from None


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """A type without `| None`, and whether it had it."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return annotation, False
    kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    some_none = len(kinds) < len(typing.get_args(annotation))
    return (kinds[0], True) if some_none and len(kinds) == 1 else (annotation, False)

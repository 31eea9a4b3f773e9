"""Values of non-numeric outputs as text that is safe to show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from remote_mi.common.text import line, visible
from remote_mi.recipes.output_kinds import json_text
from remote_mi.store.result import Result

#: Maximum characters shown of a text and of a JSON value.
MOST_OF_A_TEXT, MOST_OF_JSON = 4000, 200
_EMPTY = "∅"


def _token(result: Result, value: Any) -> str:
    return visible(result.text(int(value))) if value >= 0 else _EMPTY


def _text(result: Result, value: Any) -> str:
    return line(value, MOST_OF_A_TEXT) or _EMPTY


def _json(result: Result, value: Any) -> str:
    return line(json_text(value), MOST_OF_JSON)


_SHOWN: dict[str, Callable[[Result, Any], str]] = {"token": _token, "text": _text, "json": _json}


def value_text(result: Result, kind: str, value: Any) -> str:
    """A value of an output of a kind ("number", "token", "text" or "json"), as one line."""
    shown = _SHOWN.get(kind)
    return f"{value:.4g}" if shown is None else shown(result, value)

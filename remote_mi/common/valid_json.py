"""JSON as the standard has it: without NaN and infinities, which Python writes and reads by default.

They are written as null; a text that holds one is refused like any other that is not JSON.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def to_json(value: Any, **options: Any) -> str:
    """The JSON text of a value, with null in place of NaN and infinities.

    Args:
        options: those of `json.dumps`.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:  # the search for them is slow, and rarely needed
        return json.dumps(without_non_finite(value), allow_nan=False, **options)


def without_non_finite(value: Any) -> Any:
    """A JSON value with None in place of NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {without_non_finite(k): without_non_finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_non_finite(item) for item in value]
    return value


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: if it is not valid JSON, holds a number that is no finite float, or is nested
            more deeply than Python can follow.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_parse_float)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"it holds {word}, which is not JSON")


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds {text[:20]}, which is no finite number")
    return number

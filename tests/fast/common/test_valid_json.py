"""JSON is valid, whatever numbers there are: null in place of what it cannot hold."""

from __future__ import annotations

import json
import math

import pytest

from remote_mi.common.valid_json import parse_json, to_json

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1.5, NAN, (INF, {"b": -INF})]}, '{"a": [1.5, null, [null, {"b": null}]]}'),
        ({"a": 1, "b": None, "c": "NaN"}, '{"a": 1, "b": null, "c": "NaN"}'),
        (NAN, "null"),
        ([], "[]"),
    ],
)
def test_what_is_no_number_is_null(value, text):
    assert to_json(value) == text
    assert json.loads(to_json(value, indent=1, sort_keys=True)) == json.loads(text)


@pytest.mark.parametrize("text", ["NaN", '{"a": [Infinity]}', "-Infinity", "[1e999]", b"[-1e999]"])
def test_a_text_with_what_json_does_not_have_is_refused(text):
    with pytest.raises(ValueError, match=r"which is (not JSON|no finite number)"):
        parse_json(text)


def test_any_other_text_is_read():
    assert parse_json('{"a": [1, 2.5, null, "NaN"], "b": 1e300}') == {
        "a": [1, 2.5, None, "NaN"],
        "b": 1e300,
    }

"""Run folders with numbers that JSON does not have: refused as damaged, and never printed on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from ..report.shown import kept, result

_COMMANDS = (
    ("runs", "ls", "--json"),
    ("runs", "ls"),
    ("runs", "show"),
    ("view", "--plain"),
    ("compare", "RUN", "RUN", "--json"),
    ("export", "--table", "heat", "-o", "table.json", "--json"),
    ("reproduce", "RUN", "--verify-only", "--json"),
)


def refuse(word: str) -> NoReturn:
    raise AssertionError(f"{word} in JSON")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values that are no containers."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, (dict, list)):
            yield from leaves(item, (*path, key))
        else:
            yield (*path, key)


@pytest.mark.parametrize("written", ["NaN", "-Infinity", "1e999", "1" + 400 * "0"])
def test_a_number_that_json_does_not_have_is_never_printed_on(project, cli, written):
    run = kept(project, result())
    assert run.path is not None
    file = run.path / "run.json"
    data = json.loads(file.read_bytes())
    data["scalars"] = {"one": 1.0}
    every = list(leaves(data))
    places = every[:: max(1, len(every) // 7)]
    if written.isdigit():  # of the wrong type elsewhere
        places = [("provenance", "record", "seconds")]
    for path in [*places, ("scalars", "one")]:
        altered = json.loads(json.dumps(data))
        inner = altered
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = "HERE"
        file.write_text(json.dumps(altered).replace('"HERE"', written))
        for command in _COMMANDS:
            words = [run.id8 if word == "RUN" else word for word in command]
            status, out, err = cli(*words)
            about = (path, words, status, out, err)
            assert "unexpected" not in err and "Traceback" not in err, about
            assert "Out of range" not in err, about
            if out and (words[-1] == "--json" or words[1] == "show"):
                json.loads(out, parse_constant=refuse)

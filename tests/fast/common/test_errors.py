"""Every error survives the way between processes; values are checked against annotations."""

from __future__ import annotations

import copy
import importlib
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

import remote_mi
from remote_mi.backends.errors import from_record, to_record
from remote_mi.common.annotated_types import fits, shown, words
from remote_mi.common.errors import RemoteMIError
from remote_mi.common.text import encoding_problem
from remote_mi.prompts.errors import PromptErrors

PACKAGE = Path(remote_mi.__file__).parent


def subclasses(of: type[RemoteMIError]) -> Iterator[type[RemoteMIError]]:
    yield of
    for kind in of.__subclasses__():
        yield from subclasses(kind)


def all_errors() -> list[type[RemoteMIError]]:
    """Every class of error in the package, by importing the modules that define them."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    bases = [
        (path, *found)
        for path, text in texts.items()
        for found in re.findall(r"^class (\w+)\((\w+)\)", text, re.MULTILINE)
    ]
    names = {"RemoteMIError"}
    while added := {name for _, name, base in bases if base in names} - names:
        names |= added
    for path in {path for path, name, _ in bases if name in names}:
        importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    ours = [kind for kind in subclasses(RemoteMIError) if kind.__module__.startswith("remote_mi.")]
    assert {kind.__name__ for kind in ours} >= names
    return ours


def test_every_error_survives_the_way_between_processes():
    for kind in all_errors():
        error = kind.__new__(kind, "what")
        error.message, error.hint = "what", "what to do"
        error.more = 3  # type: ignore[attr-defined]
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is kind and again.exit_code == kind.exit_code
            assert str(again) == "what\n  what to do" and again.args == ("what",)
            assert again.more == 3
        stored = from_record(to_record(error))
        assert str(stored) == str(error)


def test_the_error_of_many_prompts_keeps_what_is_wrong_with_each():
    error = PromptErrors({1: "pair 2: too long"}, 3)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.failures) == (str(error), {1: "pair 2: too long"})


@pytest.mark.parametrize(
    "value, hint, expected",
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (1.5, int, False),
        (None, int | None, True),
        ("a", str | Path | None, True),
        (b"a", str | Path | None, False),
        ("b", Literal["a"], False),
        (["a"], tuple[str, ...], True),
        ("a", tuple[str, ...], False),
        ({1: "a"}, dict[str, str], False),
        ({"a": object()}, dict[str, Any], True),
    ],
)
def test_a_value_is_checked_against_an_annotation(value, hint, expected):
    assert fits(value, hint) is expected
    assert expected or words(hint)


def test_values_of_any_kind_can_be_shown():
    assert shown(object()) == "an object of type object"
    assert shown(10**5000) == "a huge number" and len(shown("a" * 999)) < 70
    assert encoding_problem("a\ud800").startswith("holds U+D800 at character 2")

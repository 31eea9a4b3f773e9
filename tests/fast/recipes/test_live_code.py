"""The key of a recipe that is defined in a notebook or prompt."""

from __future__ import annotations

import functools

import pytest

from remote_mi import recipe
from remote_mi.common.errors import UsageError
from remote_mi.recipes.live_code import live_code_digest, live_code_parts

FACTOR = 3
#: Hidden by the recipe's arguments, as often in a notebook; neither could be part of a key.
lm = prompt = object()


class Scale:
    def apply(self, x):
        return x * FACTOR


@functools.cache
def scaled(x):
    return Scale().apply(x)


@recipe(over="prompt", returns={"x": ()})
def mine(lm, prompt):
    """Mine."""
    return {"x": scaled(1.0)}


def made_with(factor, change):
    """A recipe inside a function, which reads its variables."""

    def helper(x):
        return x * factor

    @recipe(over="prompt", returns={"x": ()})
    def inner(lm, prompt):
        """Inner."""
        return {"x": change(helper(1.0))}

    return inner


def test_variables_of_the_function_around_a_recipe_are_in_its_key(tmp_path):
    def digest(factor, change):
        return live_code_digest(made_with(factor, change), tmp_path)

    plus, minus = made_helper(1), made_helper(-1)
    assert digest(1, plus) == digest(1, plus)
    assert len({digest(1, plus), digest(2, plus), digest(1, minus), digest(1, scaled)}) == 4


def test_two_definitions_of_one_name_are_both_in_the_key(tmp_path):
    def both(first, second):
        @recipe(over="prompt", returns={"x": ()})
        def inner(lm, prompt):
            return {"x": first(second(1.0))}

        return live_code_digest(inner, tmp_path)

    half = made_helper(0.5)
    assert both(half, made_helper(2)) != both(half, made_helper(3))
    assert both(half, made_helper(2)) != both(made_helper(2), half)


def made_helper(factor):
    def helper(x):
        return x * factor

    return helper


def test_what_wrapped_functions_and_methods_reach_is_in_the_key(tmp_path, monkeypatch):
    parts = live_code_parts(mine, tmp_path)
    assert set(parts) == {"live:mine", "live:scaled", "live:Scale", "live:FACTOR"}
    monkeypatch.setitem(globals(), "FACTOR", 4)
    assert live_code_parts(mine, tmp_path)["live:FACTOR"] != parts["live:FACTOR"]


def test_a_method_of_an_object_cannot_be_part_of_a_key(tmp_path):
    bound = Scale().apply

    @recipe(over="prompt", returns={"x": ()})
    def inner(lm, prompt):
        return {"x": bound(1.0)}

    with pytest.raises(UsageError, match=r"'bound' \(method\)"):
        live_code_digest(inner, tmp_path)

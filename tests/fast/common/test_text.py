"""Texts in tables look different where they are."""

from __future__ import annotations

import random

import pytest

from remote_mi.common.text import distinguishable, pad_or_cut

LONG = "When Mary and John went to the store on a sunny morning, "


@pytest.mark.parametrize(
    "texts",
    [
        [f"{LONG}{a}" for a in ("Mary gave", "John gave", "Mary took")],
        [f"{start} {LONG * 3}{a}" for start in ("So", "Then") for a in ("Mary", "John")],
        [LONG, f"{LONG}Mary", f"{LONG}Mary and", "Other"],
        [f"{'x' * 300}{a}" for a in "abc"] + ["y"],
    ],
)
@pytest.mark.parametrize("width", [24, 40])
def test_prompts_that_begin_alike_show_what_differs(texts, width):
    shown = [pad_or_cut(text, width) for text in distinguishable(texts, width)]
    assert len(set(shown)) == len(set(texts)), shown


def test_random_texts_that_differ_look_different():
    rng = random.Random(0)
    for _ in range(300):
        words = [rng.choice(["a", "the", "store", "Mary", "went to"]) for _ in range(30)]
        texts = {
            " ".join([*words[:k], rng.choice("xyz"), *words[k:]])
            for k in rng.choices(range(30), k=4)
        }
        ordered = sorted(texts)
        shown = distinguishable(ordered, 24)
        assert len({pad_or_cut(text, 24) for text in shown}) == len(ordered), shown


def test_texts_that_are_told_apart_stay_as_they_are():
    texts = ["Mary went", "John went", "Mary went"]
    assert distinguishable(texts, 24) == texts
    assert distinguishable(["same"] * 3, 24) == ["same"] * 3

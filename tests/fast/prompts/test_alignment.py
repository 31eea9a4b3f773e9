"""Which positions of prompts of unequal length correspond, and which pairs are refused."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from remote_mi.common.errors import UsageError
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.alignment import Side, matching_positions
from remote_mi.prompts.choice import PromptChoice
from remote_mi.prompts.choices import DoesNotFit
from remote_mi.prompts.errors import PromptErrors
from remote_mi.prompts.examples import parse_example
from remote_mi.prompts.phenomena import load
from remote_mi.prompts.reading import read_prompts
from remote_mi.prompts.tokens import tokenize

from ...conftest import MARY

BOS = 99
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def word_tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


def matched(align: str, clean: str, corrupt: str, labels=None, others=None) -> list[int | None]:
    """Of prompts with one token a letter, whose last is where the answer is read."""
    sides = [
        Side([BOS if c == "^" else ord(c) for c in text], len(text) - 1, spans or {})
        for text, spans in ((clean, labels), (corrupt, others or labels))
    ]
    return matching_positions(align, *sides, {BOS})


@pytest.mark.parametrize(
    "clean, corrupt, expected",
    [
        ("abcd", "abxcd", [0, 1, 3, 4]),  # one more: nothing corresponds to it
        ("abxcd", "abcd", [0, 1, None, 2, 3]),
        ("abXcd", "abUVWcd", [0, 1, 4, 5, 6]),  # the last of what differs
        ("abUVWcd", "abXcd", [0, 1, None, None, 2, 3, 4]),
        ("abX", "abUV", [0, 1, 3]),  # the answer's position is the last of what differs
        ("abU", "ab", [0, None, 1]),  # one prompt begins the other: both ends still correspond
        ("ab", "abUb", [0, 3]),
        ("aab", "aaab", [0, 1, 3]),  # the beginning first
        ("^Xcd", "^UVcd", [0, 2, 3, 4]),
    ],
)
def test_what_begins_and_ends_alike_corresponds_and_the_last_of_the_rest(clean, corrupt, expected):
    assert matched("ends", clean, corrupt) == expected


@pytest.mark.parametrize(
    "clean, labels, corrupt, others, expected",
    [
        # The same number of tokens under a label: one by one.
        ("aXYbc", {"x": (1, 2)}, "aUVbbc", {"x": (1, 2)}, [0, 1, 2, 3, 5]),
        # Another number: the last with the last.
        ("aXYbc", {"x": (1, 2)}, "aUbc", {"x": (1, 1)}, [0, None, 1, 2, 3]),
        # Between two labels of equal distance token by token, otherwise what is alike.
        (
            "XpqYc",
            {"x": (0, 0), "y": (3, 3)},
            "UrsVdc",
            {"x": (0, 0), "y": (3, 3)},
            [0, 1, 2, 3, 5],
        ),
        (
            "XpqrYc",
            {"x": (0, 0), "y": (4, 4)},
            "UpsurVc",
            {"x": (0, 0), "y": (5, 5)},
            [0, 1, None, 4, 5, 6],
        ),
        # A label at the end: the answer is read at its last token.
        ("abXY", {"x": (2, 3)}, "abU", {"x": (2, 2)}, [0, 1, None, 2]),
        ("abX", {"x": (2, 2)}, "aacbUV", {"x": (4, 5)}, [0, 3, 5]),
    ],
)
def test_labels_correspond_and_what_lies_between(clean, labels, corrupt, others, expected):
    assert matched("labels", clean, corrupt, labels, others) == expected


def test_correspondence_is_one_to_one_in_order_and_the_same_both_ways():
    draw = random.Random(0)
    count = 0
    for size, more in itertools.product(range(2, 8), range(1, 5)):
        clean = "a" + "".join(draw.choices("abc", k=size))
        corrupt = "a" + "".join(draw.choices("abc", k=size + more))
        span, other = sorted(draw.sample(range(1, size), 1) * 2), (2, 2 + draw.randrange(more))
        for align in ("ends", "labels"):
            labels, others = {"x": (span[0], span[1])}, {"x": other}
            there = matched(align, clean, corrupt, labels, others)
            back = matched(align, corrupt, clean, others, labels)
            pairs = [(p, q) for p, q in enumerate(there) if q is not None]
            assert pairs == sorted((q, p) for p, q in enumerate(back) if q is not None)
            assert [q for _, q in pairs] == sorted({q for _, q in pairs})
            assert pairs[-1] == (len(clean) - 1, len(corrupt) - 1)
            count += len(pairs)
    assert count > 100


@pytest.mark.parametrize(
    "labels, others, said",
    [
        ({"x": (1, 1)}, {"y": (1, 1)}, "the label 'x' stands in the clean prompt alone"),
        ({"x": (1, 1)}, {"x": (1, 1), "y": (2, 2)}, "'y' stands in the corrupt prompt alone"),
        ({}, {}, "it has no labels to be aligned by"),
        (
            {"x": (0, 0), "y": (1, 1)},
            {"x": (2, 2), "y": (1, 1)},
            "its labels are in another order: x, y, end in the clean prompt, y, x, end in the",
        ),
        ({"x": (0, 1), "y": (1, 2)}, {"x": (0, 0), "y": (1, 2)}, "labels 'x' and 'y' overlap"),
        ({"x": (2, 3)}, {"x": (2, 2)}, "labels 'x' and 'end' overlap"),
    ],
)
def test_labels_that_do_not_tell_what_corresponds_are_refused(labels, others, said):
    with pytest.raises(DoesNotFit) as refused:
        matched("labels", "abcd", "abcde", labels, others)
    assert said in str(refused.value)


@pytest.mark.parametrize("clean, corrupt", [("abc", "defg"), ("^abc", "^de"), ("^ab", "^ub^d")])
def test_prompts_with_nothing_in_common_but_what_every_prompt_begins_with_are_refused(
    clean, corrupt
):
    with pytest.raises(DoesNotFit, match="the two prompts neither begin nor end alike"):
        matched("ends", clean, corrupt)


# -- as it is said -------------------------------------------------------------------------------

PAIR = {**MARY, "corrupt": MARY["corrupt"].replace("John", "the John")}


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"align": "middle"}, "align is 'middle'"),
        ({"align": ["ends"]}, "align is ['ends']"),
        ({"align": ""}, "align is ''"),
        (
            {"corrupt_labels": {"x": "the Paris"}},
            "label 'x': 'the Paris' occurs 0 times in the cor",
        ),
        ({"corrupt_labels": {"x": "to"}}, "label 'x': 'to' occurs 3 times in the corrupt text"),
        ({"corrupt_labels": ["x"]}, "field 'corrupt_labels' does not name words: ['x']"),
    ],
)
def test_a_record_that_cannot_be_aligned_so_is_refused(changed, said):
    with pytest.raises(UsageError) as refused:
        parse_example({**PAIR, **changed})
    assert said in refused.value.message


@pytest.mark.parametrize("field", [{"align": "ends"}, {"corrupt_labels": {"x": "y"}}])
def test_a_single_prompt_is_not_aligned(field):
    with pytest.raises(UsageError, match="belongs to a pair"):
        parse_example({"prompt": "To be", **field})
    with pytest.raises(UsageError, match="--align belongs to pairs"):
        PromptChoice(texts={"prompt": "To be"}, align="ends").resolve("/nowhere")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="align is 'middle'"):
        PromptChoice(texts=PAIR, align="middle").resolve("/nowhere")  # type: ignore[arg-type]


def test_alignment_enters_the_key_only_where_it_is_asked_for():
    plain, aligned = parse_example(PAIR).to_json(), parse_example({**PAIR, "align": "ends"})
    assert "align" not in plain and aligned.to_json() == {**plain, "align": "ends"}
    chosen = PromptChoice(texts=PAIR, align="ends").resolve("/nowhere")  # type: ignore[arg-type]
    assert chosen.examples[0].to_json() == aligned.to_json()


def test_files_say_it_row_by_row(tmp_path):
    labels = {"labels": {"first": "Mary"}, "corrupt_labels": {"first": "the John"}}
    table, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    row = {**PAIR, "corrupt": PAIR["corrupt"].replace("Mary and", "A and"), "align": "labels"}
    lines.write_text(json.dumps({**row, **labels}))
    cells = [*row.values(), *(json.dumps(value) for value in labels.values())]
    quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
    table.write_text(",".join([*row, *labels]) + "\n" + quoted + "\n")
    one, other = (read_prompts(str(path)).examples[0] for path in (table, lines))
    assert one == other and one.align == "labels"
    first, last = one.corrupt_labels["first"]
    assert (one.corrupt or "")[first:last] == "the John"


PHENOMENON = """
name: odd
title: Cities
source: none
order: list
lists: {facts: [{c: Paris, of: France}, {c: New York City, of: America}]}
draw: {x: facts, y: facts}
align: labels
templates:
  one: {clean: "{x.c:city} is in", corrupt: "CORRUPT"}
answer: " {x.of}"
wrong: " {y.of}"
"""


def test_a_phenomenon_aligns_its_pairs(tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text(PHENOMENON.replace("CORRUPT", "{y.c:city} is in"))
    examples = load(path).prompts(2).examples
    assert {example.align for example in examples} == {"labels"}
    assert examples[0].corrupt_labels == {"city": (0, 13)}


@pytest.mark.parametrize(
    "name", ["french_agreement", "german_case", "german_gender", "spanish_inflection"]
)
def test_pairs_in_other_languages_do_not_depend_on_how_a_tokenizer_splits_words(name):
    """One token a letter: the words that differ have as many as they have letters."""
    examples = load(ROOT / "recipes" / "phenomena" / f"{name}.yaml").prompts().examples
    unequal = 0
    for example in examples:
        texts = example.clean, example.corrupt or ""
        sides = [
            Side(
                [ord(c) for c in text],
                len(text) - 1,
                {k: (a, b - 1) for k, (a, b) in spans.items()},
            )
            for text, spans in zip(texts, (example.labels, example.corrupt_labels), strict=True)
        ]
        if len(texts[0]) == len(texts[1]):
            continue
        unequal += 1
        matches = matching_positions(example.align, *sides, set())
        for label, (_, stop) in example.labels.items():
            assert matches[stop - 1] == example.corrupt_labels[label][1] - 1, label
        same = [p for p, q in enumerate(matches) if q is not None and texts[0][p] == texts[1][q]]
        covered = {p for a, b in example.labels.values() for p in range(a, b)}
        assert {*range(len(texts[0]))} - {*same} <= covered, "all between the labels is alike"
    assert unequal > len(examples) / 3


@pytest.mark.parametrize(
    "corrupt, align, said",
    [
        ("{y.c} is in", "labels", "in both prompts: city in clean and y in corrupt"),
        ("It is in", "labels", "in both prompts: city in clean and none in corrupt"),
        ("{y.c:city} is in", "middle", "align is 'middle'"),
        ("{y.c:city} is in", "true", "align is True"),
    ],
)
def test_a_phenomenon_whose_prompts_cannot_be_aligned_is_refused_with_its_line(
    tmp_path, corrupt, align, said
):
    path = tmp_path / "odd.yaml"
    path.write_text(
        PHENOMENON.replace("CORRUPT", corrupt).replace("align: labels", f"align: {align}")
    )
    with pytest.raises(UsageError) as refused:
        load(path)
    assert said in refused.value.message and f"{path}:" in refused.value.message


def test_what_fits_no_tokenizer_is_named_with_its_pair_and_can_be_dropped(word_tokenizer, project):
    good = {**PAIR, "corrupt": MARY["corrupt"].replace(", Mary", ", the Mary"), "align": "ends"}
    bad = {**good, "align": "labels"}
    prompts = PromptChoice(pairs=[bad, good]).resolve(project)
    with pytest.raises(PromptErrors, match=r"pair 1 .*: it has no labels to be aligned by"):
        tokenize(word_tokenizer, prompts, ModelSpec(), "pair", 64)
    made = tokenize(word_tokenizer, prompts, ModelSpec(), "pair", 64, drop=True)
    assert list(made.dropped) == [0] and len(made.prompts) == 1
    assert made.warnings == [
        "1 pair of prompts of unequal length, aligned by ends: nothing is patched at a position "
        "without a counterpart in the other prompt, and its effect is empty"
    ]
    pair = made.prompts[0]
    assert pair.clean.matches == [*range(9), 10, 11, 12, 13, 14] and pair.first_difference == 9
    assert pair.corrupt.matches == [*range(9), None, 9, 10, 11, 12, 13]
    assert (pair.end, pair.corrupt.end) == (13, 14) == (pair.clean.start, pair.corrupt.start)
    assert pair.corrupt.positions["end"] == 14


def test_a_recipe_that_needs_equal_lengths_says_why(word_tokenizer, project):
    good = {**PAIR, "corrupt": MARY["corrupt"].replace(", Mary", ", the Mary"), "align": "ends"}
    prompts = PromptChoice(pairs=[good, MARY]).resolve(project)
    with pytest.raises(PromptErrors, match="' John' against ' the': it compares them"):
        tokenize(word_tokenizer, prompts, ModelSpec(), "pair", 64, why_equal="it compares them")


def test_the_masks_of_a_pair_correspond_and_as_many_tokens_follow_both(tiny, project):
    tokenizer = AutoTokenizer.from_pretrained(tiny("bert"))
    words = {"answer": " Mary", "wrong": " John", "align": "ends"}
    good = {"clean": "When John gave [MASK] the store", "corrupt": "When [MASK] a store", **words}
    bad = {**good, "corrupt": "When [MASK] store"}

    def made(pair):
        prompts = PromptChoice(pairs=[pair]).resolve(project)
        given = {"masked": True, "bidirectional": True}
        return tokenize(tokenizer, prompts, ModelSpec(), "pair", 64, **given).prompts[0]

    pair = made(good)
    assert (pair.end, pair.corrupt.end) == (4, 2) and pair.clean.ids[4] == pair.corrupt.ids[2]
    assert pair.clean.matches == [0, 1, None, None, 2, 3, 4, 5]  # [CLS] … [MASK] … [SEP]
    with pytest.raises(
        PromptErrors, match="3 tokens follow the mask of the clean prompt, and 2 that"
    ):
        made(bad)

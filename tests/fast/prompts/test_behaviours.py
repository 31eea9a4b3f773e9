"""What may be asked of a continuation: how it is read, and when a text shows it."""

from __future__ import annotations

import time

import pytest
import yaml

import remote_mi as mi
from remote_mi.common.errors import RemoteMIError, UsageError
from remote_mi.prompts import phenomena
from remote_mi.prompts.behaviours import LANGUAGES, SlowPattern, parse_behaviour
from remote_mi.prompts.examples import parse_example

PROMPT = "When Mary and John went to the store, John"
LANGUAGE = pytest.importorskip("py3langid", reason="it tells languages") and "language"


@pytest.mark.parametrize(
    "asked, text, shown",
    [
        ({"contains": ["sorry", "cannot"]}, " I'm Sorry, no.", True),
        ({"contains": ["sorry", "cannot"]}, " Of course.", False),
        ({"contains": "Straße"}, "die STRASSE", True),
        ({"contains": [" no "]}, "I know", False),
        ({"begins_with": ["No", "Never"]}, "\n never again", True),
        ({"begins_with": ["No"]}, "I say no", False),
        ({"matches": r"\d{4}"}, "in 1832.", True),
        ({"matches": r"^\d"}, " 1832", False),
        ({"matches": "(?i)mary"}, "MARY", True),
        ({"matches": r"\S"}, "", False),
        ({LANGUAGE: "de"}, " und ich gehe heute in die Schule.", True),
        ({LANGUAGE: "de"}, " and today I go to school.", False),
        ({LANGUAGE: "en"}, "12 34 !", False),
        ({LANGUAGE: "zh"}, "我今天去学校。", True),
        ({LANGUAGE: "en"}, "", False),
        ({"yes_no": "Text: {text}\nIs it rude?"}, "anything", None),
    ],
)
def test_a_text_shows_a_behaviour_or_does_not(asked, text, shown):
    behaviour = parse_behaviour(asked)
    assert behaviour.shown_by(text) is shown
    assert parse_behaviour(behaviour.to_json()) == behaviour


def test_the_languages_are_those_of_the_library():
    from py3langid.langid import _get_identifier

    assert set(LANGUAGES.split()) == set(_get_identifier().labels) - {"zxx"}


def test_a_regular_expression_cannot_run_for_ever():
    asked = parse_behaviour({"matches": "(a+)+$"})
    started = time.monotonic()
    with pytest.raises(SlowPattern):
        asked.shown_by("a" * 3000 + "b")
    assert time.monotonic() - started < 60  # a second of its own time


BAD = [
    ("language de", "is not one kind with its value"),
    ({}, "is not one kind with its value"),
    ({"contains": ["a"], "language": "de"}, "is not one kind with its value"),
    ({"contain": ["a"]}, "there is no behaviour 'contain'"),
    ({"contains": []}, "has an empty list"),
    ({"contains": [3]}, "3 is not a text"),
    ({"begins_with": [" "]}, "' ' is not a text"),
    ({"contains": ["\ud800"]}, "behaviour 'contains'"),
    ({"matches": "(a"}, "'(a' is not a regular expression"),
    ({"matches": "a" * 1001}, "a regular expression of 1,001 characters"),
    ({"matches": ["a", "b"]}, "takes a text"),
    ({"language": "German"}, "'German' is not the code of a language"),
    ({"yes_no": "Is it rude?"}, "must contain {text} once"),
]


@pytest.mark.parametrize("asked, said", BAD)
def test_a_mistake_in_a_behaviour_is_named(asked, said):
    with pytest.raises(UsageError) as refused:
        parse_example({"prompt": PROMPT, "behaviour": asked})
    assert said in refused.value.message and "\n" not in refused.value.message


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"prompt": PROMPT, "target": " gave"}, "give either 'target' or 'behaviour', not both"),
        (
            {"clean": PROMPT, "corrupt": "Mary", "answer": " a", "wrong": " b"},
            "give either 'answer' or 'behaviour', not both",
        ),
        ({"clean": PROMPT}, "a pair needs 'corrupt'"),
    ],
)
def test_an_answer_beside_a_behaviour_is_refused(fields, said):
    with pytest.raises(UsageError, match=said):
        parse_example({**fields, "behaviour": {"contains": ["a"]}})


PHENOMENON = {
    "name": "french",
    "title": "French",
    "source": "made for this test",
    "order": "list",
    "size": 2,
    "lists": {"words": [{"word": "chat.", "other": "cat"}, {"word": "chien", "other": "dog"}]},
    "draw": {"x": "words"},
    "templates": {"one": {"prompt": "The {x.other:animal} is a"}},
    "behaviour": {"matches": r"{x.word}|\w{3}"},
    "label": "{x.other}",
}


def written(folder, **changed):
    path = folder / "french.yaml"
    content = {k: v for k, v in {**PHENOMENON, **changed}.items() if v is not None}
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    return path


def test_a_phenomenon_asks_for_a_behaviour_of_each_prompt(tmp_path):
    examples = phenomena.load(written(tmp_path)).prompts().examples
    assert [e.clean for e in examples] == ["The cat is a", "The dog is a"]
    assert [e.corrupt for e in examples] == [None, None]
    assert [e.label for e in examples] == ["cat", "dog"]
    # What fills a slot stands for itself; {3} is the expression's own.
    assert [e.behaviour.values[0] for e in examples] == [r"chat\.|\w{3}", r"chien|\w{3}"]
    pairs = {"one": {"clean": "Le {x.word:animal} est", "corrupt": "The {x.other} is"}}
    examples = phenomena.load(written(tmp_path, templates=pairs)).prompts().examples
    assert (examples[0].clean, examples[0].corrupt, examples[0].answer) == (
        "Le chat. est",
        "The cat is",
        None,
    )


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"answer": " a", "wrong": " b"}, "give either 'answer' or 'behaviour', not both"),
        ({"metric": "prob"}, "give either 'metric' or 'behaviour', not both"),
        ({"behaviour": None}, "the key 'answer' is missing"),
        ({"behaviour": {"matches": "(("}}, "is not a regular expression"),
        ({"behaviour": {"language": "xx"}}, "is not the code of a language"),
        ({"templates": {"one": {"prompt": "a", "clean": "b"}}}, "or 'prompt'"),
        (
            {"templates": {"one": {"prompt": "a"}, "two": {"clean": "b", "corrupt": "c"}}},
            "some templates are a prompt, others a pair",
        ),
        ({"behaviour": None, "answer": " a", "wrong": " b"}, "exactly 'clean' and 'corrupt'"),
    ],
)
def test_a_mistake_in_a_phenomenon_is_located(tmp_path, changed, said):
    path = written(tmp_path, **changed)
    with pytest.raises(UsageError) as refused:
        phenomena.load(path)
    assert said in str(refused.value) and str(path) in str(refused.value)


ASKED = {"prompt": PROMPT, "behaviour": {"contains": ["a"]}}


@pytest.mark.parametrize(
    "recipe, pairs, parameters, said",
    [
        ("behaviour", [{"prompt": PROMPT}], {}, "prompt 1 does not say by what"),
        (
            "activation_patching",
            [{"clean": PROMPT, "corrupt": "Mary", "behaviour": {"contains": ["a"]}}],
            {},
            "reads answers; prompt 1 asks for a behaviour",
        ),
        ("behaviour", [ASKED], {"steps": 513}, "513 is not a whole number from 1 to 512"),
        ("behaviour", [ASKED], {"temperature": -1}, "-1 is not a number from 0 to 10"),
        ("behaviour", [ASKED], {"draws": 2}, "2 draws at temperature 0 are the same text"),
        ("behaviour", [{**ASKED, "prompt": "store " * 64}], {}, "the model takes 64"),
    ],
)
def test_what_cannot_be_asked_of_a_recipe_is_refused(
    project, tiny, recipe, pairs, parameters, said
):
    with pytest.raises(RemoteMIError) as refused:
        mi.run(recipe, model=tiny("llama"), pairs=pairs, parameters=parameters)
    assert said in str(refused.value)


def test_an_encoder_is_not_asked_for_a_behaviour(project, tiny):
    with pytest.raises(UsageError, match=r"behaviour cannot run on .* it is an encoder"):
        mi.run("behaviour", model=tiny("bert"), pairs=[ASKED])

"""Mistakes that the prompts and the configuration tell are said before a model is loaded."""

from __future__ import annotations

import json

import pytest

import remote_mi as mi
from remote_mi.common.errors import UsageError
from remote_mi.models import load

PROMPTS = [{"prompt": "Mary went", "label": "a"}, {"prompt": "John went", "label": "b"}]


@pytest.fixture
def no_model(tiny_llama, monkeypatch):
    """A model's folder that may be described, and not loaded."""

    def refuse(*_args, **_named):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(load, "load", refuse)
    return tiny_llama


@pytest.mark.parametrize(
    "recipe, given, said, hint",
    [
        (
            "attention_patterns",
            {"prompt": "Mary", "layers": [0, 9]},
            "there is no layer 9",
            "layers=",
        ),
        (
            "steering",
            {"phenomenon": "ioi", "n": 1, "folds": 2},
            "1 pairs cannot be dealt into 2",
            "folds=1",
        ),
        ("linear_probe", {"pairs": PROMPTS}, "2 prompts cannot be dealt into 5", "folds=2"),
        (
            "causal_tracing",
            {"prompt": "Mary", "target": " John"},
            "no label 'subject'",
            "--subject-start",
        ),
    ],
)
def test_what_does_not_exist_is_told_before_the_model_is_loaded(
    project, no_model, recipe, given, said, hint
):
    with pytest.raises(UsageError, match=said) as refused:
        mi.run(recipe, model=no_model, **given)
    assert hint in (refused.value.hint or "")
    with pytest.raises(UsageError, match=said):
        mi.plan(recipe, model=no_model, **given)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("steering", "--pairs", "p.jsonl", "--seed", "3"), "is -p seed=3"),
        (("head_detectors", "--seed", "3"), "recipe 'head_detectors' takes no prompts"),
        (("logit_lens", "-p", "prompt=a", "--seed", "3"), "leave it out"),
    ],
)
def test_a_seed_says_where_else_the_word_is_known(project, no_model, cli, arguments, said):
    pair = {"clean": "a", "corrupt": "b", "answer": " x", "wrong": " y"}
    (project / "p.jsonl").write_text(json.dumps(pair) + "\n")
    code, out, err = cli("run", *arguments, "--model", no_model)
    assert code == 2 and out == "" and "--seed belongs to a phenomenon" in err and said in err


def test_help_says_where_the_recipes_own_seed_is(cli, project):
    code, out, _ = cli("run", "steering", "--help")
    assert code == 0 and "The recipe's own is -p seed=" in " ".join(out.split())

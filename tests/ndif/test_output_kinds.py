"""Outputs that are texts and JSON values, from a genuine server: the same as from this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import remote_mi as mi
from remote_mi.store.result import Result
from remote_mi.store.runs import Runs
from remote_mi.store.studies import StudyRecords

from .conftest import TINY_LLAMA, Terminal

#: Text and JSON made of what only the model knows: the words and logits that it finds likeliest.
RECIPE = '''"""Says what a model would say."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi import Bars, Json, Text, Texts, recipe
from remote_mi.interventions import Prompt, run, unembed

HOSTILE = ["", "\\x1b[31mred", "漢字 é\\n", "\\ud800", "x" * 20_000]


@recipe(
    over="prompt",
    returns={
        "word": Texts(),
        "words": Texts("layer"),
        "hostile": Texts("kind"),
        "facts": Json(),
        "each": Json("layer"),
        "top": ("layer",),
    },
    labels={"layer": "words"},
    figures=[Text("word"), Text("facts"), Bars("top")],
)
def saying(lm: Any, prompt: Prompt, *, digits: int = 3, fail: str = "") -> dict[str, Any]:
    """The likeliest word at the end, read from every layer, and what is known of it."""
    stream = [resid_post[0, -1] for resid_post in run(lm, prompt, "resid_post").values]
    scores = unembed(lm, torch.stack(stream))  # [layer, vocabulary]
    top, ids = scores.max(-1)
    words = [f"token {int(i)}" for i in ids]
    each = [{"id": int(i), "logit": round(float(x), digits)} for i, x in zip(ids, top)]
    facts = {"size": len(prompt.ids), "none": None, "deep": {"é": [1, [True, "\\u202e"]]}}
    return {
        "word": 3 if fail == "word" else words[-1],
        "words": words,
        "hostile": list(HOSTILE),
        "facts": {**facts, "tensor": ids.cpu(), "nan": float("nan")} if fail == "facts"
        else {**facts, "tensor": ids.cpu()},
        "each": each,
        "top": top,
    }
'''
PAIRS = [{"prompt": "When Mary and John went to the store"}, {"prompt": "Mary and John"}]
KINDS = ("word", "words", "hostile", "facts", "each")


@pytest.fixture
def saying(terminal: Terminal) -> Terminal:
    """A terminal in a project with the recipe, and a file of two prompts."""
    (terminal.project / "recipes" / "saying.py").write_text(RECIPE, encoding="utf-8")
    lines = "".join(json.dumps(pair) + "\n" for pair in PAIRS)
    (terminal.project / "pairs.jsonl").write_text(lines)
    return terminal


def near(project: Path, model: Path) -> Result:
    return mi.run("saying", model=str(model), pairs=PAIRS, project=project, backend="local")


def command(*options: object) -> list[object]:
    return [
        "run",
        "saying",
        "--model",
        TINY_LLAMA,
        "--backend",
        "ndif",
        "--pairs",
        "pairs.jsonl",
        *options,
    ]


def assert_same(far: Result, here: Result) -> None:
    """Every text and JSON value is the same, for each prompt; numbers within rounding."""
    for name in KINDS:
        ours = [array.values.tolist() for array in here.each(name)]
        theirs = [array.values.tolist() for array in far.each(name)]
        assert theirs == ours, name
        assert len(ours) == len(PAIRS)
    for ours, theirs in zip(here.each("top"), far.each("top"), strict=True):
        assert theirs.values == pytest.approx(ours.values, abs=1e-5)
        assert theirs.coords["layer"] == ours.coords["layer"]


def test_texts_and_json_from_a_server_equal_those_of_this_machine(saying, tiny_llama):
    done = saying.run(*command("--json"))
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    here = near(saying.project, tiny_llama)
    far = Runs(saying.project).read(shown["run"])
    assert far.provenance["environment"]["kind"].startswith("ndif")
    assert_same(far, here)
    words = [array.item() for array in far.each("word")]
    assert all(word.startswith("token ") for word in words)
    facts = here.each("facts")[0].item()
    assert facts["deep"] == {"é": [1, [True, "\u202e"]]} and facts["none"] is None
    assert len(facts["tensor"]) == len(here.each("words")[0].values)
    assert saying.run("compare", shown["run"], here.run_id).returncode == 0


def test_the_collector_and_a_study_keep_texts_and_json(saying, tiny_llama):
    left = saying.run(*command("--detach"))
    assert left.returncode == 0, left.stderr
    (entry,) = saying.until("done")
    here = near(saying.project, tiny_llama)
    assert_same(Runs(saying.project).read(entry.run), here)
    study: dict[str, Any] = {
        "study": "said",
        "title": "Said",
        "models": [TINY_LLAMA],
        "backend": "ndif",
        "phenomena": [{"pairs": "pairs.jsonl"}],
        "recipes": [{"saying": {"digits": [2, 3]}}],
    }
    (saying.project / "said.yaml").write_text(yaml.safe_dump(study))
    done = saying.run("study", "run", "said.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    two, three = StudyRecords(saying.project).read("said").points
    assert three.run == entry.run, "it was there already"
    assert two.run is not None
    coarse = Runs(saying.project).read(two.run)
    rounded = [round(fact["logit"], 2) for fact in here.each("each")[0].values.tolist()]
    assert [fact["logit"] for fact in coarse.each("each")[0].values.tolist()] == pytest.approx(
        rounded, abs=0.011
    )


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("word", "output 'word' is declared as text and holds int"),
        ("facts", "output 'facts' is not JSON"),
    ],
)
def test_what_is_no_text_or_json_is_refused_by_name(saying, which, message):
    done = saying.run(*command("-p", f"fail={which}"))
    assert done.returncode == 1, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr

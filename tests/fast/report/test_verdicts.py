"""What a run says first, which cells it marks, and which words it uses, in thirty situations.

Synthetic outputs of a recipe like activation patching; every medium must say the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html import unescape
from typing import Any

import numpy as np
import pytest

from remote_mi.jobs.aggregation import Part, assemble
from remote_mi.recipes.card import Card
from remote_mi.recipes.figures import Bars, Heatmap, Table
from remote_mi.recipes.outputs import Output, Ratio, Share
from remote_mi.report import notebook
from remote_mi.report.document.content import build_report
from remote_mi.report.document.html import html
from remote_mi.report.document.markdown import markdown
from remote_mi.report.summary import summary
from remote_mi.report.terminal import plain_text
from remote_mi.report.viewer.app import Viewer
from remote_mi.report.viewer.header_footer import screen_text
from remote_mi.store.result import Result

from .shown import kept, provenance
from .viewing import driven

SHAPE = (5, 4)
PATCHING = Card(
    "patching",
    "pair",
    {
        "effect": Output(("layer", "position")),
        "control": Output(("draw", "layer", "position")),
        "gap": Output(()),
        "answer_prob": Output(()),
    },
    {"recovery": Ratio("effect", "gap"), "control_recovery": Ratio("control", "gap")},
    (Heatmap("recovery", center=0), Bars("recovery")),
    controls={"effect": "control", "recovery": "control_recovery"},
    doc="Where something is.",
)
TASK = Card(
    "task",
    "pair",
    {"accuracy": Share(), "corrupt_accuracy": Share(), "answer_prob": Output(())},
    {},
    (Bars("accuracy"), Table("accuracy")),
    controls={"accuracy": "corrupt_accuracy"},
    behaviour="accuracy",
    doc="Whether it does the task.",
)


def patching(
    n: int = 8,
    gap: float = 4.0,
    spread: float = 0.5,
    effects: tuple[tuple[tuple[int, int], float], ...] = (((1, 2), 1.0),),
    noise: float = 0.02,
    control: float = 0.02,
    draws: int = 1,
    prob: float = 0.6,
    change: Callable[[list[dict[str, Any]]], None] | None = None,
    copies: int = 1,
    templates: int = 1,
    seed: int = 0,
) -> Result:
    """A result of n pairs: a gap, some cells with this share of it, noise elsewhere."""
    rng = np.random.default_rng(seed)
    outputs = []
    for _ in range(n):
        total = rng.normal(gap, spread)
        effect = rng.normal(0, noise, SHAPE)
        for at, share in effects:
            effect[at] += share * total
        made = {
            "effect": effect,
            "control": rng.normal(0, control, (draws, *SHAPE)),
            "gap": total,
            "answer_prob": prob,
        }
        outputs += [made] * copies
    if change is not None:
        change(outputs)
    return assembled(PATCHING, outputs, copies, templates)


def task(right: int, n: int, corrupt: int = 0, prob: float = 0.5) -> Result:
    """A result of a task that the model does in some of n pairs."""
    outputs = [
        {"accuracy": i < right, "corrupt_accuracy": i < corrupt, "answer_prob": prob}
        for i in range(n)
    ]
    return assembled(TASK, outputs)


def assembled(card: Card, outputs: list[dict[str, Any]], copies: int = 1, templates: int = 1):
    parts = []
    for index, made in enumerate(outputs):
        arrays = {name: np.asarray(value, np.float32) for name, value in made.items()}
        words, which = ["When", " Mary", " and", " to"], index % templates
        text = {"clean": f"{''.join(words)} {index // copies}", "corrupt": "c", "answer": " a"}
        labels = {"name": 1, "end": 3} if which else {"end": 3, "name": 1}
        cluster = str(index // copies)
        parts.append(Part(arrays, words, labels, f"t{which}", {**text, "wrong": " b"}, cluster))
    made = assemble(card, parts)
    document = {
        "parts": [{"tokens": p.tokens, "labels": dict(p.labels), **p.text} for p in parts],
        **made.document,
        "notes": made.notes,
        "vocabulary": {},
    }
    return Result(card.to_json(), document, made.arrays, provenance())


def turn(outputs: list[dict[str, Any]]) -> None:
    """What is seen when answer and wrong are exchanged: every number has the other sign."""
    for made in outputs:
        made.update(effect=-made["effect"], control=-made["control"], gap=-made["gap"])


def one_nan(outputs: list[dict[str, Any]]) -> None:
    outputs[2]["gap"] = outputs[2]["effect"] = np.nan
    outputs[2]["effect"] = np.full(SHAPE, np.nan)


def zero(outputs: list[dict[str, Any]]) -> None:
    for made in outputs:
        made["effect"] = np.zeros(SHAPE)


def tiny(outputs: list[dict[str, Any]]) -> None:
    """A cell that is 0 up to rounding beside effects of size."""
    for made in outputs:
        made["effect"][0, 0], made["control"][:, 0, 0] = 5.5e-8, 2.9e-6


def tie(outputs: list[dict[str, Any]]) -> None:
    for made in outputs:
        made["effect"] = np.where(np.arange(4) == 2, made["gap"], 0.0) * np.ones(SHAPE)


def inconsistent(outputs: list[dict[str, Any]]) -> None:
    """Effects of either sign, pair by pair."""
    for index, made in enumerate(outputs):
        made["effect"] = np.full(SHAPE, 3.0 * (-1) ** index + 0.1)


def other_sign(outputs: list[dict[str, Any]]) -> None:
    """A control that does as much in the other direction, everywhere."""
    for made in outputs:
        made["control"] = -1.2 * made["effect"][None]


def of_one_law(outputs: list[dict[str, Any]]) -> None:
    rng = np.random.default_rng(5)
    for made in outputs:
        made["effect"], made["control"] = rng.normal(0, 1, SHAPE), rng.normal(0, 1, (1, *SHAPE))


MAIN, ONCE = {(1, 2)}, r"The model does this: gap \+"


@dataclass
class Case:
    """A situation. told: the cells that stand out; None if nothing was tested.

    says: a pattern of the verdict. words: patterns of what must be said somewhere in the figures'
    sentences. withheld: whether the ratio is not given.
    """

    result: Callable[[], Result]
    status: str
    says: str
    told: set[tuple[int, ...]] | None = field(default_factory=lambda: set(MAIN))
    words: tuple[str, ...] = ()
    withheld: bool = False


CASES = {
    "as it should be": Case(
        patching, "shown", ONCE + r"3\.\d+, 95% CI \[\+3\.\d+, \+4\.\d+\] over 8 pairs\.$"
    ),
    "90 pairs": Case(lambda: patching(90), "shown", "over 90 pairs"),
    "five pairs": Case(lambda: patching(5), "shown", "over 5 pairs"),
    "four pairs": Case(
        lambda: patching(4), "shown", "over 4 pairs", None, ("5 pairs or 2 draws could",)
    ),
    "three pairs, two draws": Case(
        lambda: patching(3, draws=2), "shown", "over 3 pairs", set(MAIN)
    ),
    "two pairs": Case(
        lambda: patching(2, spread=1.5),
        "undecided",
        "Not told whether",
        None,
        ("Nothing is claimed of effect",),
        True,
    ),
    "one pair": Case(
        lambda: patching(1),
        "single",
        "One pair, which shows nothing about others: gap",
        None,
        ("5 pairs or 19 draws could",),
    ),
    "one pair, 19 draws": Case(lambda: patching(1, draws=19), "single", "One pair", set(MAIN)),
    "one pair, no draws": Case(lambda: patching(1, draws=0), "single", "One pair", None),
    "twelve copies of one pair": Case(
        lambda: patching(1, copies=12),
        "single",
        "12 copies of one pair, which shows nothing",
        None,
        ("1 pair with 1 draw",),
    ),
    "copies": Case(
        lambda: patching(6, copies=3), "shown", "over 18 pairs, of which 6 are independent"
    ),
    "answers swapped": Case(
        lambda: patching(change=turn),
        "opposite",
        r"The model does the opposite: gap -3.*Are answer and wrong, or clean and corrupt, swapped\?",
    ),
    "prompts swapped": Case(lambda: patching(gap=-4.0), "opposite", "8 of 8 point this way"),
    "no effect at all": Case(
        lambda: patching(gap=-0.3, spread=2.0, seed=2),
        "undecided",
        r"Not told whether the model does this: gap .*of 8 point the other way.*So recovery cannot be given",
        withheld=True,
        told=set(),
    ),
    "a gap of 0": Case(
        lambda: patching(gap=0.0, spread=0.0), "undecided", "gap", told=set(), withheld=True
    ),
    "a weak gap": Case(
        lambda: patching(24, gap=0.2, spread=2.0, effects=()),
        "undecided",
        r"About \d+ would tell",
        told=set(),
        withheld=True,
    ),
    "some pairs the other way": Case(
        lambda: patching(24, gap=2.0, spread=2.0),
        "shown",
        r"over 24 pairs; \d+ point the other way",
    ),
    "unlikely answers": Case(
        lambda: patching(prob=1e-6),
        "shown",
        "The answers are not what the model says: together they have 1e-06 of its probability",
    ),
    "likely answers": Case(lambda: patching(prob=0.2), "shown", r"over 8 pairs\.$"),
    "a NaN pair": Case(
        lambda: patching(change=one_nan),
        "unknown",
        "It is not known whether the model does this: gap is not a number",
        set(),
    ),
    "effects of 0": Case(
        lambda: patching(change=zero), "shown", ONCE, set(), ("Every recovery is 0.00",)
    ),
    "a cell without size": Case(
        lambda: patching(effects=(((1, 2), 1.0), ((3, 3), -0.5)), change=tiny),
        "shown",
        ONCE,
        {(1, 2), (3, 3)},
    ),
    "ties": Case(lambda: patching(change=tie), "shown", ONCE, {(i, 2) for i in range(5)}),
    "effects of either sign": Case(
        lambda: patching(change=inconsistent), "shown", ONCE, set(), ("Control: 20 of 20",)
    ),
    "effect and control of one law": Case(
        lambda: patching(change=of_one_law), "shown", ONCE, set(), ("Control: 20 of 20",)
    ),
    "a control of the other sign": Case(lambda: patching(change=other_sign), "shown", ONCE, set()),
    "a large control": Case(lambda: patching(control=20.0), "shown", ONCE, set()),
    "two templates": Case(
        lambda: patching(templates=2, effects=(((1, 1), 1.0),)), "shown", ONCE, {(1, 0)}
    ),
    "always right": Case(
        lambda: task(24, 24),
        "shown",
        r"accuracy 1\.00, 95% CI \[0\.86, 1\.00\] over 24 pairs; chance is 0\.5",
        {()},
    ),
    "at chance": Case(
        lambda: task(13, 24, 11),
        "undecided",
        r"Not told whether the model does this: accuracy 0\.54",
        set(),
    ),
    "always wrong": Case(lambda: task(0, 24, 24), "opposite", "24 of 24 point this way", set()),
    "swapped in one pair": Case(
        lambda: patching(1, change=turn), "single", r"gap -4.*swapped", None
    ),
    "never right": Case(
        lambda: task(0, 6, 6), "opposite", "6 of 6 point this way", set(), ("accuracy 0.00",)
    ),
    "right in one pair": Case(lambda: task(1, 1), "single", "One pair", None),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_first_what_is_marked_and_in_which_words(name, tmp_path):
    case = CASES[name]
    found = case.result()
    verdict = found.verdict
    assert verdict is not None and verdict.status == case.status
    assert re.search(case.says, verdict.says), verdict.says
    output = found.figures[0].output
    explained, sized = found.explained(output), ~found.without_size(output)
    if case.told is None:
        test = found.control_test(output)
        assert explained is None or explained[sized].all()
        assert test is not None and not test.can_claim
    else:
        explained = np.ones(sized.shape, bool) if case.status == "unknown" else explained
        assert explained is not None
        told = {tuple(map(int, at)) for at in np.argwhere(~explained & sized)}
        assert told == case.told
    shown = " ".join(sentence for f in found.figures for sentence in summary(f, found))
    for words in case.words:
        assert re.search(words, shown), shown
    if "recovery" in found.names():
        assert bool(found.withheld) == case.withheld
        assert np.isnan(found["recovery"].values).all() == (
            case.withheld or case.status == "unknown"
        )
        assert output == ("effect" if case.withheld else "recovery")
    assert_every_medium_says(verdict.says, found, tmp_path)


def assert_every_medium_says(verdict: str, found: Result, project) -> None:
    def joined(text: str) -> str:
        return re.sub(r"\s+", " ", unescape(text)).replace("\\", "")

    assert verdict in joined(plain_text(found))
    assert verdict in joined(notebook.html(found))
    report = build_report(project, [kept(project, found).path])
    assert verdict in joined(html(report))
    assert verdict in joined(markdown(report, {}))
    assert found.verdict is not None and found.verdict.to_json()["says"] == verdict


@pytest.mark.parametrize("name", ["as it should be", "answers swapped", "no effect at all"])
def test_the_viewer_says_it_on_its_second_line(name, project):
    found = CASES[name].result()
    assert found.verdict is not None

    async def drive(app: Viewer, pilot) -> None:
        second = screen_text(app).splitlines()[1].strip()
        assert second.startswith(found.verdict.says[:60])

    driven(kept(project, found).path, project, drive, (100, 30))


def test_signs_keep_the_meaning_that_the_documentation_gives_them():
    plain, turned = patching(), patching(change=turn)
    assert plain["recovery"].values[1, 2] == pytest.approx(1.0, abs=0.05)
    assert turned["recovery"].values[1, 2] == pytest.approx(-1.0, abs=0.05)
    assert (turned["recovery"].high < 0)[1, 2], "its interval has the sign of the effect, too"


def test_a_cell_without_size_is_neither_named_nor_counted():
    found = patching(change=tiny)
    said = " ".join(summary(found.figures[0], found))
    assert "Control: 18 of 19" in said and "layer 0 · position 0" not in said
    only = patching(change=zero)
    assert "Largest" not in " ".join(summary(only.figures[0], only))


def test_the_pairs_that_would_tell_do():
    found = patching(24, gap=0.2, spread=2.0)
    match = re.search(r"About (\d+) would tell", found.verdict.says)
    assert match
    enough = [
        patching(2 * int(match[1]), gap=found.verdict.mean, spread=2.0, seed=s).verdict.status
        for s in range(20)
    ]
    assert enough.count("shown") > 15

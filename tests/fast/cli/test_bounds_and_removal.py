"""Numbers have bounds that are told at once; only what names one thing removes it."""

from __future__ import annotations

import json
import time

import pytest

from remote_mi.backends.ledger import Ledger
from remote_mi.common.errors import UsageError
from remote_mi.prompts import phenomena
from remote_mi.prompts.examples import MOST_PAIRS
from remote_mi.store.runs import Runs

from ..report.shown import kept, result

FIFTY = "9" * 50
FEW = """
name: few
title: Few pairs
source: made for this test
order: ORDER
size: SIZE
lists: {names: [Mary, John, Ann]}
draw: {a: names, b: names}
templates:
  one: {clean: "{a} met {b}", corrupt: "{b:a} met {a:b}"}
  two: {clean: "{a} saw {b}", corrupt: "{b:a} saw {a:b}"}
answer: " {a}"
wrong: " {b}"
"""


@pytest.mark.parametrize(
    "words",
    [
        ("phenomena", "show", "ioi", "-n", FIFTY),
        ("phenomena", "show", "country_capital", "-n", FIFTY),
        ("phenomena", "show", "ioi", "-n", str(MOST_PAIRS + 1)),
        ("phenomena", "show", "ioi", "-n", "-" + FIFTY),
        ("run", "logit_lens", "--phenomenon", "ioi", "-n", FIFTY),
        ("run", "logit_lens", "--phenomenon", "ioi", "-n", "9" * 5000),
        ("plan", "logit_lens", "--pairs", "pairs.jsonl", "-n", FIFTY),
        ("view", "--width", FIFTY),
        ("view", "--item", FIFTY),
        ("runs", "ls", "-n", FIFTY),
        ("compare", "aaaa", "aaaa", "--tolerance", "nan"),
        ("compare", "aaaa", "local", "--timeout", "inf"),
        ("jobs", "wait", "--timeout", "1e300"),
        ("cache", "gc", "--spare", "nan"),
        ("cache", "gc", "--max-size", FIFTY),
        ("ndif", "up", "--threads", FIFTY),
    ],
)
def test_numbers_without_sense_are_refused_at_once(project, cli, words):
    (project / "pairs.jsonl").write_text(json.dumps({"prompt": "Hello"}) + "\n")
    begun = time.monotonic()
    code, out, err = cli(*words)
    assert code == 2 and not out and len(err) < 1000, (code, out, err)
    assert "bug" not in err and time.monotonic() - begun < 5


@pytest.mark.parametrize(("order", "size", "most"), [("random", "24", 12), ("list", "6", 6)])
def test_a_phenomenon_has_no_more_pairs_than_its_lists_make(project, cli, order, size, most):
    path = project / "few.yaml"
    path.write_text(FEW.replace("ORDER", order).replace("SIZE", size))
    found = phenomena.load(path)
    assert len(found.prompts().examples) == len(found.prompts(most).examples) == most
    with pytest.raises(UsageError, match=f"'few' has {most} pairs, not {most + 1}") as caught:
        found.prompts(most + 1)
    assert caught.value.hint == f"ask for -n {most}"
    assert len(found.prompts(most // 2, template="one").examples) == most // 2
    with pytest.raises(UsageError, match=f"has {most // 2} pairs"):
        found.prompts(most, template="one")
    path.write_text(FEW.replace("ORDER", order).replace("SIZE", FIFTY))
    code, _, err = cli("phenomena", "show", path)
    assert code == 2 and "'size' a number of 50 digits is more than 100,000" in err


@pytest.mark.parametrize("word", ["", ".", "..", "/", "a", "aaa", "*", "./aaaa1111", "runs/", "\\"])
def test_only_an_id_or_its_first_letters_name_a_run_to_remove(project, cli, word):
    name = kept(project, result()).run_id
    for given in (word, f"../other/runs/{name}"):
        code, out, err = cli("runs", "rm", "--yes", given)
        assert code == 2 and not out and "is not the id of a run" in err, err
    assert Runs(project).ids() == [name]
    code, out, _ = cli("runs", "rm", "--yes", "aaaa")
    assert code == 0 and out.strip() == name and not Runs(project).ids()


def test_a_run_to_remove_is_named_in_full_where_its_id_is_not_enough(project, cli):
    first = kept(project, result()).run_id
    second = f"{first[:14]}{'1' if first[14] == '0' else '0'}{first[15:]}"  # another second
    (project / "runs" / first).rename(project / "runs" / second)
    kept(project, result())
    names = Runs(project).ids()
    assert len(names) == 2
    code, _, err = cli("runs", "rm", "--yes", "aaaa1111")
    assert code == 2 and "matches 2 runs" in err and "full name" in err
    assert cli("runs", "rm", "--yes", second)[0] == 0
    assert Runs(project).ids() == [n for n in names if n != second]


@pytest.mark.parametrize("word", ["", ".", "/"])
def test_nothing_names_no_run_anywhere(project, cli, word):
    name = kept(project, result()).run_id
    for words in (("runs", "show", word), ("runs", "tag", word, "x"), ("compare", word, word)):
        code, out, err = cli(*words)
        assert code == 3 and not out and "no run named" in err, (words, err)
    assert not Runs(project).tags(name)


@pytest.mark.parametrize("word", ["", ".", "abc", "../x"])
def test_only_an_id_or_its_first_letters_name_a_job_to_forget(project, cli, word):
    from ..backends.test_ledger import entry

    ledger = Ledger(project)
    ledger.claim(entry(), 0)
    code, _, err = cli("jobs", "forget", word)
    assert code == 2 and "is not the id of a job" in err
    assert all(one.state != "forgotten" for one in ledger.all())

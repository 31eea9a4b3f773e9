"""Runs of unequal length in the kit: what corresponds is put in, and nothing else passes for it."""

from __future__ import annotations

import nnsight
import pytest
import torch

from remote_mi.common.progress import Silent
from remote_mi.interventions import Pair, Prompt, changes, end_logits, logits, measure, run, sweep
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec

CLEAN, CORRUPT = [3, 4, 5, 6, 7, 8], [3, 4, 9, 7, 8]
MATCHES = [0, 1, None, 2, 3, 4]


@pytest.fixture(scope="module")
def lm(tiny_llama):
    return load(ModelSpec(str(tiny_llama), attention="eager"), Silent()).lm


@pytest.fixture
def pair():
    prompts = (Prompt(list(ids), {}, None) for ids in (CLEAN, CORRUPT))
    return Pair(*prompts, 10, 11, matches=list(MATCHES))


def within(lm, function):
    with torch.no_grad(), lm.session():
        found = nnsight.save(function())
    return found


def test_a_pair_knows_its_correspondence_both_ways(pair):
    assert pair.clean.matches == MATCHES and pair.corrupt.matches == [0, 1, 3, 4, 5]
    assert pair.clean.matched == [0, 1, 3, 4, 5] and pair.corrupt.matched == [*range(5)]
    assert pair.first_difference == 2 and (pair.end, pair.corrupt.end) == (5, 4)
    base, other = pair.base_and_other("denoise")
    assert (base.ids, other.ids) == (CORRUPT, CLEAN)
    assert pair.cells(None, "denoise") == [[0], [1], [], [2], [3], [4]]
    assert pair.cells(None) == [[0], [1], [], [3], [4], [5]]
    assert pair.cells(["all", "3", "2"], "denoise") == [[0, 1, 2, 3, 4], [2], []]
    equal = Pair(Prompt([1, 2], {}, None), Prompt([1, 3], {}, None), 4, 5)
    assert equal.cells(None, "denoise") == [[0], [1]] and equal.clean.matches is None


@pytest.mark.parametrize("matches, lengths", [(None, (3, 2)), ([0, 1], (2, 2))])
def test_a_pair_needs_a_correspondence_if_and_only_if_its_lengths_differ(matches, lengths):
    one, other = (Prompt(list(range(length)), {}, None) for length in lengths)
    with pytest.raises(ValueError, match="`matches` belongs to prompts of unequal length"):
        Pair(one, other, 1, 2, matches=matches)


def test_changes_are_empty_without_a_counterpart_and_zero_before_the_difference(lm, pair):
    runs = within(
        lm, lambda: [run(lm, prompt, "resid_post") for prompt in (pair.clean, pair.corrupt)]
    )
    clean, corrupt = runs
    for change, own, other in zip(
        changes(lm, clean, corrupt), clean.values, corrupt.values, strict=True
    ):
        assert (change[:, :2] == 0).all() and change[:, 2].isnan().all()
        torch.testing.assert_close(change[:, 3:], other[:, 2:] - own[:, 3:])
    for change in changes(lm, corrupt, clean):
        assert change.shape[1] == 5 and change.isfinite().all()
    ends = within(lm, lambda: end_logits(lm, [pair.clean, pair.corrupt]))
    states = torch.cat([run.hidden[:, -1] for run in runs])
    torch.testing.assert_close(ends, within(lm, lambda: logits(lm, states)))


def test_a_cell_without_a_counterpart_is_empty_however_it_is_asked_for(lm, pair):
    of_answer = measure(lm, "logit_diff", pair)

    def swept(**given):
        put = run(lm, pair.corrupt, "resid_pre")
        return sweep(lm, pair.clean, "resid_pre", put, of_answer, control=1, **given)

    for given in ({"at": [2]}, {"at": [2], "by": "layer"}):
        found = within(lm, lambda given=given: swept(**given))
        assert all(x.isnan().all() for x in (found.effect, found.scores, found.control))
    every, at = (
        within(lm, lambda g=g: swept(by="layer", **g)) for g in ({}, {"at": [0, 1, 3, 4, 5]})
    )
    assert torch.equal(every.effect, at.effect) and every.effect.isfinite().all()
    before = within(lm, lambda: swept(at=[0, 2], by="layer"))
    assert (before.effect == 0).all(), "what is there is the same in both prompts"


def test_runs_that_are_not_of_one_pair_have_nothing_in_common(lm, pair):
    of_answer = measure(lm, "logit_diff", pair)
    others = [Prompt([3, 4, 9, 7], {}, None), Prompt(list(CORRUPT), {}, None)]
    for other in others:
        with pytest.raises(ValueError, match="have no positions in common"):
            within(
                lm,
                lambda o=other: sweep(
                    lm, pair.clean, "resid_pre", run(lm, o, "resid_pre"), of_answer
                ),
            )
        with pytest.raises(ValueError, match="have no positions in common"):
            within(lm, lambda o=other: changes(lm, run(lm, pair.clean), run(lm, o)))


def test_a_pattern_of_attention_is_not_put_into_a_prompt_of_another_length(lm, pair):
    of_answer = measure(lm, "logit_diff", pair)
    with pytest.raises(ValueError, match="attn_pattern has a number for every token of its prompt"):
        within(
            lm,
            lambda: sweep(
                lm, pair.clean, "attn_pattern", run(lm, pair.corrupt, "attn_pattern"), of_answer
            ),
        )

"""Rows of different lengths continued together, against transformers' own loop for each alone."""

from __future__ import annotations

from typing import Any

import nnsight
import pytest
import torch
from transformers import AutoModelForCausalLM

from remote_mi.common.progress import Silent
from remote_mi.interventions import generate, generation, rows
from remote_mi.interventions.model_info import hides_padding
from remote_mi.interventions.rows import batches
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec

FAMILIES = ("llama", "gpt2", "neox", "gemma2", "qwen3")
ROWS = [
    [5, 17, 9, 30, 12, 44, 8, 21, 33, 7],
    [6, 18, 25],
    [11],
    [5, 17, 9, 31, 12, 44, 9, 21, 33, 7],
    [40, 2, 13, 9, 9, 27],
]
STEPS = 8


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tiny):
    folder = tiny(request.param)
    lm = load(ModelSpec(str(folder)), Silent()).lm
    return AutoModelForCausalLM.from_pretrained(folder).eval(), lm


@pytest.fixture(scope="module")
def llama(tiny):
    folder = tiny("llama")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), load(
        ModelSpec(str(folder)), Silent()
    ).lm


def continued(lm: Any, rows: list[list[int]], *arguments: Any, **named: Any) -> list[list[int]]:
    with torch.no_grad(), lm.session():
        found = nnsight.save(generate(lm, rows, *arguments, **named))
    return found.tolist()


def plain(model: Any, row: list[int], ends: list[int]) -> list[int]:
    """transformers' own greedy text of one row, −1 after its end."""
    own = model.generate(
        torch.tensor([row]),
        attention_mask=torch.ones(1, len(row), dtype=torch.long),
        max_new_tokens=STEPS,
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=0,
    )[0, len(row) :].tolist()
    return own + [-1] * (STEPS - len(own))


@pytest.mark.parametrize("weights", [True, False], ids=["kept", "run again"])
def test_rows_of_all_lengths_equal_transformers_own_loop(both, weights, monkeypatch):
    model, lm = both
    assert hides_padding(lm), "the rows run together"
    monkeypatch.setattr(generation, "has_weights", lambda lm: weights)
    texts = [plain(model, row, []) for row in ROWS]
    end = texts[0][3]  # an end token that some row meets on its way
    for ends in ([], [end]):
        monkeypatch.setattr(generation, "end_tokens", lambda lm, ends=ends: ends)
        expected = [plain(model, row, ends) for row in ROWS]
        assert continued(lm, ROWS, STEPS) == expected
    assert any(-1 in row for row in expected), "a row ended before the others"


def test_a_model_that_cannot_hide_padding_runs_rows_of_one_length(both, monkeypatch):
    model, lm = both
    monkeypatch.setattr(rows, "hides_padding", lambda lm: False)
    monkeypatch.setattr(generation, "end_tokens", lambda lm: [])
    assert continued(lm, ROWS, STEPS) == [plain(model, row, []) for row in ROWS]
    lengths = [[len(ROWS[i]) for i in batch] for batch in batches(lm, ROWS, STEPS)]
    assert lengths == [[1], [3], [6], [10, 10]]


@pytest.mark.parametrize("weights", [True, False], ids=["kept", "run again"])
def test_a_sampled_row_is_the_same_in_any_company(both, weights, monkeypatch):
    _, lm = both
    monkeypatch.setattr(generation, "has_weights", lambda lm: weights)
    seeds = [3, 1, 4, 1, 5]
    together = continued(lm, ROWS, STEPS, temperature=0.8, seeds=seeds)
    alone = [
        continued(lm, [row], STEPS, temperature=0.8, seeds=[seed])[0]
        for row, seed in zip(ROWS, seeds, strict=True)
    ]
    assert together == alone
    monkeypatch.setattr(rows, "rows_that_fit", lambda *_: 2)
    assert continued(lm, ROWS, STEPS, temperature=0.8, seeds=seeds) == together
    assert continued(lm, ROWS, STEPS, temperature=0.8, seeds=[9] * 5) != together


def test_draws_follow_the_softmax_at_the_temperature(llama):
    model, lm = llama
    row, draws, temperature = ROWS[0], 4000, 0.7
    found = continued(lm, [row] * draws, 1, temperature=temperature, seeds=list(range(draws)))
    counts = torch.bincount(torch.tensor(found).flatten(), minlength=lm.lm_head.weight.shape[0])
    with torch.no_grad():
        p = (model(torch.tensor([row])).logits[0, -1] / temperature).softmax(-1)
    top = p.topk(8).indices
    off = (counts[top] / draws - p[top]).abs()
    assert (off < 4 * (p[top] * (1 - p[top]) / draws).sqrt()).all()


def test_an_edit_reaches_the_same_places_of_every_row(both, monkeypatch):
    """From the last token of each prompt on, whatever stands before it in the batch."""
    _, lm = both
    monkeypatch.setattr(generation, "end_tokens", lambda lm: [])
    torch.manual_seed(1)
    vector, lengths = 4 * torch.randn(5, 32), torch.tensor([len(row) for row in ROWS])

    def edit(stream, places, rows):
        here = places >= lengths[rows][:, None] - 1
        return torch.where(here[:, :, None], stream + vector[rows][:, None], stream)

    together = continued(lm, ROWS, STEPS, {1: edit})
    assert together != continued(lm, ROWS, STEPS), "the vector changes the texts"
    for index, row in enumerate(ROWS):

        def alone(stream, places, rows, index=index, row=row):
            here = places >= len(row) - 1
            return torch.where(here[:, :, None], stream + vector[index], stream)

        assert continued(lm, [row], STEPS, {1: alone})[0] == together[index]


def test_a_row_ends_at_the_models_context_as_it_does_alone(llama, monkeypatch):
    _, lm = llama
    longest = max(map(len, ROWS))
    monkeypatch.setattr(generation, "context_length", lambda lm: longest + 3)
    monkeypatch.setattr(generation, "end_tokens", lambda lm: [])
    found = continued(lm, ROWS, STEPS)
    assert [row.index(-1) if -1 in row else STEPS for row in found] == [3, STEPS, STEPS, 3, 7]
    assert found == [continued(lm, [row], STEPS)[0] for row in ROWS]


@pytest.mark.parametrize(
    "rows, named, said",
    [
        ([[5] * 2000], {}, "the prompt has 2000 tokens and the model takes"),
        ([[5], [6]], {"temperature": 1.0, "seeds": [1]}, "2 rows are sampled with 1 seeds"),
    ],
)
def test_what_cannot_be_continued_is_refused(llama, rows, named, said):
    with pytest.raises(ValueError, match=said):
        continued(llama[1], rows, 2, **named)

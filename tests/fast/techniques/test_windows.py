"""A window of layers is replaced as plain hooks on all of them replace it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import remote_mi as mi

from ...conftest import MARY
from ..reference import Reference

#: The layers around layers 0, 1, 2 of three.
WINDOWS = {2: [[0], [0, 1], [1, 2]], 3: [[0, 1], [0, 1, 2], [1, 2]]}


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen3"])
def model(request, tiny):
    folder = tiny(request.param)
    return folder, Reference(folder, request.param)


def tokens_of(reference, text):
    return torch.tensor([reference.tokenizer(text)["input_ids"]])


def answers_of(reference):
    return (reference.tokenizer(MARY[name])["input_ids"][-1] for name in ("answer", "wrong"))


def changed(reference, ids, site, changes):
    """The logit difference with an activation of several layers changed."""
    hooks = [reference.hook(site, layer, change) for layer, change in changes.items()]
    try:
        return reference.score(ids, *answers_of(reference))
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("window", WINDOWS)
def test_patching_a_window(project, model, window):
    folder, reference = model
    given = {"site": "attn_out", "window": window, "control_draws": 0}
    found = mi.run("activation_patching", pairs=[MARY], model=str(folder), **given)
    clean, corrupt = (tokens_of(reference, MARY[name]) for name in ("clean", "corrupt"))
    values = reference.capture(clean, "attn_out")
    base = reference.score(corrupt, *answers_of(reference))
    expected = np.zeros(found["effect"].values.shape)
    for layer, layers in enumerate(WINDOWS[window]):
        for position in range(clean.shape[1]):

            def at(index, position=position):
                def change(value):
                    value = value.clone()
                    value[:, position] = values[index][:, position]
                    return value

                return change

            patched = changed(reference, corrupt, "attn_out", {i: at(i) for i in layers})
            expected[layer, position] = patched - base
    np.testing.assert_allclose(found["effect"].values, expected, atol=1e-4)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("window", WINDOWS)
def test_ablating_a_window(project, model, window):
    folder, reference = model
    given = {"site": "mlp_out", "kind": "zero", "window": window, "control_draws": 0}
    found = mi.run("ablation", pairs=[MARY], model=str(folder), **given)
    clean = tokens_of(reference, MARY["clean"])
    base = reference.score(clean, *answers_of(reference))
    expected = [
        changed(reference, clean, "mlp_out", dict.fromkeys(layers, torch.zeros_like)) - base
        for layers in WINDOWS[window]
    ]
    np.testing.assert_allclose(found["layer_effect"].values, expected, atol=1e-4)

"""Ablation and causal tracing on the embedded model against numbers of independent code.

The references are plain hooks. Small prompt sets: the patterns are tested, not the third digit.
"""

from __future__ import annotations

import numpy as np
import pytest

from ..conftest import MARY
from .test_known_numbers import abc_pairs

EIFFEL = "The Eiffel Tower is located in the city of"
COLOSSEUM = "The Colosseum is located in the city of"
#: Both subjects are the tokens 0 to 3: The| E|iffel| Tower, The| Col|osse|um.
SUBJECT = {"subject_start": 0, "subject_end": 3}


@pytest.fixture(scope="module")
def eiffel(embedded):
    return embedded("causal_tracing", prompt=EIFFEL, target=" Paris", control="none", **SUBJECT)


@pytest.fixture(scope="module")
def colosseum(embedded):
    given = {"prompt": COLOSSEUM, "target": " Rome", "draws": 3, "control": "none"}
    return embedded("causal_tracing", **given, **SUBJECT)


def test_noise_on_the_subject_removes_the_answer(eiffel, colosseum):
    assert float(eiffel["clean"].values) == pytest.approx(0.70, abs=0.01)
    assert float(eiffel["corrupt"].values) == pytest.approx(0.016, abs=0.005)
    assert float(colosseum["clean"].values) == pytest.approx(0.73, abs=0.01)
    assert float(colosseum["corrupt"].values) < 0.05


@pytest.mark.parametrize(
    "layer, position, effect",
    [
        (0, 2, 0.26),
        (3, 2, 0.50),
        (6, 2, 0.44),
        (12, 2, 0.27),
        (21, 2, 0.18),
        (24, 2, 0.00),
        (21, 9, 0.01),
        (24, 9, 0.58),
        (24, 6, 0.28),
        (3, 3, -0.01),
        (12, 5, 0.00),
    ],
)
def test_restoring_the_tower(eiffel, layer, position, effect):
    """An early site at a subject's token, a late one at the last token."""
    assert eiffel["effect"].values[layer, position] == pytest.approx(effect, abs=0.02)


def test_restoring_the_colosseum(colosseum):
    """The draws are others than the reference's, which found .65 at layer 6 of the last subject."""
    effect = colosseum["effect"].values
    assert effect[6, 3] == pytest.approx(0.6, abs=0.15)
    early = np.unravel_index(effect[:20].argmax(), effect[:20].shape)
    assert early[1] == 3 and early[0] in range(4, 9), "the last token of the subject, about layer 6"
    assert (effect[24:, 9] > 0.55).all()
    assert effect[:18, 9].max() < 0.05 and effect[24:, 3].max() < 0.05


def test_the_state_of_another_noised_run_restores_nothing(embedded):
    found = embedded("causal_tracing", prompt=EIFFEL, target=" Paris", draws=2, **SUBJECT)
    control = np.abs(found["control"].values).max()
    assert control < 0.05
    assert control < found["effect"].values.max() / 8


def test_restoring_ten_mlps_finds_the_early_site(embedded):
    """As in the paper, a window of MLPs at the subject does more than a window of attention."""
    found = {
        site: embedded(
            "causal_tracing",
            prompt=EIFFEL,
            target=" Paris",
            site=site,
            window=10,
            draws=2,
            control="none",
            **SUBJECT,
        )["effect"].values
        for site in ("mlp_out", "attn_out")
    }
    assert found["mlp_out"][:10, 2].max() > 0.2
    assert found["mlp_out"][:10, 2].max() > 2 * found["attn_out"][:10, 1:4].max()


KNOWN_HEADS = [(23, 3), (29, 1), (29, 0), (20, 0), (17, 4)]


def test_resampling_heads_is_noising_them(embedded):
    """Whose figures on all twelve pairs are in test_known_numbers."""
    pairs = abc_pairs()[:4]
    result = embedded("head_ablation", pairs=pairs, kind="resample")
    patched = embedded("head_patching", pairs=pairs, direction="noise", control_draws=0)
    share = result["effect"].values / float(patched["gap"].values)
    np.testing.assert_allclose(share, patched["recovery"].values, atol=1e-4)
    # A random direction of the same length does little where the content does much.
    control, effect = np.abs(result["control"].values), np.abs(result["effect"].values)
    for layer, head in KNOWN_HEADS[:3]:
        assert control[layer, head] < effect[layer, head] / 2, (layer, head)
    assert result.explained("effect")[~result.without_size("effect")].all(), "4 pairs claim nothing"
    assert "share" in result.withheld, "what these four prompts prefer differs in sign"


def test_mean_ablation_keeps_the_head_that_matters_most(embedded):
    result = embedded("head_ablation", pairs=abc_pairs()[:4], control_draws=0)
    share = result["effect"].values / np.abs(float(result["clean"]))
    # Head 0.0 matters to every prompt; of the heads that read names it is 23.3.
    assert np.unravel_index(share[1:].argmin(), share[1:].shape) == (22, 3)
    assert share[23, 3] < -0.3


def test_a_patching_control_is_far_smaller_than_the_patch(embedded):
    result = embedded("activation_patching", **MARY, control_draws=3)
    recovery, control = (result[name].values for name in ("recovery", "control_recovery"))
    assert recovery[10, 9] == pytest.approx(1.0, abs=0.01)
    for layer, position in ((10, 9), (18, 9), (24, 13), (27, 13)):
        assert abs(control[layer, position]) < 0.5 * recovery[layer, position]
    assert abs(control[24, 13]) < 0.2 and abs(control[27, 13]) < 0.2


def test_ablating_layers_raises_the_loss_and_the_first_layers_most(embedded):
    result = embedded("ablation", **MARY, site="mlp_out", kind="zero", control_draws=0)
    change = result["loss_change"].values
    assert change[0] > 1.0, "without the first MLP the model says nothing sensible"
    assert change.argmax() < 3
    assert np.median(change) < 0.3
    assert float(result["clean"].values) == pytest.approx(6.12, abs=0.02)


def test_the_known_heads_write_the_name_themselves(embedded):
    """Measured on four of the pairs: −.50, −.31 and .28 of the gap by the paths to the logits."""
    found = embedded("path_patching", pairs=abc_pairs()[:2], control_draws=0)
    recovery = found["effect"].values / float(found["gap"])
    assert np.unravel_index(recovery.argmin(), recovery.shape) == (23, 3)
    assert recovery[29, 1] < -0.15 and recovery[29, 0] > 0.1
    assert abs(recovery[17, 4]) < 0.1, "which head_patching finds, acts through other heads"

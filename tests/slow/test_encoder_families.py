"""Every class of encoder that is found by its structure, against plain hooks."""

from __future__ import annotations

import pytest

from ..families.encoder_checks import CHECKS, OF_TEXT, OF_TWO_SIDES
from ..families.encoder_decoders import FAMILIES as PAIRED
from ..families.encoder_decoders import QUICK as PAIRED_QUICK
from ..families.encoders import FAMILIES, QUICK
from ..families.multimodal import FAMILIES as PICTURED
from ..families.multimodal import QUICK as PICTURED_QUICK


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in QUICK])
def test_encoder(name, check, encoder):
    check(*encoder(name))


@pytest.mark.parametrize("check", OF_TWO_SIDES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [name for name in PAIRED if name not in PAIRED_QUICK])
def test_encoder_decoder(name, check, encoder):
    check(*encoder(name))


@pytest.mark.parametrize("check", OF_TEXT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [name for name in PICTURED if name not in PICTURED_QUICK])
def test_text_of_a_model_of_pictures(name, check, encoder):
    check(*encoder(name))

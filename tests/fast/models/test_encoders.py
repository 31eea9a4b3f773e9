"""Encoders whose unembedding reads more than a norm, and encoder–decoders, against plain hooks."""

from __future__ import annotations

import pytest

from ...families.encoder_checks import CHECKS, OF_TEXT, OF_TWO_SIDES
from ...families.encoder_decoders import QUICK as PAIRED_QUICK
from ...families.encoders import QUICK
from ...families.multimodal import QUICK as PICTURED_QUICK


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", QUICK)
def test_encoder(name, check, encoder):
    check(*encoder(name))


@pytest.mark.parametrize("check", OF_TWO_SIDES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", PAIRED_QUICK)
def test_encoder_decoder(name, check, encoder):
    check(*encoder(name))


@pytest.mark.parametrize("check", OF_TEXT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", PICTURED_QUICK)
def test_text_of_a_model_of_pictures(name, check, encoder):
    check(*encoder(name))

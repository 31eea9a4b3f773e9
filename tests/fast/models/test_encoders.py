"""Encoders whose unembedding reads more than a norm: RoBERTa, DistilBERT, ModernBERT."""

from __future__ import annotations

import pytest

from ...families.encoder_checks import CHECKS
from ...families.encoders import QUICK


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", QUICK)
def test_encoder(name, check, encoder):
    check(*encoder(name))

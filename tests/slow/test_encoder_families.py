"""Every class of encoder that is found by its structure, against plain hooks."""

from __future__ import annotations

import pytest

from ..families.encoder_checks import CHECKS, OF_TWO_SIDES
from ..families.encoder_decoders import FAMILIES as PAIRED
from ..families.encoder_decoders import QUICK as PAIRED_QUICK
from ..families.encoders import FAMILIES, QUICK


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in QUICK])
def test_encoder(name, check, encoder):
    check(*encoder(name))


@pytest.mark.parametrize("check", OF_TWO_SIDES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [name for name in PAIRED if name not in PAIRED_QUICK])
def test_encoder_decoder(name, check, encoder):
    check(*encoder(name))

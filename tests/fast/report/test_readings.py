"""Readings: computed from the numbers, true to them, and absent where nothing is told."""

from __future__ import annotations

import pytest

from .random_results import random_result
from .said import check_everything_said


@pytest.mark.parametrize("block", range(6))
def test_no_sentence_is_contradicted_by_its_numbers(block):
    assert sum(check_everything_said(random_result(50 * block + i)) for i in range(50)) > 150

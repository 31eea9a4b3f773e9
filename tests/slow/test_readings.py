"""Two thousand random results: no sentence about them is contradicted by their numbers.

tests/soak/sentences.py does eight thousand more.
"""

from __future__ import annotations

import pytest

from ..fast.report.random_results import random_result
from ..fast.report.said import check_everything_said


@pytest.mark.parametrize("block", range(4))
def test_no_sentence_is_contradicted_by_its_numbers(block):
    for seed in range(500 * block, 500 * (block + 1)):
        check_everything_said(random_result(seed))

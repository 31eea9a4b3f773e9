"""A few classes with traps against plain hooks; tests/slow/test_families.py has all of them."""

from __future__ import annotations

import pytest

from ...families import checks

#: Multipliers; one norm for both parts; outputs changed in place; the stream added within modules;
#: norms after the parts; no attention.
CLASSES = ("granite", "cohere", "falcon", "bloom", "olmo2", "mamba")


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_read_edited_and_swept_is_what_hooks_see(name, tmp_path):
    checks.save(name, tmp_path)
    model = checks.Loaded(name, tmp_path)
    checks.check_read_out(model)
    checks.check_read(model)
    checks.check_edits(model)
    checks.check_gradients(model)
    checks.check_sweeps(model)

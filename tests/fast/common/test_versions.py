"""Versions as packages write them."""

from __future__ import annotations

import pytest

from remote_mi.common.versions import is_at_least, major_minor


@pytest.mark.parametrize(
    "version, expected",
    [
        ("2.13.0+cpu", "2.13"),
        ("5.22.1", "5.22"),
        ("0.8.1.dev3", "0.8"),
        ("5.0.0rc1", "5.0"),
        ("2", "2.0"),
        ("unknown", "unknown"),
        ("none", "none"),
        ("", ""),
    ],
)
def test_the_minor_version_decides_and_what_is_none_is_itself(version, expected):
    assert major_minor(version) == expected


@pytest.mark.parametrize(
    "version, expected",
    [("0.8.1", True), ("0.10.0+x", True), ("0.8.1rc1", True), ("0.8.0", False), ("", False)],
)
def test_a_version_is_from_another_on_by_its_numbers(version, expected):
    assert is_at_least(version, "0.8.1") is expected

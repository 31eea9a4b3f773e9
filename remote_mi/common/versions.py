"""Comparing package versions, which may be written in any form."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version


def major_minor(version: str) -> str:
    """The major and minor number, "2.13" for "2.13.0+cpu"; an invalid version is returned as is."""
    parsed = _parse(version)
    return version if parsed is None else f"{parsed.major}.{parsed.minor}"


def is_at_least(version: str, minimum: str) -> bool:
    """Whether a version's release number is at least `minimum`; False for an invalid version."""
    parsed = _parse(version)
    return parsed is not None and parsed.release >= Version(minimum).release


def _parse(version: str) -> Version | None:
    try:
        return Version(version)
    except InvalidVersion:
        return None

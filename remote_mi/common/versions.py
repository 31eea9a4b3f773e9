"""Comparing versions of packages, as they are written by whoever built them."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version


def minor(version: str) -> str:
    """The major and minor number: "2.13" of "2.13.0+cpu"; what is no version stays as it is."""
    found = _read(version)
    return version if found is None else f"{found.major}.{found.minor}"


def is_from(version: str, least: str) -> bool:
    """Whether a version is at least another, by its numbers; False for what is no version."""
    found = _read(version)
    return found is not None and found.release >= Version(least).release


def _read(version: str) -> Version | None:
    try:
        return Version(version)
    except InvalidVersion:
        return None

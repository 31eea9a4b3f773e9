"""Records of published sets of prompts, read as their authors publish them: one file for each."""

from __future__ import annotations

from collections.abc import Iterable

from remote_mi.common.errors import UsageError, nearest
from remote_mi.prompts.published.base import PublishedFormat
from remote_mi.prompts.published.blimp import BLIMP
from remote_mi.prompts.published.counterfact import COUNTERFACT
from remote_mi.prompts.published.mib import MIB
from remote_mi.prompts.published.ravel import RAVEL
from remote_mi.prompts.published.stereoset import STEREOSET
from remote_mi.prompts.published.winogender import WINOGENDER

FORMATS = {f.name: f for f in (BLIMP, STEREOSET, WINOGENDER, COUNTERFACT, RAVEL, MIB)}


def detect_format(columns: Iterable[str]) -> PublishedFormat | None:
    """The published format whose columns these are, among others; None if there is none."""
    present = list(columns)
    return next((known for known in FORMATS.values() if known.matches(present)), None)


def find_format(word: str) -> tuple[PublishedFormat, str]:
    """The format and the variant that a word such as `blimp` or `blimp:sentences` names.

    Raises:
        UsageError: suggesting the nearest name.
    """
    name, _, variant = word.partition(":")
    found = FORMATS.get(name.lower())
    if found is None:
        close = nearest(name.lower(), FORMATS)
        hint = f"did you mean {close!r}? " if close else ""
        raise UsageError(f"there is no format {name!r}", f"{hint}formats: {', '.join(FORMATS)}")
    if variant and found.variants is not None and variant not in found.variants:
        known = ", ".join(f"{found.name}:{one}" for one in found.variants)
        raise UsageError(
            f"format {found.name!r} has no variant {variant!r}",
            f"variants: {known}" if known else f"give --format {found.name}",
        )
    return found, variant

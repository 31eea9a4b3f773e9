"""Sizes in bytes as people write them: "5GB", "500 MB", "2GiB"."""

from __future__ import annotations

import re

from remote_mi.common.errors import UsageError

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b?)\s*", re.IGNORECASE)


def parse_size(value: str | int) -> int:
    """The number of bytes given by a text or a number.

    kB, MB, GB and TB are powers of 1000, KiB, MiB, GiB and TiB of 1024; "B" may be left out.

    Raises:
        UsageError: if it is not a size.
    """
    match = _SIZE.fullmatch(value) if isinstance(value, str) and len(value) <= 40 else None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18:
        return value
    if match is None or (match[3] and not match[2]):
        shown = repr(value)
        raise UsageError(
            f"{shown if len(shown) <= 60 else shown[:57] + '…'} is not a size",
            'e.g. "500MB", "5GB", "2GiB", or a number of bytes',
        )
    base = 1024 if match[3] else 1000
    return round(float(match[1]) * base ** _POWERS[match[2].lower()])


def format_size(size: float) -> str:
    """A number of bytes as text, e.g. "540 MB", "1.1 GB": powers of 1000, two or three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if round(size, 0 if unit == "B" or size >= 10 else 1) < 1000:
            break
        size /= 1000
    else:
        unit = "TB"
    return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"

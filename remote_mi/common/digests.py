"""Digests of JSON values in one canonical form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: Any) -> str:
    """SHA-256, in hex, of a JSON value in canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    """The one text of a JSON value that is digested."""
    return _ENCODER.encode(value)


def digest_of_members(members: Mapping[str, str]) -> str:
    """As `digest` of an object, of which the canonical text of every member is known already."""
    text = ",".join(f"{canonical(name)}:{members[name]}" for name in sorted(members))
    return hashlib.sha256(f"{{{text}}}".encode()).hexdigest()

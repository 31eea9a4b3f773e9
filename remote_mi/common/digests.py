"""Digests of JSON values in one canonical form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: Any) -> str:
    """SHA-256, in hex, of a JSON value in canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """The canonical text of a JSON value, which is what gets digested."""
    return _ENCODER.encode(value)


def digest_members(members: Mapping[str, str]) -> str:
    """The `digest` of an object, given the canonical text of each member."""
    text = ",".join(f"{canonical_json(name)}:{members[name]}" for name in sorted(members))
    return hashlib.sha256(f"{{{text}}}".encode()).hexdigest()

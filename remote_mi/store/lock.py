"""Reading a run's config.lock.yaml, the recorded job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOCK = "config.lock.yaml"
#: Largest accepted file, in bytes.
MAX_BYTES = 16 << 20


def read_lock(folder: Path) -> Mapping[str, Any]:
    """The lock in a run's folder; {} if it is missing or unreadable."""
    # Slow to import, and not needed to open a run.
    from remote_mi.common.yaml_file import read_generated

    try:
        lock = read_generated(folder / LOCK, MAX_BYTES)
    except (OSError, ValueError):
        return {}
    return lock if isinstance(lock, dict) else {}

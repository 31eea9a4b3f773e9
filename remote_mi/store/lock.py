"""Reading a run's config.lock.yaml, the job as it was written down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOCK = "config.lock.yaml"
#: Bytes that it may have.
LONGEST = 16 << 20


def read_lock(folder: Path) -> Mapping[str, Any]:
    """The lock of a run's folder; {} where there is none that can be read."""
    # Slow to import, and opening a run does without.
    from remote_mi.common.yaml_file import read_generated

    try:
        found = read_generated(folder / LOCK, LONGEST)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

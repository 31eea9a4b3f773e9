"""Reading a run's config.lock.yaml, the job as it was written down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOCK = "config.lock.yaml"
_LONGEST = 16 << 20


def read_lock(folder: Path) -> Mapping[str, Any]:
    """The lock of a run's folder; {} where there is none that can be read."""
    import yaml  # slow to import, and opening a run does without

    path = folder / LOCK
    try:
        if path.stat().st_size > _LONGEST:
            return {}
        # A safe loader, in C where PyYAML was built with it.
        found = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}

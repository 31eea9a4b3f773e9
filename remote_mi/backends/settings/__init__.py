"""The settings of a project: `remote-mi.yaml`. The file and every key in it are optional.

    prefer: [local, ndif]                   # the order in which `auto` tries backends
    hosts: [here, https://api.ndif.us]      # the servers that `ndif` expands to in `prefer`
    limits: {memory: 16GB, gpu_memory: 20GB, download: 10GB, ask_above: 200MB,
             upload: 10MB, results: 1GB}
    studies: {max_remote: 8}

The NDIF key is never stored in it; `remote-mi login` stores the key.
"""

from __future__ import annotations

from pathlib import Path

from remote_mi.backends.settings.values import (
    FILE,
    HERE,
    Limits,
    Settings,
    StudySettings,
    normalize_host,
)

__all__ = [
    "FILE",
    "HERE",
    "Limits",
    "Settings",
    "StudySettings",
    "load",
    "normalize_host",
]


def load(project: Path) -> Settings:
    """The settings of a project; the defaults if it has no file.

    Raises:
        UsageError: naming every mistake with file, line and column.
    """
    path = project / FILE
    if not path.exists() and not path.is_symlink():
        return Settings()
    from remote_mi.backends.settings.file import read  # not above: it imports pydantic

    return read(path)

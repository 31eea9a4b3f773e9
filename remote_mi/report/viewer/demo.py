"""A recorded run that ships with the package, to view without downloading a model."""

from __future__ import annotations

from pathlib import Path

from remote_mi.common.paths import check_unpacked
from remote_mi.store.run_index import run_names

_FOLDER = Path(__file__).resolve().parent / "recorded"


def demo_run() -> Path:
    """Folder of the recorded run to show: the newest."""
    return _FOLDER / run_names(check_unpacked(_FOLDER))[-1]

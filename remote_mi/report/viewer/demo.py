"""A recorded run that comes with the package, to be looked at before any model is there."""

from __future__ import annotations

from pathlib import Path

from remote_mi.store.run_index import run_names

_FOLDER = Path(__file__).resolve().parent / "recorded"


def demo_run() -> Path:
    """Folder of the recorded run that is shown first: the newest."""
    return _FOLDER / run_names(_FOLDER)[-1]

"""Opening what was run before, from Python."""

from __future__ import annotations

from pathlib import Path

from remote_mi.paths import project_folder
from remote_mi.results import Result
from remote_mi.store.runs import Runs


def load_run(run: str | None = None, project: str | Path | None = None) -> Result:
    """The result of a run of a project.

    Args:
        run: full name, id or prefix of an id; the newest by default.
        project: folder that holds runs/; the working folder by default.

    Raises:
        NotFound, UsageError, Mismatch: if there is none, several fit, or it is damaged.
    """
    runs = Runs(Path(project).absolute() if project else project_folder())
    return runs.read(runs.find(run))

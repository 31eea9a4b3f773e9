"""Study files: grids of jobs, written in YAML (docs/studies.md says how).

`read` checks everything that can be known without a tokenizer, and reports all mistakes at once.
`available` and `find` import no pydantic, so that lists and help stay quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remote_mi.common.named_files import find_file, named_files
from remote_mi.jobs.studies.points import Point as Point
from remote_mi.jobs.studies.points import Study as Study

__all__ = ["Point", "Study", "available", "find", "read", "schema"]


def read(path: Path, project: Path) -> Study:
    """The study that a file describes, with all its points.

    Args:
        project: where its own recipes and phenomena lie; files are relative to it.

    Raises:
        UsageError: naming every mistake with file, line and column.
    """
    from remote_mi.jobs.studies.reading import study_of

    return study_of(path, project)


def schema() -> dict[str, Any]:
    """The JSON schema of a study file, for editors."""
    from remote_mi.jobs.studies.structure import schema as made

    return made()


def available(project: Path) -> dict[str, Path]:
    """Name → file of every study; a project's own hides a built-in one of the same name."""
    return named_files("studies", project)


def find(name: str, project: Path) -> Path:
    """The file of a study by its name, or by a path: from the working folder, or the project.

    Raises:
        NotFound: with the nearest name.
    """
    return find_file("studies", "study", name, project)

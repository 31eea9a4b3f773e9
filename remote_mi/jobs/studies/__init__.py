"""Study files: grids of jobs, written in YAML (see docs/studies.md).

`read` checks everything that can be checked without a tokenizer, and reports all mistakes at once.
`available` and `find` do not import pydantic, so that lists and help stay fast.
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
        project: with its own recipes and phenomena; file names are relative to it.

    Raises:
        UsageError: naming every mistake with file, line and column.
    """
    from remote_mi.jobs.studies.reading import load_study

    return load_study(path, project)


def schema() -> dict[str, Any]:
    """The JSON schema of a study file, for editors."""
    from remote_mi.jobs.studies.structure import schema as made

    return made()


def available(project: Path) -> dict[str, Path]:
    """Name → file of every study; a project's study hides a built-in one of the same name."""
    return named_files("studies", project)


def find(name: str, project: Path) -> Path:
    """The file of a study, from its name or from a path relative to the working folder or project.

    Raises:
        NotFound: with the nearest name.
    """
    return find_file("studies", "study", name, project)

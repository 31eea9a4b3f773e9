"""Study files: grids of jobs, written in YAML (docs/studies.md says how).

`read` checks everything that can be known without a tokenizer, and reports all mistakes at once.
`available` and `find` import no pydantic, so that lists and help stay quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remote_mi.errors import NotFound, not_found
from remote_mi.paths import builtin_folder
from remote_mi.study_file.points import Point as Point
from remote_mi.study_file.points import Study as Study

__all__ = ["Point", "Study", "available", "find", "folders", "read", "schema"]


def read(path: Path, project: Path) -> Study:
    """The study that a file describes, with all its points.

    Args:
        project: where its own recipes and phenomena lie; files are relative to it.

    Raises:
        UsageError: naming every mistake with file, line and column.
    """
    from remote_mi.study_file.reading import study_of

    return study_of(path, project)


def schema() -> dict[str, Any]:
    """The JSON schema of a study file, for editors."""
    from remote_mi.study_file.structure import schema as made

    return made()


def folders(project: Path) -> list[tuple[str, Path]]:
    """Where studies are looked for: the project's own, then the built-in ones."""
    return [
        ("project", project / "recipes" / "studies"),
        ("project", project / "studies"),
        ("built-in", builtin_folder() / "studies"),
    ]


def available(project: Path) -> dict[str, Path]:
    """Name → file of every study; a project's own hides a built-in one of the same name."""
    found: dict[str, Path] = {}
    for _, folder in folders(project):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find(name: str, project: Path) -> Path:
    """The file of a study by its name, or by a path: from the working folder, or the project.

    Raises:
        NotFound: with the nearest name.
    """
    known = available(project)
    if not name.endswith((".yaml", ".yml")):
        if name not in known:
            raise not_found("study", name, known, "remote-mi study ls")
        return known[name]
    for path in (Path(name).expanduser(), project / name):
        if path.is_file():
            return path
    raise NotFound(f"there is no file {name}", "`remote-mi study ls` lists the studies by name")

"""YAML files that are referred to by name: phenomena and studies, from the project or built in."""

from __future__ import annotations

import os
from pathlib import Path

from remote_mi.common.errors import NotFound, not_found
from remote_mi.common.paths import builtin_folder


def named_files(kind: str, project: Path) -> dict[str, Path]:
    """All files of a kind, by name; a project's file hides a built-in singular of the same name.

    Args:
        kind: "phenomena" or "studies", which is also the folder's name.
    """
    found: dict[str, Path] = {}
    for parent in (project / "recipes", project, builtin_folder()):
        for path in sorted((parent / kind).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_file(kind: str, singular: str, name: str, project: Path) -> Path:
    """Find a file by name, or by a path relative to the working folder or the project.

    Args:
        kind: as for `named_files`. singular: the singular of kind, e.g. "study".

    Raises:
        NotFound: suggesting the nearest name.
    """
    listed = f"remote-mi {kind if kind == 'phenomena' else singular} ls"
    if not name.endswith((".yaml", ".yml")):
        known = named_files(kind, project)
        if name not in known:
            raise not_found(singular, name, known, listed)
        return known[name]
    try:
        given = Path(name).expanduser()
    except RuntimeError:  # "~user" of an unknown user
        given = Path(name)
    for path in (given, project / name):
        if os.path.isfile(path):
            return path
    raise NotFound(f"there is no file {name}", f"`{listed}` lists the {kind} by name")

"""YAML files that are known by a name: phenomena and studies, a project's own and the built-in."""

from __future__ import annotations

from pathlib import Path

from remote_mi.common.errors import NotFound, not_found
from remote_mi.common.paths import builtin_folder


def named_files(kind: str, project: Path) -> dict[str, Path]:
    """Name → file of every one; a project's own hides a built-in one of the same name.

    Args:
        kind: "phenomena" or "studies", the name of their folders.
    """
    found: dict[str, Path] = {}
    for parent in (project / "recipes", project, builtin_folder()):
        for path in sorted((parent / kind).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_file(kind: str, one: str, name: str, project: Path) -> Path:
    """The file of a name, or of a path: from the working folder, or the project.

    Args:
        kind: as for `named_files`. one: what one of them is called.

    Raises:
        NotFound: with the nearest name.
    """
    listed = f"remote-mi {kind if kind == 'phenomena' else one} ls"
    if not name.endswith((".yaml", ".yml")):
        known = named_files(kind, project)
        if name not in known:
            raise not_found(one, name, known, listed)
        return known[name]
    try:
        given = Path(name).expanduser()
    except RuntimeError:  # of a user that there is not
        given = Path(name)
    for path in (given, project / name):
        if path.is_file():
            return path
    raise NotFound(f"there is no file {name}", f"`{listed}` lists the {kind} by name")

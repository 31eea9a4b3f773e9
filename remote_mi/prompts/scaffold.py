"""Creating a new phenomenon in the user's project, from a working file with the name replaced."""

from __future__ import annotations

from pathlib import Path

from remote_mi.common.errors import UsageError
from remote_mi.prompts import phenomena
from remote_mi.recipes.scaffold import check_name, write_scaffold


def new_phenomenon(name: str, project: Path) -> Path:
    """Write a new phenomenon into the project; existing files are never overwritten.

    Raises:
        UsageError: if the name is invalid or taken.
        StoreError: if the project cannot be written.
    """
    check_name(name, "phenomenon")
    known = phenomena.phenomenon_files(project)
    if name in known:
        raise UsageError(
            f"there is already a phenomenon {name!r}: {known[name]}",
            "choose another name; to change that one, copy its file into recipes/phenomena/",
        )
    target = project / "recipes" / "phenomena" / f"{name}.yaml"
    return write_scaffold({target: "phenomenon.yaml"}, "phenomenon", name)[0]

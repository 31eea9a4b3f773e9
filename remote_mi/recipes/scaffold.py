"""Creating a new recipe and its test in the user's project.

They are copies of the working files in `recipes/scaffolds`, with the name replaced.
"""

from __future__ import annotations

import keyword
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal

from remote_mi.common.errors import StoreError, UsageError
from remote_mi.common.paths import builtin_folder
from remote_mi.recipes import catalog

Scaffold = Literal["pair", "prompt"]
#: The placeholder for the name in the files that are copied.
_PLACEHOLDER = {"recipe": "my_recipe", "phenomenon": "my_phenomenon"}
_LONGEST = 40


def new_recipe(name: str, over: Scaffold, project: Path) -> list[Path]:
    """Write a new recipe and its test into the project; existing files are never overwritten.

    Returns:
        The recipe's file and the test's.

    Raises:
        UsageError: if the name is invalid or taken.
        StoreError: if the project cannot be written.
    """
    check_name(name, "recipe")
    if _is_importable(name):
        raise UsageError(
            f"a recipe named {name!r} would hide the Python module of that name",
            f"choose another name, e.g. {name}_recipe",
        )
    taken = {path.stem: path for _, path in catalog.recipe_files(project)}
    taken |= {card.name: card.path for card in _readable_cards(project) if card.path}
    if name in taken:
        raise UsageError(
            f"there is already a recipe {name!r}: {taken[name]}", "choose another name"
        )
    folder = project / "recipes"
    if folder.resolve() == builtin_folder().resolve():
        folder = folder / "techniques"  # the folder of this package's own recipes
    targets = {
        folder / f"{name}.py": f"over_{over}.py",
        project / "tests" / f"test_{name}.py": f"check_over_{over}.py",
    }
    return write_scaffold(targets, "recipe", name)


def check_name(name: str, what: str) -> None:
    """Check that a text can be the name of a recipe or phenomenon.

    Raises:
        UsageError: suggesting a valid name.
    """
    proposal = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()[:_LONGEST]
    if not re.match(r"[a-z]", proposal) or keyword.iskeyword(proposal):
        proposal = f"my_{what}"
    hint = f"lower-case letters, digits and _, beginning with a letter, e.g. {proposal}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > _LONGEST:
        raise UsageError(f"{name!r} cannot be the name of a {what}", hint)
    if keyword.iskeyword(name):
        raise UsageError(f"{name!r} is a Python keyword and cannot be the name of a {what}", hint)


def _is_importable(name: str) -> bool:
    """Whether Python or an installed package has a module of this name.

    A recipe's folder comes first on Python's path, so its file would be imported instead.
    """
    installed = [folder for folder in sys.path if folder.endswith("-packages")]
    return (
        name in sys.stdlib_module_names
        or name == "remote_mi"
        or PathFinder.find_spec(name, installed) is not None
    )


def _readable_cards(project: Path) -> list[catalog.Card]:
    """The cards of all files that can be read, skipping files with mistakes."""
    found = []
    for origin, path in catalog.recipe_files(project):
        try:
            found += catalog.cards_in(path, origin)
        except UsageError:
            continue
    return found


def write_scaffold(targets: dict[Path, str], what: str, name: str) -> list[Path]:
    """Copy files of `recipes/scaffolds` with the name replaced: all of them, or none.

    Args:
        targets: the file to write → the name of its scaffold. what: "recipe" or "phenomenon".

    Raises:
        UsageError: if a file exists. StoreError: if it cannot be written.
    """
    for target in targets:
        if target.exists():
            raise UsageError(f"{target} exists and was not overwritten", "choose another name")
    written: list[Path] = []
    try:
        for target, scaffold in targets.items():
            text = (builtin_folder() / "scaffolds" / scaffold).read_text(encoding="utf-8")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("x", encoding="utf-8") as file:
                written.append(target)
                file.write(text.replace(_PLACEHOLDER[what], name))
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise StoreError(f"cannot write {what} {name!r}: {error}") from None
    return written

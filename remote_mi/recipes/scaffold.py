"""A new recipe and its test in the user's project.

They are copies of `recipes/scaffolds`, which are working files, with the new name put in.
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
#: What the name is called in the files that are copied.
_PLACEHOLDER = {"recipe": "my_recipe", "phenomenon": "my_phenomenon"}
_LONGEST = 40


def new_recipe(name: str, over: Scaffold, project: Path) -> list[Path]:
    """Write a recipe and its test into the project; nothing that is there is overwritten.

    Returns:
        The recipe's file and the test's.

    Raises:
        UsageError: if the name cannot be one, or is taken.
        StoreError: if the project cannot be written.
    """
    check_name(name, "recipe")
    if _is_importable(name):
        raise UsageError(
            f"the recipe name {name!r} is that of a Python module, which it would hide",
            f"choose another, e.g. {name}_recipe",
        )
    taken = {path.stem: path for _, path in catalog.recipe_files(project)}
    taken |= {card.name: card.path for card in _readable_cards(project) if card.path}
    if name in taken:
        raise UsageError(f"there is a recipe {name!r}: {taken[name]}", "choose another name")
    folder = project / "recipes"
    if folder.resolve() == builtin_folder().resolve():
        folder = folder / "techniques"  # where the recipes of this package lie
    targets = {
        folder / f"{name}.py": f"over_{over}.py",
        project / "tests" / f"test_{name}.py": f"check_over_{over}.py",
    }
    return write_scaffold(targets, "recipe", name)


def check_name(name: str, what: str) -> None:
    """Refuse what cannot be the name of a recipe or phenomenon.

    Raises:
        UsageError: with a name that can.
    """
    proposal = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()[:_LONGEST]
    if not re.match(r"[a-z]", proposal) or keyword.iskeyword(proposal):
        proposal = f"my_{what}"
    hint = f"lower-case letters, digits and _, beginning with a letter, e.g. {proposal}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > _LONGEST:
        raise UsageError(f"{name!r} cannot be the name of a {what}", hint)
    if keyword.iskeyword(name):
        raise UsageError(f"{name!r} is a word of Python and cannot be the name of a {what}", hint)


def _is_importable(name: str) -> bool:
    """Whether Python or an installed package has a module of this name.

    A recipe's folder comes first on Python's path, so its file would be found instead.
    """
    installed = [folder for folder in sys.path if folder.endswith("-packages")]
    return (
        name in sys.stdlib_module_names
        or name == "remote_mi"
        or PathFinder.find_spec(name, installed) is not None
    )


def _readable_cards(project: Path) -> list[catalog.Card]:
    """The cards of all files that can be read; a mistake in one does not get in the way."""
    found = []
    for origin, path in catalog.recipe_files(project):
        try:
            found += catalog.cards_in(path, origin)
        except UsageError:
            continue
    return found


def write_scaffold(targets: dict[Path, str], what: str, name: str) -> list[Path]:
    """Copy files of `recipes/scaffolds` with the name put in: all of them, or none.

    Args:
        targets: the file to write → the name of its scaffold. what: "recipe" or "phenomenon".

    Raises:
        UsageError: if one is there already. StoreError: if it cannot be written.
    """
    for target in targets:
        if target.exists():
            raise UsageError(f"{target} exists and is not overwritten", "choose another name")
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

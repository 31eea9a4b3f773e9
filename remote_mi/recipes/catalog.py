"""Finding recipes: in the project, in installed packages, and among the built-in ones.

Lists and lookups read cards from the files' source, without importing them;
`remote_mi.recipes.loading` imports a file when a recipe is run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from remote_mi.common.authors_code import contained, describe_error
from remote_mi.common.errors import UsageError, not_found
from remote_mi.common.paths import builtin_folder
from remote_mi.common.plug_ins import entry_points
from remote_mi.recipes.card import Card
from remote_mi.recipes.card_source import cards_in

ENTRY_POINTS = "remote_mi.recipes"


def recipe_files(project: Path) -> Iterator[tuple[str, Path]]:
    """(origin, file) of every recipe file, each once: project, plug-ins, built-in."""
    seen: set[Path] = set()
    builtin = builtin_folder().resolve()
    found: list[tuple[str, Path]] = []
    for folder in (project / "recipes", project / "recipes" / "techniques"):
        if not folder.resolve().is_relative_to(builtin):
            found += [("project", path) for path in sorted(folder.glob("*.py"))]
    found += [("plug-in", path) for path in _plug_in_files()]
    found += [("built-in", path) for path in sorted((builtin / "techniques").glob("*.py"))]
    for origin, path in found:
        if path.resolve() not in seen and not path.name.startswith("_"):
            seen.add(path.resolve())
            yield origin, path


def _plug_in_files() -> Iterator[Path]:
    """Files that installed packages register in the entry point group `remote_mi.recipes`."""
    for point in entry_points(ENTRY_POINTS):
        try:
            with contained():  # it imports the packages above the module
                spec = importlib.util.find_spec(point.module)
        except Exception as error:
            raise UsageError(
                f"the recipes {point.name!r} of {point.value} cannot be found: "
                f"{describe_error(error)}",
                "fix or uninstall the package that provides them",
            ) from error
        if spec is not None and spec.origin:
            yield Path(spec.origin)


def all_cards(project: Path) -> list[Card]:
    """The cards of all recipes.

    Raises:
        UsageError: if a file cannot be read, or two recipes have one name.
    """
    cards: dict[str, Card] = {}
    for origin, path in recipe_files(project):
        for card in cards_in(path, origin):
            if card.name in cards:
                raise UsageError(
                    f"two recipes are named {card.name!r}: {cards[card.name].path} and {path}",
                    "rename one of them, or name the file: remote-mi run FILE.py",
                )
            cards[card.name] = card
    return list(cards.values())


def find(name: str, project: Path, lenient: bool = False) -> Card:
    """The card of a recipe by name, or by file: `FILE.py`, `FILE.py:name`.

    Mistakes in other files are ignored if the recipe is found.

    Args:
        lenient: as for `cards_in`, for a recipe given by file.

    Raises:
        NotFound: suggesting the nearest name.
        UsageError: if the file has a mistake, or does not define exactly one recipe.
    """
    file, _, wanted = name.partition(":")
    if file.endswith(".py"):
        return _in_file(Path(file), wanted, lenient)
    files = list(recipe_files(project))
    known: list[str] = []
    broken: list[UsageError] = []
    found: list[Card] = []
    # First the files that contain the word, as reading all of them takes longer than a hit.
    for some in ([file for file in files if _may_define(name, file[1])], files):
        for origin, path in some:
            try:
                cards = cards_in(path, origin)
            except UsageError as error:
                if path.stem == name:
                    raise
                broken.append(error)
                continue
            known += [card.name for card in cards]
            found += [card for card in cards if card.name == name]
        if found:
            break
    if len(found) > 1:
        raise UsageError(
            f"two recipes are named {name!r}: {found[0].path} and {found[1].path}",
            "rename one of them, or name the file: remote-mi run FILE.py",
        )
    if not found:
        if broken:
            raise broken[0]
        raise not_found("recipe", name, known, "remote-mi recipes ls")
    return found[0]


def _may_define(name: str, path: Path) -> bool:
    """Whether a file is called like a recipe, or contains its name; False if it is unreadable."""
    try:
        return path.stem == name or name.encode() in path.read_bytes()
    except (OSError, UnicodeEncodeError):
        return False


def _in_file(path: Path, wanted: str, lenient: bool) -> Card:
    cards = cards_in(path, lenient=lenient)
    if wanted:
        cards = [card for card in cards if card.name == wanted] or cards[:0]
    if not cards:
        what = f"no recipe named {wanted!r}" if wanted else "no recipe"
        raise UsageError(
            f"{path} defines {what}", "decorate a function with @recipe(over=..., returns={...})"
        )
    if len(cards) > 1:
        names = ", ".join(card.name for card in cards)
        raise UsageError(
            f"{path} defines several recipes: {names}", f"name one: {path}:{cards[0].name}"
        )
    return cards[0]

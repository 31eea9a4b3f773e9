"""Finding recipes: the project's own, those of installed packages, and the built-in ones.

Lists and lookups read cards from the files' source, without importing them. `load_function`
imports a file, under a module name of our own, when a recipe is to run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from remote_mi.errors import UsageError, line_in, not_found
from remote_mi.key import local_modules
from remote_mi.paths import builtin_folder
from remote_mi.recipe import Card
from remote_mi.recipe_source import cards_in

#: Parent of the module names recipe files are imported under; it ships to servers by value.
NAMESPACE = "remote_mi_recipe_files"
ENTRY_POINTS = "remote_mi.recipes"


def recipe_files(project: Path) -> Iterator[tuple[str, Path]]:
    """(origin, file) of every recipe file, each file once: project, plug-ins, built-in."""
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
    """Files that installed packages name under the entry point group `remote_mi.recipes`."""
    for point in entry_points(group=ENTRY_POINTS):
        spec = importlib.util.find_spec(point.module)
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


def find(name: str, project: Path) -> Card:
    """The card of a recipe by name, or by its file: `FILE.py`, `FILE.py:name`.

    A mistake in a file other than the one that is asked for does not get in the way.

    Raises:
        NotFound: with the nearest name.
        UsageError: if the file has a mistake, or defines no or several recipes.
    """
    file, _, wanted = name.partition(":")
    if file.endswith(".py"):
        return _in_file(Path(file), wanted)
    found: list[Card] = []
    known: list[str] = []
    broken: list[UsageError] = []
    for origin, path in recipe_files(project):
        try:
            cards = cards_in(path, origin)
        except UsageError as error:
            if path.stem == name:
                raise
            broken.append(error)
            continue
        known += [card.name for card in cards]
        found += [card for card in cards if card.name == name]
    if len(found) > 1:
        raise UsageError(f"two recipes are named {name!r}: {found[0].path} and {found[1].path}",
                         "rename one of them, or name the file: remote-mi run FILE.py")  # fmt: skip
    if not found:
        if broken:
            raise broken[0]
        raise not_found("recipe", name, known, "remote-mi recipes ls")
    return found[0]


def _in_file(path: Path, wanted: str) -> Card:
    cards = cards_in(path)
    if wanted:
        cards = [card for card in cards if card.name == wanted] or cards[:0]
    if not cards:
        what = f"no recipe named {wanted!r}" if wanted else "no recipe"
        raise UsageError(f"{path} defines {what}",
                         "decorate a function with @recipe(over=..., returns={...})")  # fmt: skip
    if len(cards) > 1:
        names = ", ".join(card.name for card in cards)
        raise UsageError(f"{path} defines several recipes: {names}",
                         f"name one: {path}:{cards[0].name}")  # fmt: skip
    return cards[0]


def load_function(card: Card, project: Path) -> Callable[..., Any]:
    """Import a recipe's file and give its function; safe for several threads.

    Each content of a file gets a module of its own, so that an edited file runs as edited.

    Raises:
        UsageError: if the import fails, with the file's own line.
    """
    with _importing:
        return _load(card, project)


_importing = threading.Lock()


class _FromSource(SourceFileLoader):
    """Compiles a file each time.

    Python takes kept bytecode for that of a file of the same second and size, and two edits of a
    recipe can share both.
    """

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError


def _load(card: Card, project: Path) -> Callable[..., Any]:
    assert card.path is not None
    path = card.path.resolve()
    companions = local_modules(path, project)
    mark = hashlib.sha256(str(path).encode())
    for file in (path, *companions.values()):
        mark.update(file.read_bytes())
    name = f"{NAMESPACE}.{path.stem}_{mark.hexdigest()[:12]}"
    if name not in sys.modules:
        ship_by_value(companions)
        _drop_edited(companions)
        loader = _FromSource(name, str(path))
        spec = importlib.util.spec_from_file_location(name, path, loader=loader)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        _forget(path)
        sys.modules[name] = module
        for folder in (str(project), str(path.parent)):
            if folder in sys.path:
                sys.path.remove(folder)
            sys.path.insert(0, folder)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            line = line_in(error, path)
            raise UsageError(f"{path}:{line}: importing the recipe failed: "
                             f"{type(error).__name__}: {error}") from error  # fmt: skip
    return getattr(sys.modules[name], card.name)


def _forget(path: Path) -> None:
    """Drop what Python and nnsight remember of a file's text, so that it runs as it is now."""
    from nnsight.tracing import globals as traced

    linecache.cache.pop(str(path), None)
    traced.SOURCES.pop(str(path), None)
    for site in [site for site in traced.BLOCKS if site[0] == str(path)]:
        del traced.BLOCKS[site]


#: Local module → digest of its file when it was imported for a recipe.
_imported: dict[str, str] = {}


def _drop_edited(companions: Mapping[str, Path]) -> None:
    """Let Python import a recipe's local modules again where their files have changed."""
    now = {
        name: hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()
        for name, file in companions.items()
    }
    if any(_imported.get(name, digest) != digest for name, digest in now.items()):
        # All of them: one that did not change may hold names of one that did.
        for name, file in companions.items():
            sys.modules.pop(name, None)
            Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
            _forget(file)
    _imported.update(now)
    importlib.invalidate_caches()


def ship_by_value(companions: Mapping[str, Path]) -> None:
    """Let recipe files, these local modules and the kit travel to a server as source."""
    import nnsight

    for module in (NAMESPACE, "remote_mi.interventions", *companions):
        nnsight.register(module)

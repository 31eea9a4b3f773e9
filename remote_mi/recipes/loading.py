"""Importing a recipe's file, and what it imports of the project, without changing the program.

A recipe file becomes a module under a name of our own. The local modules that it imports are its
own, too: each content of them is imported once for it, and they stand in `sys.modules`, under the
names that the recipe knows them by, only while the recipe is imported or run. So a program keeps
its `sys.path` and the modules of the same names that it has, and a recipe runs with the code that
its key was made of, whatever the program imported under these names.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import linecache
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from remote_mi.common.errors import UsageError, line_number_in
from remote_mi.recipes.card import Card
from remote_mi.recipes.code_identity import local_modules

#: Parent of the module names recipe files are imported under; it ships to servers by value.
NAMESPACE = "remote_mi_recipe_files"

#: Held while imports lead to a recipe's own modules; taken after the turn of `at_work`.
_importing = threading.RLock()


class _FromSource(SourceFileLoader):
    """Compiles a file each time.

    Python takes kept bytecode for that of a file of the same second and size, and two edits of a
    recipe can share both.
    """

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError


class _ImportScope(MetaPathFinder):
    """Where a recipe's imports lead: its local modules, and the folders that they lie in.

    Attributes:
        files: module name → file, as `remote_mi.recipes.code_identity.local_modules` has it.
        folders: the recipe's own folder and the project.
        modules: what was imported for it, by name, as long as it does not run.
    """

    def __init__(self, files: Mapping[str, Path], folders: list[Path]) -> None:
        self.files = dict(files)
        self.folders = [str(folder) for folder in folders]
        self.modules: dict[str, ModuleType] = {}
        self._roots = {name.partition(".")[0] for name in files}

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """What Python asks for each import."""
        file = self.files.get(fullname)
        if file is None:
            return None
        inside = [str(file.parent)] if file.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            fullname,
            file,
            loader=_FromSource(fullname, str(file)),
            submodule_search_locations=inside,
        )

    @contextmanager
    def active(self) -> Iterator[None]:
        """A context in which imports lead here, and these modules travel to servers as source.

        One at a time: two recipes may have different modules of one name.
        """
        with _importing:
            if not self.files or self in sys.meta_path:  # nothing to find, or in it already
                yield
                return
            theirs = self._enter()
            try:
                yield
            finally:
                self._leave(theirs)

    def _enter(self) -> tuple[dict[str, ModuleType], set[str]]:
        """Returns the program's own modules of these names, and what was not sent as source."""
        from cloudpickle.cloudpickle import list_registry_pickle_by_value

        theirs = self._take_out()
        sys.modules.update(self.modules)
        sys.path[:0] = self.folders
        sys.meta_path.insert(0, self)
        added = set(self.files) - list_registry_pickle_by_value()
        ship_by_value(added)
        return theirs, added

    def _leave(self, theirs: tuple[dict[str, ModuleType], set[str]]) -> None:
        from cloudpickle.cloudpickle import _PICKLE_BY_VALUE_MODULES

        self.modules = self._take_out()
        sys.modules.update(theirs[0])
        _PICKLE_BY_VALUE_MODULES.difference_update(theirs[1])
        sys.meta_path.remove(self)
        for folder in self.folders:
            if folder in sys.path:  # the first of its name is the one that was put in
                sys.path.remove(folder)

    def _take_out(self) -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.partition(".")[0] in self._roots]
        return {name: sys.modules.pop(name) for name in names}

    def refuse_names_of_libraries(self, path: Path) -> None:
        """Refuse a local module that would hide an installed one from the whole program.

        Raises:
            UsageError: naming it.
        """
        installed = [sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")]
        for name in sorted(self._roots):
            file = getattr(sys.modules.get(name), "__file__", None) or ""
            if name in sys.stdlib_module_names or any(
                Path(file).is_relative_to(folder) for folder in installed
            ):
                raise UsageError(
                    f"{path}: its local module {name!r} has the name of an installed one",
                    "rename it, and the import",
                )


#: Module name of a recipe file → where its imports lead.
_scopes: dict[str, _ImportScope] = {}


def load_function(card: Card, project: Path) -> Callable[..., Any]:
    """Import a recipe's file and give its function; safe for several threads.

    Each content of a file gets a module of its own, so that an edited file runs as edited.

    Raises:
        UsageError: if the import fails, with the file's own line.
    """
    with _importing:
        return _import_recipe(card, project)


def _import_recipe(card: Card, project: Path) -> Callable[..., Any]:
    assert card.path is not None
    path = card.path.resolve()
    companions = local_modules(path, project)
    mark = hashlib.sha256(str(path).encode())
    for file in (path, *companions.values()):
        mark.update(file.read_bytes())
    name = f"{NAMESPACE}.{path.stem}_{mark.hexdigest()[:12]}"
    if name not in sys.modules:
        ship_by_value()
        home = _ImportScope(companions, [path.parent, project])
        home.refuse_names_of_libraries(path)
        for file in (path, *companions.values()):
            _clear_source_caches(file)
        spec = importlib.util.spec_from_file_location(
            name, path, loader=_FromSource(name, str(path))
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        _scopes[name] = home
        try:
            with home.active():
                spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name], _scopes[name]
            line = line_number_in(error, path)
            raise UsageError(
                f"{path}:{line}: importing the recipe failed: {type(error).__name__}: {error}"
            ) from error
    return getattr(sys.modules[name], card.name)


def recipe_imports(function: Callable[..., Any]) -> Any:
    """A context in which a recipe's function runs: with its own local modules, by their names."""
    home = _scopes.get(getattr(function, "__module__", None) or "")
    return nullcontext() if home is None else home.active()


def _clear_source_caches(path: Path) -> None:
    """Drop what Python and nnsight remember of a file's text, so that it runs as it is now."""
    from nnsight.tracing import globals as traced

    linecache.cache.pop(str(path), None)
    traced.SOURCES.pop(str(path), None)
    for site in [site for site in traced.BLOCKS if site[0] == str(path)]:
        del traced.BLOCKS[site]


def ship_by_value(modules: set[str] | frozenset[str] = frozenset()) -> None:
    """Let recipe files, the kit and these modules travel to a server as source."""
    import nnsight

    for module in (NAMESPACE, "remote_mi.interventions", *modules):
        nnsight.register(module)

"""Importing a recipe's file and the project's modules that it needs, without side effects.

A recipe file becomes a module under a private name. The local modules that it imports are private
to it as well: each version of their content is imported once for it, and they are in `sys.modules`,
under the names that the recipe uses, only while the recipe is imported or run. So a program keeps
its `sys.path` and its own modules of the same names, and a recipe runs with the code that its key
was made from, whatever the program has imported under these names.
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
from contextlib import ExitStack, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from remote_mi.common.authors_code import contained, describe_error
from remote_mi.common.errors import UsageError, line_number_in
from remote_mi.recipes.card import Card
from remote_mi.recipes.code_identity import local_modules
from remote_mi.recipes.own_metrics import OwnMetricCard

#: Parent package of imported recipe files; its modules are sent to servers by value.
NAMESPACE = "remote_mi_recipe_files"

#: Held while a recipe's own modules are importable; acquired after `exclusive_model_use`.
_importing = threading.RLock()


class _FromSource(SourceFileLoader):
    """Compiles a file every time, ignoring cached bytecode.

    Python matches bytecode to a file by modification time (in seconds) and size, and two edits of a
    recipe can share both.
    """

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError


class _ImportScope(MetaPathFinder):
    """Resolves a recipe's imports to its own local modules.

    Attributes:
        files: module name → file, from `remote_mi.recipes.code_identity.local_modules`.
        folders: the recipe's own folder and the project.
        modules: the modules imported for it, by name, while it is not active.
    """

    def __init__(self, files: Mapping[str, Path], folders: list[Path]) -> None:
        self.files = dict(files)
        self.folders = [str(folder) for folder in folders]
        self.modules: dict[str, ModuleType] = {}
        self._roots = {name.partition(".")[0] for name in files}

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Called by Python for each import."""
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
        """A context in which imports resolve here, and these modules are sent to servers by value.

        One at a time: two recipes may have different modules of the same name.
        """
        with _importing:
            if not self.files or self in sys.meta_path:  # nothing to resolve, or already active
                yield
                return
            theirs = self._enter()
            try:
                yield
            finally:
                self._leave(theirs)

    def _enter(self) -> tuple[dict[str, ModuleType], set[str]]:
        """Returns the program's own modules of these names, and the ones newly sent by value."""
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
            if folder in sys.path:  # the first occurrence is the one that was inserted
                sys.path.remove(folder)

    def _take_out(self) -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.partition(".")[0] in self._roots]
        return {name: sys.modules.pop(name) for name in names}

    def refuse_names_of_libraries(self, path: Path) -> None:
        """Refuse a local module that would hide an installed one from the whole program.

        Raises:
            UsageError: naming the module.
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


#: Module name of a recipe file → the scope of its imports.
_scopes: dict[str, _ImportScope] = {}


def load_function(card: Card, project: Path, afresh: bool = False) -> Callable[..., Any]:
    """Import a recipe's file and return its function; thread-safe.

    A file is imported as a new module whenever its content has changed.

    Args:
        afresh: import it even if it is already imported, with its variables as they are at first.

    Raises:
        UsageError: if the import fails, with the line in the file.
    """
    with _importing:
        assert card.path is not None
        return getattr(_import_file(card.path.resolve(), project, afresh), card.name)


def load_own_metric(metric: OwnMetricCard, project: Path) -> Callable[..., Any]:
    """Import the file of a project's own metric and return its function; as `load_function`."""
    with _importing:
        return getattr(_import_file(metric.path.resolve(), project, False), metric.name)


def _import_file(path: Path, project: Path, afresh: bool) -> ModuleType:
    """A file of recipes or metrics as a module, and its local modules."""
    companions = local_modules(path, project)
    mark = hashlib.sha256(str(path).encode())
    for file in (path, *companions.values()):
        mark.update(file.read_bytes())
    name = f"{NAMESPACE}.{path.stem}_{mark.hexdigest()[:12]}"
    if afresh or name not in sys.modules:
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
            with home.active(), contained():
                spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name], _scopes[name]
            line = line_number_in(error, path)
            raise UsageError(
                f"{path}:{line}: importing it failed: {describe_error(error)}"
            ) from error
    return sys.modules[name]


@contextmanager
def recipe_imports(*functions: Callable[..., Any]) -> Iterator[None]:
    """A context in which a recipe's function can import its own local modules by name.

    Args:
        functions: the recipe's, and those of the project's own metrics.
    """
    with ExitStack() as active:
        for name in dict.fromkeys(getattr(one, "__module__", None) or "" for one in functions):
            if name in _scopes:
                active.enter_context(_scopes[name].active())
        yield


def _clear_source_caches(path: Path) -> None:
    """Clear Python's and nnsight's caches of a file's source, so that its current content runs."""
    from nnsight.tracing import globals as traced

    linecache.cache.pop(str(path), None)
    traced.SOURCES.pop(str(path), None)
    for site in [site for site in traced.BLOCKS if site[0] == str(path)]:
        del traced.BLOCKS[site]


def ship_by_value(modules: set[str] | frozenset[str] = frozenset()) -> None:
    """Have recipe files, the kit and these modules sent to servers as source."""
    import nnsight

    for module in (NAMESPACE, "remote_mi.interventions", *modules):
        nnsight.register(module)

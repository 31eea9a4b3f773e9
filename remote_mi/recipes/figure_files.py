"""Kinds of figures defined by projects and packages, found by name and imported on demand.

A kind of figure is a subclass of `remote_mi.recipes.figures.Figure`, and is registered when the
class is created. A recipe's card and a run's document contain only its name; if that is not
registered yet, its file is imported: `figures/NAME.py` in the project, or the module that an
installed package registers as NAME in the entry point group `remote_mi.figures`. A run's own folder
is never searched.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from remote_mi.common.authors_code import contained, describe_error
from remote_mi.common.errors import UsageError, line_number_in
from remote_mi.common.paths import project_folder
from remote_mi.common.plug_ins import entry_point, entry_points

ENTRY_POINTS = "remote_mi.figures"
#: The project's folder of figure files, and the package that its recipes import them from.
FOLDER = "figures"
_NAMESPACE = "remote_mi_figure_files"


def import_kind(name: str) -> None:
    """Import the file or module that defines a kind of figure, if there is one.

    Args:
        name: the kind, as in `Figure.kind`.

    Raises:
        UsageError: if the import fails.
    """
    path = project_folder() / FOLDER / f"{name}.py"
    if name.isidentifier() and path.is_file():
        _import_file(path)
        return
    if point := entry_point(ENTRY_POINTS, name):
        _import_module(point.module)


def figure_module(dotted: str) -> ModuleType | None:
    """The module that a recipe imports a figure class from; None if it defines no figures.

    Raises:
        UsageError: if the import fails.
    """
    folder, _, name = dotted.partition(".")
    path = project_folder() / folder / f"{name}.py"
    if folder == FOLDER and name.isidentifier() and path.is_file():
        return _import_file(path)
    if dotted not in sys.modules and dotted in {p.module for p in entry_points(ENTRY_POINTS)}:
        return _import_module(dotted)
    return sys.modules.get(dotted)


def _import_file(path: Path) -> ModuleType:
    """Import a file, as a new module whenever its content has changed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    mark = hashlib.sha256(str(path).encode() + content).hexdigest()[:12]
    name = f"{_NAMESPACE}.{path.stem}_{mark}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with contained():
            # From its source: bytecode of a file edited within the same second would be taken for it.
            exec(compile(content, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        line = getattr(error, "lineno", None) or line_number_in(error, path)
        raise _import_error(f"{path}:{line}", error) from error
    return module


def _import_module(dotted: str) -> ModuleType:
    try:
        with contained():
            return importlib.import_module(dotted)
    except Exception as error:
        raise _import_error(dotted, error) from error


def _import_error(where: str, error: Exception) -> UsageError:
    if isinstance(error, UsageError):
        return error
    return UsageError(f"{where}: importing the figure failed: {describe_error(error)}")

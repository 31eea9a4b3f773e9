"""Kinds of figures that others declare: found by name, and imported when one is met.

A kind of figure is a class of `remote_mi.recipes.figures.Figure`, and is known from the moment
the class exists. A recipe's card and a run's document only name it; where that name is not known
yet, its file is imported: `figures/NAME.py` of the project, or the module that an installed package
names NAME under the entry points `remote_mi.figures`. A run's own folder is never looked into.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from remote_mi.common.errors import UsageError, line_number_in
from remote_mi.common.paths import project_folder

ENTRY_POINTS = "remote_mi.figures"
#: The folder of a project, and the package that its recipes import from.
FOLDER = "figures"
_NAMESPACE = "remote_mi_figure_files"


def import_kind(name: str) -> None:
    """Import what declares a kind of figure, if anything does.

    Args:
        name: of the kind, as `Figure.kind` has it.

    Raises:
        UsageError: if its import fails.
    """
    path = project_folder() / FOLDER / f"{name}.py"
    if name.isidentifier() and path.is_file():
        _import_file(path)
        return
    from importlib.metadata import entry_points  # slow to import: help and lists need none of it

    for point in entry_points(group=ENTRY_POINTS, name=name):
        _import_module(point.module)


def figure_module(dotted: str) -> ModuleType | None:
    """The module that a recipe imports a class of figures from; None if it declares none.

    Raises:
        UsageError: if its import fails.
    """
    folder, _, name = dotted.partition(".")
    path = project_folder() / folder / f"{name}.py"
    if folder == FOLDER and name.isidentifier() and path.is_file():
        return _import_file(path)
    if dotted not in sys.modules and dotted in _installed():
        return _import_module(dotted)
    return sys.modules.get(dotted)


@functools.cache
def _installed() -> frozenset[str]:
    """The modules of installed packages that declare kinds of figures."""
    from importlib.metadata import entry_points

    return frozenset(point.module for point in entry_points(group=ENTRY_POINTS))


def _import_file(path: Path) -> ModuleType:
    """Each content of a file is a module of its own, so that an edited one counts as edited."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    mark = hashlib.sha256(str(path).encode() + content).hexdigest()[:12]
    name = f"{_NAMESPACE}.{path.stem}_{mark}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        line = getattr(error, "lineno", None) or line_number_in(error, path)
        raise _import_error(f"{path}:{line}", error) from error
    return module


def _import_module(dotted: str) -> ModuleType:
    try:
        return importlib.import_module(dotted)
    except Exception as error:
        raise _import_error(dotted, error) from error


def _import_error(where: str, error: Exception) -> UsageError:
    if isinstance(error, UsageError):
        return error
    return UsageError(f"{where}: importing the figure failed: {type(error).__name__}: {error}")

"""The identity of a recipe that was defined in a notebook or prompt, from its live objects.

As in `remote_mi.recipes.code_identity`, only what the function reaches counts; what it reaches in
files is read from the files.
"""

from __future__ import annotations

import ast
import inspect
import symtable
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.recipes.code_identity import (
    KIT,
    Closure,
    normalised_source,
    strip_docstrings,
)


def live_code_digest(function: Callable[..., Any], project: Path) -> str:
    """Digest of all project code that a function defined in a notebook or prompt reaches.

    Raises:
        UsageError: if its source is unavailable, or it reads a variable without a stable `repr`.
    """
    return _build_closure(function, project).digest()


def live_code_parts(function: Callable[..., Any], project: Path) -> dict[str, str]:
    """Like `code_parts`; the notebook's own definitions belong to the module "live"."""
    return _build_closure(function, project).digests()


def _build_closure(function: Callable[..., Any], project: Path) -> Closure:
    closure = Closure([project.resolve()])
    _Walk(closure, function).visit(function)
    return closure


def enclosing_variables(function: types.FunctionType) -> dict[str, Any]:
    """The variables of enclosing functions that a function sees, by name."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


class _Walk:
    """Adds live functions, classes and values to a closure.

    Args:
        recipe: the recipe's function; what else its module defines is live, too.
    """

    def __init__(self, closure: Closure, recipe: Callable[..., Any]) -> None:
        self.closure, self.home, self.name = closure, recipe.__module__, recipe.__name__
        self.seen: set[int] = set()

    def visit(self, value: Callable[..., Any]) -> None:
        """Add a function or class, and everything it reaches."""
        if id(value) in self.seen:
            return
        self.seen.add(id(value))
        name = getattr(value, "__name__", "?")
        try:
            tree = strip_docstrings(ast.parse(textwrap.dedent(inspect.getsource(value))))
        except (OSError, TypeError, SyntaxError):
            raise UsageError(
                f"the source of {name!r} is not available", "define it in a file or a notebook cell"
            ) from None
        text = normalised_source(tree.body[0])
        self._add(name, text)
        scope = _scope(value)
        for used in _outside_names(symtable.symtable(text, name, "exec")):
            if used in scope and scope[used] is not value:
                self._follow(used, scope[used])

    def _follow(self, name: str, value: Any) -> None:
        """Add what a variable refers to."""
        if callable(value):
            value = inspect.unwrap(value)  # a cached or otherwise wrapped function
        home = getattr(value, "__module__", "") or ""
        if isinstance(value, types.ModuleType):
            path = self.closure.find(value.__name__)
            if path is not None:
                self.closure.visit_all(self.closure.module(path, value.__name__))
        elif home.startswith(KIT) or (self.closure.find(home) if home != "__main__" else None):
            path = self.closure.find(home)
            if path is not None:
                self.closure.visit(self.closure.module(path, home), value.__name__)
        elif isinstance(value, (types.FunctionType, type)) and home == self.home:
            self.visit(value)
        elif isinstance(
            value, (str, int, float, bool, type(None), tuple, list, dict)
        ) or typing.get_origin(value):
            self._add(name, repr(value))
        elif not _is_from_library(value):
            raise UsageError(
                f"recipe {self.name!r} reads the variable {name!r} ({type(value).__name__}), which "
                "cannot be part of its key",
                "make it a parameter, a plain constant, or build it inside the function",
            )

    def _add(self, name: str, text: str) -> None:
        """Add a part. Two definitions can have one name: lambdas, or variables of two functions."""
        label, count = f"live:{name}", 1
        while self.closure.parts.get(label, text) != text:
            count += 1
            label = f"live:{name}#{count}"
        self.closure.parts[label] = text


def _scope(value: Callable[..., Any]) -> Mapping[str, Any]:
    """The variables that a function, or the methods of a class, see from outside."""
    if isinstance(value, types.FunctionType):
        return {**value.__globals__, **enclosing_variables(value)}
    module = sys.modules.get(value.__module__)
    scope = dict(vars(module)) if module else {}
    for member in vars(value).values():
        plain = getattr(member, "__func__", getattr(member, "fget", member))
        if isinstance(plain, types.FunctionType):
            scope.update({**plain.__globals__, **enclosing_variables(plain)})
    return scope


def _outside_names(table: symtable.SymbolTable) -> dict[str, None]:
    """The names that a definition reads from outside, in order: no argument, nothing it assigns."""
    whole = table.get_type() == "module"
    names = {
        symbol.get_name(): None
        for symbol in table.get_symbols()
        if symbol.is_referenced() and (whole or symbol.is_global())
    }
    for inner in table.get_children():
        names |= _outside_names(inner)
    return names


def _is_from_library(value: Any) -> bool:
    """Whether a variable is a function or class from a library, whose version is stored anyway."""
    if isinstance(value, types.MethodType):  # its object may hold anything
        return False
    return isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__"))

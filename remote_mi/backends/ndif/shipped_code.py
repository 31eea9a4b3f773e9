"""The code that is sent to a server with a recipe, found by following nnsight's serializer.

That is the recipe's function, and every function, class, module and value that it refers to.
`remote_mi.interventions` is sent too, but needs no check and is left out. Nothing is executed.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.recipes.card import Card
from remote_mi.recipes.live_code import enclosing_variables

_KIT = "remote_mi.interventions"
_AFTERWARDS = "do that part after the run, on the result, or use what the server has"


@dataclass(frozen=True)
class Definition:
    """One function that is sent.

    Attributes:
        path: its file, as shown to the user. node: its definition.
        scope: the globals and enclosing variables it sees.
        enclosing: names of variables of a function around it.
        arguments: for the recipe itself, its arguments after the model; else empty.
    """

    path: str
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: Mapping[str, Any]
    enclosing: frozenset[str] = frozenset()
    arguments: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Use:
    """Where something that is imported on the server is first used."""

    path: str
    line: int
    module: str
    fix: str = _AFTERWARDS


@dataclass
class ShippedCode:
    """Collects what is sent with a function, following references as the serializer does."""

    card: Card
    project: Path
    parts: list[Definition] = field(default_factory=list)
    needed: dict[tuple[str, str], Use] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    home: str = ""

    def add_function(self, function: Callable[..., Any]) -> None:
        """Add a function that is sent as source, and everything it refers to."""
        function = inspect.unwrap(function)
        if id(function) in self.seen or not isinstance(function, types.FunctionType):
            return
        self.seen.add(id(function))
        first = not self.parts
        self.home = self.home or function.__module__
        path = self._display_path(function)
        enclosing = enclosing_variables(function)
        scope = {**function.__globals__, **enclosing}
        for node in _definitions_of(function):
            arguments = frozenset(_arguments(node)[1:]) if first else frozenset()
            part = Definition(path, node, scope, frozenset(enclosing), arguments)
            self.parts.append(part)
            for name, line in free_names(node).items():
                if name in scope:
                    self._add_value(scope[name], path, line)
            for statement in _runtime_imports(node):
                self._add_inner_import(statement, path)
        line = function.__code__.co_firstlineno
        for value in [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]:
            self._add_value(value, path, line)

    def _add_value(self, value: Any, path: str, line: int, fix: str = _AFTERWARDS) -> None:
        if isinstance(value, (str, int, float, bool, type(None))):
            return
        name = module_of(value)
        if name == _KIT or name.startswith(f"{_KIT}."):
            return
        if isinstance(value, (list, tuple, set, frozenset, dict)):
            if id(value) not in self.seen:
                self.seen.add(id(value))
                held = [*value.values()] if isinstance(value, dict) else [*value]
                for item in held[:1000]:
                    self._add_value(item, path, line, fix)
            return
        for inner in typing.get_args(value):
            self._add_value(inner, path, line, fix)
        if name != self.home and not is_sent_as_source(name):
            root = name.split(".")[0]
            self.needed.setdefault((path, root), Use(path, line, root, fix))
        elif isinstance(value, types.ModuleType):
            self._add_module(value)
        elif isinstance(value, type):
            self._add_class(value, path, line)
        elif callable(value):
            self.add_function(value)

    def _add_module(self, module: types.ModuleType) -> None:
        """A module of the user's own that is referred to as a whole: all of its content is sent."""
        if id(module) in self.seen or not module.__file__:
            return
        self.seen.add(id(module))
        lines = _import_lines(Path(module.__file__))
        for name, value in vars(module).items():
            if not name.startswith("__"):
                self._add_value(value, str(module.__file__), lines.get(name, 1))

    def _add_class(self, owner: type, path: str, line: int) -> None:
        if id(owner) in self.seen:
            return
        self.seen.add(id(owner))
        for base in owner.__bases__:
            self._add_value(base, path, line)
        for member in vars(owner).values():
            plain = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(plain, types.FunctionType):
                self.add_function(plain)

    def _add_inner_import(self, node: ast.Import | ast.ImportFrom, path: str) -> None:
        """An import that the server executes; it cannot use what only the user's machine has."""
        if isinstance(node, ast.ImportFrom):
            modules = ["." if node.level else node.module or ""]
        else:
            modules = [alias.name for alias in node.names]
        for module in modules:
            root = module.split(".")[0]
            local = not root or root == "remote_mi" or self._is_local(root)
            fix = "import it at the top of the file: it then travels with the recipe"
            self.needed.setdefault(
                (path, root),
                Use(path, node.lineno, root or "a relative import", fix if local else _AFTERWARDS),
            )

    def _is_local(self, root: str) -> bool:
        folders = [self.project, *([self.card.path.parent] if self.card.path else [])]
        return any(
            (folder / f"{root}.py").is_file() or (folder / root).is_dir() for folder in folders
        )

    def _display_path(self, function: types.FunctionType) -> str:
        file = function.__code__.co_filename
        if self.card.path is not None and Path(file) == self.card.path.resolve():
            return str(self.card.path)
        return file if Path(file).is_file() else f"the cell of {function.__name__!r}"


def is_sent_as_source(module: str) -> bool:
    """Whether functions of a module are sent as source, and not as a name in a library."""
    from cloudpickle import list_registry_pickle_by_value

    if not module or module == "__main__" or module not in sys.modules:
        return True
    by_value = list_registry_pickle_by_value()
    steps = module.split(".")
    return any(".".join(steps[: i + 1]) in by_value for i in range(len(steps)))


def module_of(value: Any) -> str:
    """Name of the module in which a value, or else its type, is defined; "" when unknown."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    own = getattr(value, "__module__", None)
    if isinstance(own, str) and (callable(value) or isinstance(value, type)):
        return own
    return "" if callable(value) else type(value).__module__


def _definitions_of(function: types.FunctionType) -> list[Any]:
    """The definition of a function in its file or cell; all lambdas of its line for a lambda."""
    code = function.__code__
    linecache.checkcache(code.co_filename)
    source = "".join(linecache.getlines(code.co_filename, function.__globals__))
    return _definitions(source).get((code.co_name, code.co_firstlineno), [])


@functools.lru_cache(maxsize=64)
def _definitions(source: str) -> dict[tuple[str, int], list[ast.AST]]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return {}
    found: dict[tuple[str, int], list[ast.AST]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found.setdefault((node.name, first), []).append(node)
        elif isinstance(node, ast.Lambda):
            found.setdefault(("<lambda>", node.lineno), []).append(node)
    return found


def _import_lines(path: Path) -> dict[str, int]:
    """Name → the line of a file that imports it."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse("".join(linecache.getlines(str(path))))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                found.setdefault(alias.asname or alias.name.split(".")[0], node.lineno)
    return found


def _arguments(node: Any) -> list[str]:
    a = node.args
    return [one.arg for one in [*a.posonlyargs, *a.args, *a.kwonlyargs]]


def body_of(node: Any) -> list[ast.AST]:
    """The part of a definition that is executed when it is called."""
    return list(node.body) if isinstance(node.body, list) else [node.body]


def bound_names(node: Any) -> set[str]:
    """Every name that a function binds; all others come from outside."""
    bound: set[str] = set()
    outer: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
            bound.add(part.id)
        elif isinstance(part, ast.arg):
            bound.add(part.arg)
        elif isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if part is not node:
                bound.add(part.name)
        elif isinstance(part, (ast.Import, ast.ImportFrom)):
            bound.update(a.asname or a.name.split(".")[0] for a in part.names)
        elif isinstance(part, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and part.name:
            bound.add(part.name)
        elif isinstance(part, ast.Global):
            outer.update(part.names)
    return bound - outer


def free_names(node: Any) -> dict[str, int]:
    """Outside names that a function's body reads, each with the line of its first use."""
    bound = bound_names(node)
    found: dict[str, int] = {}
    for statement in body_of(node):
        for part in ast.walk(statement):
            if isinstance(part, ast.Name) and part.id not in bound:
                found[part.id] = min(part.lineno, found.get(part.id, part.lineno))
    return found


def _runtime_imports(node: Any) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports within a function, except those in a try block with handlers."""
    expected: set[int] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Try) and part.handlers:
            expected.update(id(inner) for kept in part.body for inner in ast.walk(kept))
    for part in ast.walk(node):
        if isinstance(part, (ast.Import, ast.ImportFrom)) and id(part) not in expected:
            yield part

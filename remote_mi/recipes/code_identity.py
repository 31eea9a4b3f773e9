"""The identity of a recipe's code, for the key that identifies work by one SHA-256.

The code's part is the closure of everything the recipe's function reaches in the project's own
code: its own file, local modules that it imports, and `remote_mi.interventions`. Each function,
class and constant reached enters as normalised source, without comments and docstrings, so that
only a change of meaning changes the key. Installed libraries enter by version when a result is
stored.

Files are read, never imported: a hit must not load torch. So this cannot be the walker of
`remote_mi.backends.ndif.shipped_code`, which follows the live objects that nnsight serialises.
"""

from __future__ import annotations

import ast
import copy
import functools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from remote_mi.common.digests import digest
from remote_mi.common.text_files import read_python
from remote_mi.recipes.card_source import parse_file

#: Part of every key. Increasing it means that results under earlier keys are no longer used.
#: 2: threads, the caller's torch settings, made-up weights, NaN, tokenizers that end every text
#: with a token, and long ropes could give wrong numbers under keys of schema 1.
SCHEMA = 2
#: Note about a result under a key of an earlier schema.
EARLIER_SCHEMA_NOTE = (
    "an earlier version of remote_mi made it, whose numbers can be wrong "
    "(docs/results.md, Earlier versions)"
)
_PACKAGE = Path(__file__).resolve().parents[1]
KIT = "remote_mi.interventions"
_DECLARATIONS = ("recipe", "metric")
N = TypeVar("N", bound=ast.AST)
#: Names that are read, each with the attributes accessed on it; None if it is used by itself, too.
_Names = list[tuple[str, set[str] | None]]


def code_digest(path: Path, function: str, project: Path) -> str:
    """Digest of all project code that a recipe in a file reaches.

    Args:
        path: the recipe's file. function: its name. project: the user's project folder.

    Raises:
        UsageError: if the file or a local module that it imports cannot be parsed.
    """
    return _build_closure(path, function, project).digest()


def code_parts(path: Path, function: str, project: Path) -> dict[str, str]:
    """The parts of `code_digest`, so that a change can be pinpointed.

    Returns:
        "module:name" of each definition reached → its short digest. The recipe's own file is the
        module "recipe"; "module:" stands for what a file does on import.
    """
    return _build_closure(path, function, project).digests()


def _build_closure(path: Path, function: str, project: Path) -> Closure:
    closure = Closure([path.resolve().parent, project.resolve()])
    closure.visit(closure.module(path.resolve(), "recipe"), function)
    return closure


def local_modules(path: Path, project: Path) -> dict[str, Path]:
    """Module name → file of the user's own modules that a recipe file imports, transitively."""
    closure = Closure([path.resolve().parent, project.resolve()])
    found: dict[str, Path] = {}
    waiting = [closure.module(path.resolve(), "recipe")]
    while waiting:
        module = waiting.pop()
        targets = [target for found_here in module.imports.values() for target in found_here]
        named = [f"{name}.{symbol}" for name, symbol in targets if symbol]
        for name in [*(name for name, _ in targets), *module.stars, *named]:
            target = closure.find(name)
            if target and not name.startswith("remote_mi") and name not in found:
                found[name] = target
                waiting.append(closure.module(target, name))
    return found


@dataclass
class _Module:
    """A file: what its top level defines and does on import, and everything it imports.

    A name may be bound by several imports (`import a.b` and `import a.c`, or in two functions);
    all of them are followed.
    """

    name: str
    path: Path
    symbols: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, list[tuple[str, str | None]]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    effects: list[ast.stmt] = field(default_factory=list)
    _parts: dict[str, tuple[str, _Names]] = field(default_factory=dict)

    def part(self, symbol: str) -> tuple[str, _Names]:
        """The normalised source of a symbol's definitions, and the names that these read.

        Computed once for a file: a process that runs many jobs needs them in every key.

        Args:
            symbol: "" for what the file does on import.
        """
        if symbol not in self._parts:
            given = self.symbols[symbol] if symbol else self.effects
            nodes = [strip_docstrings(node) for node in given]
            text = "\n".join(normalised_source(node) for node in nodes)
            self._parts[symbol] = (text, names_in(nodes))
        return self._parts[symbol]


class Closure:
    """Collects normalised definitions, following names from a starting point."""

    def __init__(self, roots: list[Path]) -> None:
        self.roots = roots
        self.parts: dict[str, str] = {}
        self.modules: dict[str, _Module] = {}
        self._files: dict[str, Path | None] = {}

    def digest(self) -> str:
        return digest(self.parts)

    def digests(self) -> dict[str, str]:
        return {label: digest(text)[:12] for label, text in self.parts.items()}

    def module(self, path: Path, name: str) -> _Module:
        known = self.modules.get(name)
        if known is None:
            known = self.modules[name] = _read_module(path, name)
        return known

    def find(self, name: str) -> Path | None:
        """The file of one of the project's own modules, or None for a library."""
        if name not in self._files:  # asked for every name that a definition reads
            self._files[name] = self._look_for(name)
        return self._files[name]

    def _look_for(self, name: str) -> Path | None:
        parts = name.split(".")
        if parts[0] == "remote_mi":
            roots = [_PACKAGE.parent] if name.startswith(KIT) else []
        else:
            roots = self.roots
        for root in roots:
            base = root.joinpath(*parts)
            for candidate in (base.with_suffix(".py"), base / "__init__.py"):
                if candidate.is_file():
                    return candidate
        return None

    def visit(self, module: _Module, symbol: str) -> None:
        """Add a symbol of a module, and everything it reaches."""
        label = f"{module.name}:{symbol}"
        if label in self.parts:
            return
        if symbol not in module.symbols:
            for target in module.imports.get(symbol, []):
                self._follow(*target, attributes=None)
            if symbol not in module.imports:
                self._follow_stars(module, symbol)
            return
        self.parts[label], names = module.part(symbol)
        self._reach(module, names)
        effects = f"{module.name}:"
        if module.effects and effects not in self.parts:
            self.parts[effects], names = module.part("")
            self._reach(module, names)

    def visit_all(self, module: _Module) -> None:
        for symbol in module.symbols:
            self.visit(module, symbol)

    def _reach(self, module: _Module, names: _Names) -> None:
        for name, attributes in names:
            # Both, as an import inside a function may hide a name of the file.
            if name in module.symbols:
                self.visit(module, name)
            for target in module.imports.get(name, []):
                self._follow(*target, attributes)
            if name not in module.symbols and name not in module.imports:
                self._follow_stars(module, name)

    def _follow_stars(self, module: _Module, symbol: str) -> None:
        """Look for a name in the modules imported with a star."""
        for name in module.stars:
            path = self.find(name)
            if path is not None:
                self.visit(self.module(path, name), symbol)

    def _follow(self, name: str, symbol: str | None, attributes: set[str] | None) -> None:
        """Follow an import of a symbol, or of a module, of which some attributes are used."""
        if symbol is not None and self.find(f"{name}.{symbol}"):
            name, symbol = f"{name}.{symbol}", None
        path = self.find(name)
        if path is None:
            return
        module = self.module(path, name)
        if symbol is not None:
            self.visit(module, symbol)
        elif attributes and attributes <= {*module.symbols, *module.imports}:
            for attribute in attributes:
                self.visit(module, attribute)
        else:
            self.visit_all(module)


def _read_module(path: Path, name: str) -> _Module:
    return _parse_module(path, name, read_python(path))


@functools.lru_cache(maxsize=256)
def _parse_module(path: Path, name: str, text: str) -> _Module:
    """Parse a module; cached, since it is never modified afterwards."""
    module = _Module(name, path)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        parse_file(path)  # reports the position of the mistake
        raise
    for node in _statements(tree):  # imports count everywhere, in functions too
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds `a`; its uses are attributed to all of a.b.
                bound = alias.asname or alias.name.split(".")[0]
                module.imports.setdefault(bound, []).append((alias.name, None))
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute_module(name, path, node)
            for alias in node.names:
                if alias.name == "*":
                    module.stars.append(origin)
                else:
                    bound = alias.asname or alias.name
                    module.imports.setdefault(bound, []).append((origin, alias.name))
    for node in _top_level(tree.body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            module.symbols.setdefault(node.name, []).append(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            for target in _assigned_names(node):
                module.symbols.setdefault(target, []).append(node)
        elif not isinstance(node, (ast.Import, ast.ImportFrom)) and not (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            module.effects.append(node)
    return module


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, including the ones inside `if TYPE_CHECKING:`."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from node.body
        else:
            yield node


def _absolute_module(name: str, path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = package[: len(package) - (node.level - 1)]
    return ".".join([*package, *([node.module] if node.module else [])])


def _assigned_names(node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> Iterator[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    for target in targets:
        for part in ast.walk(target):
            if isinstance(part, ast.Name):
                yield part.id


def names_in(nodes: list[ast.stmt]) -> _Names:
    """Every name read, with the attributes accessed on it; None if it is also used by itself."""
    attributes: dict[str, set[str] | None] = {}
    owners: set[int] = set()
    for root in map(_without_declaration, nodes):
        bare = []
        for node in ast.walk(root):  # an attribute comes before the name it belongs to
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owners.add(id(node.value))
                known = attributes.setdefault(node.value.id, set())
                if known is not None:
                    known.add(node.attr)
            elif isinstance(node, ast.Name) and id(node) not in owners:
                bare.append(node.id)
        attributes.update(dict.fromkeys(bare))
    return list(attributes.items())


def _without_declaration(node: ast.stmt) -> ast.stmt:
    """The statement without `@recipe(...)` or `@metric(...)`, which do not affect raw numbers."""
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return node
    kept = [
        d
        for d in node.decorator_list
        if not (isinstance(d, ast.Call) and ast.unparse(d.func).split(".")[-1] in _DECLARATIONS)
    ]
    bare = copy.copy(node)
    bare.decorator_list = kept
    return bare


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all statements within it; expressions contain none and are skipped."""
    waiting = deque([node])
    while waiting:
        found = waiting.popleft()
        yield found
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting.extend(getattr(found, name, ()))


def strip_docstrings(node: N) -> N:
    """Remove all docstrings from a node, in place, and return it."""
    for inner in _statements(node):
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            first = inner.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                inner.body = inner.body[1:] or [ast.Pass()]
    return node


def normalised_source(node: ast.stmt) -> str:
    """Source of a statement without docstrings, leaving out layout, comments and declarations."""
    return ast.unparse(_without_declaration(node))

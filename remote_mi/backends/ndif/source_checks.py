"""Finding mistakes in a recipe's code before it is sent to a server. Nothing is executed."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remote_mi.backends.ndif.shipped_code import (
    Definition,
    ShippedCode,
    Use,
    bound_names,
    is_sent_as_source,
    module_of,
)
from remote_mi.common.errors import UsageError
from remote_mi.recipes.card import Card

#: Calls of nnsight that open a block, and so take `remote=` or `backend=`.
_BLOCKS = ("trace", "session", "generate", "invoke", "scan", "edit")
#: Installed on every NDIF server; never checked.
_ALWAYS_THERE = frozenset({"torch", "nnsight", "transformers", "numpy"})
#: Methods that change a list, dict, set or deque.
_CHANGING = frozenset(
    {name for kind in (list, dict, set, deque) for name in vars(kind)}
    - {name for kind in (tuple, frozenset) for name in vars(kind)}
    - {"copy", "get", "items", "keys", "values", "fromkeys", "rotate", "maxlen"}
)
_OUTSIDE = (
    "build it inside the function and return it: changes to outside objects are lost on a server"
)


@dataclass(frozen=True)
class SourceMistake:
    """One mistake: its place, the problem, and how to fix it."""

    path: str
    line: int
    problem: str
    fix: str


def check_source(
    card: Card,
    function: Callable[..., Any],
    project: Path,
    packages: Mapping[str, str],
    metrics: Sequence[Callable[..., Any]] = (),
) -> list[SourceMistake]:
    """Find what in a recipe's code would fail, or be lost, on a server.

    Args:
        card: the recipe. function: its function, imported.
        project: the user's project folder.
        packages: what the server's `/env` names: importable name → version, or the name of the
            distribution where nothing can be imported from it. Empty when it is not known.
        metrics: functions of the project's own metrics, which are sent, too.
    """
    shipped = ShippedCode(card, project)
    shipped.add_function(function)
    if card.setup:
        shipped.add_function(function.__globals__[card.setup])
    for metric in metrics:
        shipped.add_function(metric)
    findings: dict[SourceMistake, None] = {}
    for part in shipped.parts:
        for line, problem, fix in [*_nested_submissions(part), *_external_changes(part)]:
            findings[SourceMistake(part.path, line, problem, fix)] = None
    if packages:
        findings.update(dict.fromkeys(_missing_packages(shipped.needed, packages)))
    return sorted(findings, key=lambda f: (f.path != str(card.path), f.path, f.line, f.problem))


def raise_mistakes(findings: list[SourceMistake]) -> None:
    """Raise one error that names all findings; nothing when there are none.

    Raises:
        UsageError: with file, line, problem and fix of each.
    """
    if not findings:
        return
    lines = [f"{f.path}:{f.line}: {f.problem}\n    {f.fix}" for f in findings]
    if len(lines) == 1:
        raise UsageError(lines[0])
    raise UsageError("\n  ".join(["the recipe cannot run on a server as it is:", *lines]))


def _nested_submissions(part: Definition) -> Iterator[tuple[int, str, str]]:
    """Inner blocks that would be submitted to a server again, from within the server."""
    for call in ast.walk(part.node):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        block = call.func.attr
        if block not in _BLOCKS:
            continue
        given = [(k.arg, k.value) for k in call.keywords if k.arg in ("remote", "backend")]
        if block == "session" and call.args:  # its first argument is the backend
            given.append(("backend", call.args[0]))
        for name, value in given:
            if isinstance(value, ast.Constant) and value.value in (None, False):
                continue
            yield (
                call.lineno,
                f"{name}= on an inner .{block}(): the server would submit the block to itself",
                f"leave {name}= out: where the work runs is chosen with --backend",
            )


def _external_changes(part: Definition) -> Iterator[tuple[int, str, str]]:
    """Changes to objects defined outside the function: lost on a server, and never pure."""
    node = part.node
    outer = part.scope.keys() - bound_names(node)
    stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and _writes(n.ctx)}
    inner = [a.arg for a in ast.walk(node) if isinstance(a, ast.arg)]
    arguments = {a for a in part.arguments if a not in stored and inner.count(a) == 1}
    for statement in ast.walk(node):
        if isinstance(statement, ast.Global):
            for name in stored.intersection(statement.names):
                yield statement.lineno, f"it sets the global {name!r}", _OUTSIDE
        elif isinstance(statement, ast.Nonlocal):
            for name in part.enclosing.intersection(statement.names):
                yield statement.lineno, f"it sets {name!r} of an enclosing function", _OUTSIDE
        changed = _change_target(statement)
        if changed is None:
            continue
        root, steps, method = changed
        line = getattr(statement, "lineno", node.lineno)
        if root in arguments and not method.endswith("_"):
            yield (
                line,
                f"it changes its argument {root!r}, which other calls share",
                "change a copy",
            )
        elif root in outer and _is_certain_change(part.scope[root], steps, method):
            where = "of an enclosing function" if root in part.enclosing else "of the module"
            yield line, f"it changes {root!r} {where}", _OUTSIDE


def _writes(context: ast.expr_context) -> bool:
    return not isinstance(context, ast.Load)


def _change_target(node: ast.AST) -> tuple[str, str, str] | None:
    """(name, steps, method) of what `name.a[0] = …`, `del name[…]` or `name.append(…)` changes.

    The steps are a letter each: "." for an attribute, "[" for an item. The method is "" for an
    assignment, whose last step is among the steps.
    """
    method = ""
    target: ast.AST | None = None
    if isinstance(node, (ast.Subscript, ast.Attribute)) and _writes(node.ctx):
        target = node
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        target, method = node.func.value, node.func.attr
        if method not in _CHANGING and not re.fullmatch(r"[a-z]\w*[a-z0-9]_", method):
            return None
    steps = ""
    while isinstance(target, (ast.Subscript, ast.Attribute)):
        steps = ("[" if isinstance(target, ast.Subscript) else ".") + steps
        target = target.value
    return (target.id, steps, method) if isinstance(target, ast.Name) else None


def _is_certain_change(value: Any, steps: str, method: str) -> bool:
    """Whether it is certain that a change of this form changes the value itself."""
    holder = isinstance(value, (list, dict, set, deque, bytearray))
    array = type(value).__module__.split(".")[0] in ("torch", "numpy") and hasattr(value, "ndim")
    if method:
        in_place = method.endswith("_")
        return (holder and not in_place and "." not in steps) or (array and in_place and not steps)
    if steps == "[":
        return holder or array
    if set(steps) == {"["}:
        return holder
    # An attribute: of a module, class, function or object of the user's own.
    return steps == "." and _is_own(value)


def _is_own(value: Any) -> bool:
    """Whether it is a module, class or function that is sent along, not part of a library."""
    kind = isinstance(value, (types.ModuleType, types.FunctionType, type))
    return kind and is_sent_as_source(module_of(value))


def _missing_packages(
    needed: Mapping[Any, Use], packages: Mapping[str, str]
) -> Iterator[SourceMistake]:
    there = {_canonical(name) for name in packages}
    for use in needed.values():
        root = use.module
        if root in sys.stdlib_module_names or root in _ALWAYS_THERE or _canonical(root) in there:
            continue
        if any(_canonical(name) in there for name in _distributions().get(root, ())):
            continue
        yield SourceMistake(
            use.path, use.line, f"{root} is needed here, and the server does not have it", use.fix
        )


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Importable name → distributions; read only for a name that the server does not list."""
    return importlib.metadata.packages_distributions()

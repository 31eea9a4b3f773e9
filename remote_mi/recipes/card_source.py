"""Reading a recipe's card from its file without importing it, and so without torch.

Only a small subset of Python is evaluated: literals, names bound to literals at the top of the
file, `typing` forms, the declaration classes of `remote_mi.recipes.declaration`, and figure
classes, for which the file that defines them may be imported (`remote_mi.recipes.figure_files`).
Anything else in a decorator or annotation is refused, with its line number.
"""

from __future__ import annotations

import ast
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remote_mi.common.annotated_types import shown
from remote_mi.common.errors import FormerVersion, UsageError, first_line
from remote_mi.common.text_files import read_python
from remote_mi.interventions import vocabulary
from remote_mi.recipes import declaration, figures
from remote_mi.recipes.card import Card
from remote_mi.recipes.card_building import build_card
from remote_mi.recipes.declaration import recipe
from remote_mi.recipes.figure_files import figure_module
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.outputs import Json, Judged, Output, Ratio, Share, Texts, Tokens
from remote_mi.recipes.parameters import Range

_RECIPE = vars(declaration)
_KNOWN: dict[str, Mapping[str, Any]] = {
    "remote_mi.recipes.declaration": _RECIPE,
    "remote_mi.recipes.figures": vars(figures),
    "remote_mi.interventions": vars(vocabulary),
    "remote_mi.interventions.vocabulary": vars(vocabulary),
    "remote_mi": {**vars(figures), **_RECIPE},
    "typing": vars(typing),
}
#: The modules from which recipes imported declarations in earlier versions.
_FORMER = ("remote_mi.recipe", "remote_mi.figures")
#: The kit of earlier versions: its names, and the modules that recipes imported names from.
_FORMER_KIT = frozenset(
    [
        "all_logits",
        "answer_logits",
        "answer_metric",
        "attention_weights",
        "edit_site",
        "has_unembedding",
        "head_count",
        "is_causal",
        "no_autocast",
        "patch_heads",
        "patch_positions",
        "plain_pass",
        "random_directions",
        "read_site",
        "reuses_prefix",
        "run_residuals",
        "shared_base",
        "site_gradients",
        "skip_unembedding",
        "split_heads",
        "sweep_cells",
    ]
)
_FORMER_MODULES = frozenset(
    f"remote_mi.interventions.{name}"
    for name in [
        "ablations",
        "attention",
        "gradients",
        "grown_pass",
        "heads",
        "metrics",
        "outputs",
        "tracing",
    ]
)
_BUILTINS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "None": None,
    "True": True,
    "False": False,
}


class _CannotEvaluate(Exception):
    """An expression outside the subset of Python that is evaluated here, or that is wrong."""

    def __init__(self, node: ast.AST, reason: str = "") -> None:
        self.node, self.reason = node, reason


def parse_file(path: Path) -> ast.Module:
    """The syntax tree of a recipe file; unchanged source is parsed once.

    Raises:
        UsageError: if the file cannot be read, or has a syntax error (with its line).
    """
    try:
        return _parse(str(path), read_python(path))
    except SyntaxError as error:
        raise UsageError(
            f"{path}:{error.lineno or 1}: syntax error: {error.msg}", "fix the line and run again"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read recipe file {path}: {error}") from None
    except (RecursionError, MemoryError):
        raise UsageError(
            f"{path}: an expression is nested too deeply for Python to read it",
            "split it into several statements",
        ) from None


@functools.lru_cache(maxsize=256)
def _parse(name: str, source: str) -> ast.Module:
    # By content, not by modification time: two edits can fall into one tick of the clock.
    return ast.parse(source, name)


def cards_in(path: Path, origin: str = "file", lenient: bool = False) -> list[Card]:
    """The cards of all recipes a file defines, in order of definition.

    Args:
        lenient: leave out figures whose class cannot be found, as for the copied source of a run,
            whose numbers do not depend on them.

    Raises:
        UsageError: for a syntax error or a declaration that cannot be read.
    """
    tree = parse_file(path)
    _refuse_former_names(tree, path)
    names = _top_level_names(tree)
    found = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and _is_recipe(decorator.func, names):
                found.append(_card(node, decorator, names, path, origin, lenient))
    return found


def _refuse_former_names(tree: ast.Module, path: Path) -> None:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and _imports_former_kit(node):
            names = ", ".join(alias.name for alias in node.names)
            raise FormerVersion(
                f"{path}:{node.lineno}: written for an earlier version of remote_mi, whose kit "
                f"had {names}",
                "docs/writing-recipes.md lists the current kit; for the copied source of a run, "
                "use the version that made it, or run the same command again",
            )
        if isinstance(node, ast.ImportFrom) and node.module in _FORMER:
            names = ", ".join(alias.name for alias in node.names)
            raise FormerVersion(
                f"{path}:{node.lineno}: written for an earlier version of remote_mi, "
                f"which had {names} in {node.module}",
                f"now it is `from remote_mi import {names}`; for the copied source of a run, use "
                "the version that made it, or run the same command again",
            )


def _imports_former_kit(node: ast.ImportFrom) -> bool:
    of_face = node.module in ("remote_mi.interventions", "remote_mi.interventions.sites")
    names = {alias.name for alias in node.names}
    return node.module in _FORMER_MODULES or (of_face and bool(names & _FORMER_KIT))


def _is_recipe(node: ast.expr, names: dict[str, Any]) -> bool:
    try:
        return _evaluate(node, names) is recipe
    except _CannotEvaluate:
        return False


def _card(
    node: ast.FunctionDef,
    decorator: ast.Call,
    names: dict[str, Any],
    path: Path,
    origin: str,
    lenient: bool,
) -> Card:
    try:
        declaration = {
            k.arg or "**": _evaluate_known(k.value, names)
            if lenient and k.arg == "figures"
            else _evaluate(k.value, names)
            for k in decorator.keywords
        }
        signature = list(_signature(node, names))
    except _CannotEvaluate as error:
        source = shown(ast.unparse(error.node))
        where = f"{path}:{getattr(error.node, 'lineno', node.lineno)}: cannot read {source}"
        if error.reason:
            raise UsageError(f"{where}: {error.reason}") from None
        raise UsageError(
            f"{where} without importing the file",
            "in the decorator, annotations and defaults of a recipe use literals, typing forms "
            "and names bound to them at the top of the file",
        ) from None
    doc = ast.get_docstring(node) or ""
    return build_card(node.name, doc, signature, declaration, path, node.lineno, origin=origin)


def _evaluate_known(node: ast.expr, names: dict[str, Any]) -> list[Any]:
    """The elements of a list that can be evaluated."""
    if not isinstance(node, (ast.List, ast.Tuple)):
        return _evaluate(node, names)
    found = []
    for item in node.elts:
        try:
            found.append(_evaluate(item, names))
        except _CannotEvaluate:
            continue
    return found


def _signature(node: ast.FunctionDef, names: dict[str, Any]) -> Any:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    for index, argument in enumerate(positional):
        default_at = index - (len(positional) - len(arguments.defaults))
        default = _evaluate(arguments.defaults[default_at], names) if default_at >= 0 else None
        annotation = None if index < 2 else _annotation(argument, names)
        yield argument.arg, annotation, default_at >= 0, default, False
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        value = None if default is None else _evaluate(default, names)
        yield argument.arg, _annotation(argument, names), default is not None, value, True


def _annotation(argument: ast.arg, names: dict[str, Any]) -> Any:
    return None if argument.annotation is None else _evaluate(argument.annotation, names)


def _top_level_names(tree: ast.Module) -> dict[str, Any]:
    """The names that a file binds to values that can be evaluated: known imports and literals."""
    names = dict(_BUILTINS)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module in _KNOWN:
            for alias in node.names:
                if alias.name in _KNOWN[node.module]:
                    names[alias.asname or alias.name] = _KNOWN[node.module][alias.name]
                elif f"{node.module}.{alias.name}" in _KNOWN:
                    names[alias.asname or alias.name] = _Namespace(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = _ImportedName(node.module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in _KNOWN:
                    names[alias.asname or alias.name.split(".")[0]] = _Namespace(alias.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                names[node.targets[0].id] = _evaluate(node.value, names)
            except _CannotEvaluate:
                continue
    return names


class _Namespace:
    """A module of `_KNOWN` under the name the file imports it by."""

    def __init__(self, module: str) -> None:
        self._module = module

    def get(self, name: str) -> Any:
        return _KNOWN[self._module][name]


class _ImportedName:
    """A name that the file imports from elsewhere, looked up only if a declaration uses it."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def figure(self) -> type[Figure] | None:
        """The figure class it refers to; None if it refers to anything else."""
        module = figure_module(self._module)
        found = vars(module).get(self._name) if module else None  # getattr might import lazily
        return found if isinstance(found, type) and issubclass(found, Figure) else None


def _evaluate(node: ast.expr, names: dict[str, Any]) -> Any:
    """The value of an expression in the subset of Python; never runs the file's code."""
    try:
        return _evaluate_node(node, names)
    except (_CannotEvaluate, UsageError):
        raise
    except Exception as error:  # Python would fail in the same way
        raise _CannotEvaluate(node, f"{type(error).__name__}: {first_line(error)}") from None


def _evaluate_node(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() if node.id in names:
            value = names[node.id]
            if not isinstance(value, _ImportedName):
                return value
            figure = value.figure()
            if figure is not None:
                return figure
        case ast.Attribute():
            owner = _evaluate(node.value, names)
            if isinstance(owner, _Namespace):
                try:
                    return owner.get(node.attr)
                except KeyError:
                    raise _CannotEvaluate(node) from None
        case ast.Tuple():
            return tuple(_evaluate(e, names) for e in node.elts)
        case ast.List():
            return [_evaluate(e, names) for e in node.elts]
        case ast.Dict() if all(k is not None for k in node.keys):
            return {
                _evaluate(k, names): _evaluate(v, names)
                for k, v in zip(node.keys, node.values, strict=True)
                if k is not None
            }
        case ast.BinOp(op=ast.BitOr()):  # `int | None`
            return _evaluate(node.left, names) | _evaluate(node.right, names)
        case ast.UnaryOp(op=ast.USub()):
            return -_evaluate(node.operand, names)
        case ast.Subscript():
            owner: Any = _evaluate(node.value, names)
            of = _evaluate(node.slice, names)
            if owner in (list, tuple, dict):
                return types.GenericAlias(owner, of)
            if owner is vocabulary.Artifact or any(owner is f for f in vars(typing).values()):
                return owner[of]
        case ast.Call():
            function = _evaluate(node.func, names)
            if _is_declaration(function):
                positional = [_evaluate(a, names) for a in node.args]
                keywords = {k.arg or "": _evaluate(k.value, names) for k in node.keywords}
                return function(*positional, **keywords)
    raise _CannotEvaluate(node)


def _is_declaration(function: Any) -> bool:
    """Whether calling this is a declaration that may be evaluated."""
    if isinstance(function, type) and issubclass(function, Figure):
        return True
    return function in (Ratio, Range, Output, Share, Tokens, Texts, Json, Judged)

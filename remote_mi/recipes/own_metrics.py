"""Metrics of a project's own: a function in a file, named `FILE.py:FUNCTION`.

Declared by a decorator and read from the file's source, as recipes are, so that keys and cache hits
need neither the import nor torch. Its code reaches the model's machine with the recipe's, so it may
import nothing but torch, the standard library, this package and the project's own modules.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remote_mi.common.errors import NotFound, UsageError, nearest
from remote_mi.interventions.vocabulary import METRICS, MetricFacts
from remote_mi.recipes.card_source import parse_file
from remote_mi.recipes.code_identity import local_modules
from remote_mi.recipes.parameters import OWN_METRIC

_EXAMPLE = '@metric(unit="nats", rises=True, differentiable=True)'
_RISES = {True: 1, False: -1, None: 0}
_LIBRARIES = frozenset({"torch", "remote_mi", *sys.stdlib_module_names})


def metric(
    *,
    unit: str = "",
    rises: bool | None = True,
    differentiable: bool = True,
    against_clean: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a function as a metric: what a technique measures where the answer is read.

    The function is called as `fn(logits, pair)` on the machine with the model, with the logits
    where the answer is read, [row, vocabulary], float32, and the `Pair` (or the `Prompt`, if the
    recipe is over prompts), and returns one number for each row, [row]. It is given to a recipe
    as `FILE.py:FUNCTION`, and its source is part of the key.

    Args:
        unit: of its numbers, e.g. "nats"; "" for none.
        rises: whether a larger number is more of the clean behaviour (False: a smaller one is;
            None: neither, so that there is no verdict).
        differentiable: whether it has a gradient; techniques that need one refuse it otherwise.
        against_clean: whether it compares with the clean run; then it is called as
            `fn(logits, pair, clean)`, with that run's logits, [vocabulary].
    """

    def attach(function: Callable[..., Any]) -> Callable[..., Any]:
        return function  # the declaration is read from the source

    return attach


@dataclass(frozen=True)
class OwnMetricCard:
    """A project's own metric, as its file declares it.

    Attributes:
        path: its file, absolute. name: the function's. line: of its definition.
        facts: what it declares.
    """

    path: Path
    name: str
    line: int
    facts: MetricFacts

    @property
    def text(self) -> str:
        """How it is named in what is kept: the file by its name, which is kept beside it."""
        return f"{self.path.name}:{self.name}"

    @property
    def facts_json(self) -> dict[str, Any]:
        """What it declares, as JSON."""
        return dict(vars(self.facts))


def is_own_metric(value: Any) -> bool:
    """Whether a parameter's value names a metric of the project's own."""
    return (
        isinstance(value, str) and value not in METRICS and OWN_METRIC.fullmatch(value) is not None
    )


def find_own_metric(text: str, project: Path) -> OwnMetricCard:
    """Read a metric's declaration without importing its file.

    Args:
        text: `FILE.py:FUNCTION`, the file relative to the working folder or to the project.

    Raises:
        NotFound: if there is no such file or function.
        UsageError: for a function that is not declared, or that imports what it may not.
    """
    match = OWN_METRIC.fullmatch(text)
    assert match is not None
    given = Path(match["file"]).expanduser()
    path = next((p for p in (given, project / given) if p.is_file()), None)
    if path is None:
        raise NotFound(
            f"metric {text!r}: there is no file {given}",
            f"give a file of the project, or one of {', '.join(METRICS)}",
        )
    path = path.absolute()
    functions = {n.name: n for n in parse_file(path).body if isinstance(n, ast.FunctionDef)}
    declared = {name: node for name, node in functions.items() if _declaration_of(node)}
    node = functions.get(match["name"])
    if node is None:
        close = nearest(match["name"], declared)
        raise NotFound(
            f"metric {text!r}: {given} has no function {match['name']!r}",
            (f"did you mean {close!r}? " if close else "")
            + f"its metrics: {', '.join(declared) or 'none'}",
        )
    facts = _facts_of(node, path)
    modules = local_modules(path, project)
    for file in (path, *modules.values()):
        _refuse_foreign_imports(file, modules)
    return OwnMetricCard(path, node.name, node.lineno, facts)


def _declaration_of(node: ast.FunctionDef) -> ast.Call | None:
    """The `@metric(...)` of a function."""
    for decorator in node.decorator_list:
        if not isinstance(decorator, ast.Call):
            continue
        if ast.unparse(decorator.func).split(".")[-1] == metric.__name__:
            return decorator
    return None


def _facts_of(node: ast.FunctionDef, path: Path) -> MetricFacts:
    """What a function declares.

    Raises:
        UsageError: with its line, for one that declares nothing, or what cannot be.
    """
    where, declaration = f"{path}:{node.lineno}: ", _declaration_of(node)
    if declaration is None:
        raise UsageError(
            f"{where}{node.name} is not declared as a metric",
            f"write {_EXAMPLE} above it, with `from remote_mi import metric`",
        )
    given: dict[str, Any] = {"unit": "", "rises": True}
    given |= {"differentiable": True, "against_clean": False}
    for keyword in declaration.keywords:
        try:
            value = ast.literal_eval(keyword.value)
        except ValueError:
            value = ...
        allowed = (str,) if keyword.arg == "unit" else (bool, type(None))
        allowed = allowed if keyword.arg in ("unit", "rises") else (bool,)
        if keyword.arg not in given or not isinstance(value, allowed):
            problem = f"@metric takes no {ast.unparse(keyword)}"
            raise UsageError(where + problem, f"write it like {_EXAMPLE}")
        given[keyword.arg] = value
    wanted = ["logits", "pair", *(["clean"] if given["against_clean"] else [])]
    arguments = node.args
    taken = [*arguments.posonlyargs, *arguments.args]
    required = len(taken) - len(arguments.defaults)
    if not required <= len(wanted) <= len(taken) or any(d is None for d in arguments.kw_defaults):
        raise UsageError(
            f"{where}the metric {node.name} takes ({ast.unparse(arguments)})",
            f"def {node.name}({', '.join(wanted)}): …",
        )
    rises = _RISES[given.pop("rises")]
    return MetricFacts(given["unit"], rises, given["differentiable"], given["against_clean"])


def _refuse_foreign_imports(file: Path, modules: Iterable[str]) -> None:
    """Refuse imports of anything but the project's modules and what every server has."""
    roots = _LIBRARIES | {name.partition(".")[0] for name in modules}
    for node, name in _imports(parse_file(file)):
        if name.partition(".")[0] not in roots:
            raise UsageError(
                f"{file}:{node.lineno}: a metric cannot import {name}, which is neither torch nor "
                "a module of the project",
                "compute it with torch, or copy the module into the project",
            )


def _imports(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Every absolute import of a file, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node, node.module or ""

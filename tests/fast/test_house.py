"""How the package is built: ten rooms, arrows in one direction, files and functions of a size."""

from __future__ import annotations

import ast
import graphlib
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from .test_docs import PACKAGE, ROOT, first_cells

ROOMS = [room.strip("/") for room in first_cells("architecture.md", "Room")]


def imports(path: Path) -> Iterator[str]:
    """What of the package a file imports, anywhere but under `if TYPE_CHECKING:`, or starts as a
    process, or names to be imported later."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("remote_mi"))
        elif isinstance(node, ast.ImportFrom) and node.module == "remote_mi":
            yield from (f"remote_mi.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("remote_mi."):
            yield str(node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = re.fullmatch(r"(remote_mi(\.\w+)+)(:\w+)?", node.value)
            if named and (ROOT / named[1].replace(".", "/")).with_suffix(".py").exists():
                yield named[1]


def is_recorded(path: Path) -> bool:
    """Whether a file is the copied source of a run, which was written for an earlier version."""
    return "recorded" in path.parts


def test_the_rooms_import_only_those_above_them():
    assert [path.name for path in PACKAGE.iterdir() if path.name in ROOMS] and len(ROOMS) == 10
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] in ("__init__.py", "__main__.py", "_builtin") or is_recorded(path):
            continue
        own = relative.parts[0]
        assert own in ROOMS, f"docs/architecture.md lists no room for {relative}"
        for module in imports(path):
            other = module.split(".")[1] if "." in module else "the door"
            assert other in ROOMS and ROOMS.index(other) <= ROOMS.index(own), (
                f"{relative} imports {module}, which docs/architecture.md places below it"
            )


def test_there_is_no_circle_of_imports():
    """Neither at the top of files nor in functions; what starts a process may name it."""
    graph: dict[str, set[str]] = {}
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
        if not is_recorded(path)
    }
    for name, path in files.items():
        graph[name] = imported_files(path, files) - {name}
    order = graphlib.TopologicalSorter(graph)
    try:
        order.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def imported_files(path: Path, files: Collection[str]) -> set[str]:
    """The modules of the package that a file imports, each name at its own file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("remote_mi"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in files else str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in files}
    return found


def own_files() -> Iterator[Path]:
    """Everything that is written here: the package and its recipes."""
    for folder in (PACKAGE, ROOT / "recipes"):
        yield from (p for p in sorted(folder.rglob("*.py")) if not is_recorded(p))


#: Functions of the kit that take more than they should, until its sweeps are one engine.
OF_THE_KIT = ("interventions/", "recipes/techniques/steering.py")


def test_files_and_functions_are_of_a_size():
    problems = []
    for path in own_files():
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            problems.append(f"{name} has {text.count(chr(10))} lines, more than 400")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef) or any(part in name for part in OF_THE_KIT):
                continue
            doc = ast.get_docstring(node, clean=False) or ""
            lines = (node.end_lineno or 0) - node.lineno - doc.count("\n")
            positional = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            positional = [a for a in positional if a not in ("self", "cls")]
            if lines > 60 or len(positional) > 6:
                problems.append(
                    f"{name}: {node.name} has {lines} lines, {len(positional)} arguments"
                )
    assert not problems, "\n".join(problems)


def test_the_package_has_few_entries_and_no_class_has_the_name_of_another():
    entries = [p.name for p in PACKAGE.iterdir() if p.name not in ("__pycache__", "_builtin")]
    assert len(entries) <= 12, entries
    classes = Counter(
        node.name
        for path in own_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert {name: count for name, count in classes.items() if count > 1} == {}

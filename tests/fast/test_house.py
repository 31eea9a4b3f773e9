"""How the package is built: ten rooms, arrows in one direction, files and functions of a size."""

from __future__ import annotations

import ast
import graphlib
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from remote_mi import interventions

from .test_docs import PACKAGE, ROOT, first_cells

ROOMS = [room.strip("/") for room in first_cells("architecture.md", "Subpackage")]


def named_modules(path: Path) -> set[str]:
    """The modules that a file names in a text: to start as a process, or to import later."""
    texts = (
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    found = (re.fullmatch(r"(remote_mi(\.\w+)+)(:\w+)?", text) for text in texts)
    return {
        match[1]
        for match in found
        if match and (ROOT / match[1].replace(".", "/")).with_suffix(".py").exists()
    }


def is_recorded(path: Path) -> bool:
    """Whether a file is the copied source of a run, which was written for an earlier version."""
    return "recorded" in path.parts


def test_the_rooms_import_only_those_above_them():
    assert [path.name for path in PACKAGE.iterdir() if path.name in ROOMS] and len(ROOMS) == 10
    files = package_files()
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] in ("__init__.py", "__main__.py", "_builtin") or is_recorded(path):
            continue
        own = relative.parts[0]
        assert own in ROOMS, f"docs/architecture.md lists no room for {relative}"
        for module in imported_files(path, files) | named_modules(path):
            other = module.split(".")[1] if "." in module else "the door"
            assert other in ROOMS and ROOMS.index(other) <= ROOMS.index(own), (
                f"{relative} imports {module}, which docs/architecture.md places below it"
            )


def test_there_is_no_circle_of_imports():
    """Neither at the top of files nor in functions; what starts a process may name it."""
    files = package_files()
    graph = {name: imported_files(path, files) for name, path in files.items()}
    order = graphlib.TopologicalSorter(graph)
    try:
        order.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def package_files() -> dict[str, Path]:
    """Dotted name → file of every module of the package."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
        if not is_recorded(path)
    }


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


def test_files_and_functions_are_of_a_size():
    problems = []
    for path in own_files():
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            problems.append(f"{name} has {text.count(chr(10))} lines, more than 400")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef):
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


def test_built_in_recipes_are_made_of_the_kits_own_names_and_of_all_of_them():
    """Whoever copies one as a start takes along nothing that is not meant for recipes."""
    used = set()
    for path in sorted((ROOT / "recipes").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.level:
                continue
            if node.module == "remote_mi.interventions":
                used.update(alias.name for alias in node.names)
            else:
                assert not (node.module or "").startswith("remote_mi."), (path.name, node.module)
    # A site, or the trace of a model with a decoder, that the kit has not.
    own = {"Port", "model_inputs"}
    assert used == set(interventions.__all__) - own, used ^ set(interventions.__all__)

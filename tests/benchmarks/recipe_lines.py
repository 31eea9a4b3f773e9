"""Count the lines of code of every built-in recipe: what a reader of a technique has to read.

    python tests/benchmarks/recipe_lines.py [FOLDER ...]

A folder is a checkout; the default is this one. Counted are the lines of the declaration, the
signature, the body and the helpers (all else of the file), without docstrings, imports, comments
and empty lines.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
COLUMNS = ("declaration", "signature", "body", "helpers")


def lines_of(path: Path) -> dict[str, int]:
    """Lines of code in a recipe's file, by part."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    code = {n for n, line in enumerate(text.splitlines(), 1) if line.strip(" \t")}
    code -= {n for n in code if text.splitlines()[n - 1].lstrip().startswith("#")}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) or _is_docstring(node):
            code -= _span(node)
    parts: dict[str, int] = dict.fromkeys(COLUMNS, 0)
    for node in tree.body:
        if not (isinstance(node, ast.FunctionDef) and any(map(_declares, node.decorator_list))):
            continue
        declared = _span(*node.decorator_list)
        body = _span(*node.body)
        for name, lines in (
            ("declaration", declared),
            ("signature", _span(node) - body),
            ("body", body),
        ):
            parts[name] += len(code & lines)
            code -= lines
    parts["helpers"] = len(code)
    return parts


def _span(*nodes: ast.AST) -> set[int]:
    """The lines on which nodes stand."""
    return {n for node in nodes for n in range(node.lineno, (node.end_lineno or 0) + 1)}  # type: ignore[attr-defined]


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _declares(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "recipe"


def count(folder: Path) -> None:
    """Print the table of one checkout."""
    rows = {p.stem: lines_of(p) for p in sorted((folder / "recipes" / "techniques").glob("*.py"))}
    rows = {name: parts for name, parts in rows.items() if parts["declaration"]}
    rows["all"] = {part: sum(row[part] for row in rows.values()) for part in COLUMNS}
    print(f"{'recipe':26}" + "".join(f"{part:>12}" for part in (*COLUMNS, "sum")))
    for name, row in rows.items():
        print(f"{name:26}" + "".join(f"{n:12}" for n in (*row.values(), sum(row.values()))))


if __name__ == "__main__":
    for named in sys.argv[1:] or [HERE]:
        count(Path(named))

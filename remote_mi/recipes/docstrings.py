"""Reading the descriptions of parameters from a recipe's docstring."""

from __future__ import annotations

import re


def argument_docs(doc: str) -> dict[str, str]:
    """Argument name → its description in the docstring's "Args:" section."""
    match = re.search(r"^\s*Args:\s*\n(.*?)(?=\n\s*\n\s*\w+:\s*$|\Z)", doc, re.S | re.M)
    if not match:
        return {}
    found: dict[str, str] = {}
    name = ""
    indent: int | None = None
    for line in match[1].splitlines():
        depth = len(line) - len(line.lstrip())
        indent = depth if indent is None else indent
        entry = re.match(r"\s*(\w+):\s*(.*)", line)
        if entry and depth == indent:
            name = entry[1]
            found[name] = entry[2]
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found

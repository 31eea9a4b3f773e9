"""Reading phenomenon files, reporting every mistake with its file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remote_mi.common.paths import builtin_folder
from remote_mi.common.yaml_file import file_error, model_problems, read_with_positions

REQUIRED = ("name", "title", "source", "lists", "draw", "templates")
#: Both, or else a behaviour.
ANSWERS = ("answer", "wrong")
OPTIONAL = (
    *ANSWERS,
    "behaviour",
    *("description", "order", "metric", "size", "seed", "label", "group", "baseline"),
    *("thinking", "align"),
)


def read(path: Path, trust_builtin: bool = True) -> dict[str, Any]:
    """The content of a phenomenon file, validated.

    Args:
        trust_builtin: whether to skip validation of built-in files, which saves time; the
            package's tests validate them.

    Raises:
        UsageError: naming the file, line, column and problem.
    """
    found = read_with_positions(path)
    if trust_builtin and path.resolve().is_relative_to(builtin_folder().resolve()):
        return found.data
    from remote_mi.prompts.phenomenon_checks import PhenomenonFile  # slow: it imports pydantic

    if not isinstance(found.data, dict):
        message = f"a phenomenon file is a mapping with the keys {', '.join(REQUIRED)}"
        raise file_error(path, [found.key_problem_at((), message)])
    problems = model_problems(found, PhenomenonFile)
    if problems:
        raise file_error(path, problems.values())
    return found.data

"""Checkpoints of one training as models of a study, in training order.

A model's `revisions` are branches or tags of one hub id; a `*` in its name, or in its adapter's,
stands for folders that training wrote beside each other. Each becomes a model of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remote_mi.common.errors import UsageError

#: A number of steps after a word for them, the word that says it best first.
_WORDS = (
    r"(?:global_?)?steps?",
    r"(?:checkpoints?|ckpt|iter(?:ation)?s?)",
    r"epochs?",
)
_NUMBER = r"[-_=]?(\d+)([kKmM]?)(?![A-Za-z0-9])"
_TIMES = {"": 1, "k": 1_000, "m": 1_000_000}
_MANY = "*?["


@dataclass(frozen=True)
class FoundModel:
    """A model of a study.

    Attributes:
        fields: of its `ModelSpec`. word: its name as written, or its folder.
        series: what it is a checkpoint of, as written; "" if it is none.
        step: of its training; None if its name tells none.
    """

    fields: dict[str, Any]
    word: str
    series: str = ""
    step: int | None = None


def training_step(name: str | None) -> int | None:
    """The training step in the name of a revision or folder: 3000 in "step3000".

    Without a word for it, the name's only number counts, if it is the name or its end after a
    mark: "run-3000".
    """
    if not name:
        return None
    for word in _WORDS:
        found = re.search(rf"(?<![A-Za-z]){word}{_NUMBER}", name, re.IGNORECASE)
        if found:
            return int(found[1]) * _TIMES[found[2].lower()]
    plain = re.search(r"(?:^|[-_/])(\d+)$", name)
    return int(plain[1]) if plain and len(re.findall(r"\d+", name)) == 1 else None


def expand(fields: Mapping[str, Any], project: Path) -> list[FoundModel]:
    """The models that an entry stands for: itself, or its checkpoints in training order.

    Args:
        fields: of the entry: those of a `ModelSpec`, and `revisions`.

    Raises:
        UsageError: if it names no checkpoint, or several kinds of them.
    """
    given = dict(fields)
    revisions = given.pop("revisions", None)
    patterns = [key for key in ("name", "adapter") if _has_many(given.get(key))]
    if (revisions is not None) + len(patterns) > 1:
        raise UsageError(
            "several fields list checkpoints: " + ", ".join(["revisions", *patterns][:2]),
            "list those of one: revisions, or folders by one '*'",
        )
    if revisions is not None:
        return _revisions(given, revisions)
    if not patterns:
        return [FoundModel(given, given["name"], step=training_step(given.get("revision")))]
    key = patterns[0]
    pattern = given[key]
    wanted = "config.json" if key == "name" else "adapter_config.json"
    found = []
    for path in _folders(pattern, wanted, project):
        shown = str(path.relative_to(project)) if path.is_relative_to(project) else str(path)
        made = {**given, key: str(path)}
        step = training_step(path.name)
        found.append(FoundModel(made, shown if key == "name" else given["name"], pattern, step))
    return _in_order(found)


def _revisions(given: Mapping[str, Any], revisions: list[str]) -> list[FoundModel]:
    if given.get("revision") is not None:
        raise UsageError("both 'revision' and 'revisions' are given", "leave 'revision' out")
    if not revisions:
        raise UsageError("'revisions' is empty", "revisions: [step1, step512]")
    twice = next((r for r in revisions if revisions.count(r) > 1), None)
    if twice is not None:
        raise UsageError(f"the revision {twice!r} is listed twice", "list it once")
    name = given["name"]
    return _in_order(
        [FoundModel({**given, "revision": r}, name, name, training_step(r)) for r in revisions]
    )


def _folders(pattern: str, wanted: str, project: Path) -> list[Path]:
    """The folders of a pattern that hold a certain file."""
    path = Path(pattern).expanduser()
    base = Path(path.anchor) if path.is_absolute() else project
    relative = path.relative_to(path.anchor) if path.is_absolute() else path
    try:
        matches = sorted(base.glob(str(relative)))
    except (ValueError, NotImplementedError, OSError) as error:
        raise UsageError(f"{pattern!r} is no pattern of folders: {error}") from None
    found = [match for match in matches if (match / wanted).is_file()]
    if not found:
        what = f"none of the {len(matches)} matches of" if matches else "nothing matches"
        more = f" has a {wanted}" if matches else ""
        raise UsageError(
            f"{what} {pattern!r}{more}", "name folders of checkpoints, e.g. out/checkpoint-*"
        )
    return found


def _in_order(found: Iterable[FoundModel]) -> list[FoundModel]:
    """By step; those whose name tells none (main, final) come last, as they were listed."""
    return sorted(found, key=lambda model: (model.step is None, model.step or 0))


def _has_many(name: Any) -> bool:
    return isinstance(name, str) and any(mark in name for mark in _MANY)

"""Reading and checking a phenomenon file: every mistake is named with its file and line."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remote_mi.common.errors import UsageError, nearest
from remote_mi.common.yaml_file import Located, Where, located, refused
from remote_mi.interventions.vocabulary import Metric

#: `{slot}`, `{slot.field}`, each optionally with `:label`.
SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?(?::(\w+))?\}")
REQUIRED = ("name", "title", "source", "lists", "draw", "templates", "answer", "wrong")
OPTIONAL = ("description", "order", "metric", "size", "seed", "label", "group", "baseline")

_TEXTS = ("name", "title", "source", "answer", "wrong", "description", "label", "group")


def read(path: Path) -> dict[str, Any]:
    """The content of a phenomenon file, checked.

    Raises:
        UsageError: naming file, line, column and what is wrong.
    """
    found = located(path)
    _Check(found).all()
    return found.data


class _Check:
    """The checks of one file."""

    def __init__(self, found: Located) -> None:
        self.found = found
        self.data = found.data

    def refuse(self, where: Where, problem: str, hint: str | None = None) -> UsageError:
        """The error, at the place or at what it lies in."""
        return refused(self.found.path, [self.found.key_problem(where, problem, hint or "")])

    def all(self) -> None:
        """Every check, in the order in which they build on each other."""
        self.keys()
        self.types()
        self.lists()
        self.draw()
        self.templates()
        for key in ("answer", "wrong", "label", "group"):
            if key in self.data:
                self.text((key,), self.data[key], several=key in ("answer", "wrong"))

    def keys(self) -> None:
        if not isinstance(self.data, dict):
            keys = ", ".join(REQUIRED)
            raise self.refuse((), f"a phenomenon file is a mapping with the keys {keys}")
        known = (*REQUIRED, *OPTIONAL)
        for key in self.data:
            if key not in known:
                close = nearest(str(key), known)
                hint = f"did you mean {close!r}? " if close else ""
                raise self.refuse(
                    (key,), f"unknown key {key!r}", f"{hint}known: " + ", ".join(known)
                )
        for key in REQUIRED:
            if key not in self.data:
                raise self.refuse((), f"the key {key!r} is missing")

    def types(self) -> None:
        data = self.data
        for key in _TEXTS:
            if key in data and (not isinstance(data[key], str) or not data[key].strip()):
                raise self.refuse((key,), f"{key!r} must be a text")
        for key in ("lists", "draw", "templates", "baseline"):
            if key in data and (not isinstance(data[key], dict) or not data[key]):
                raise self.refuse((key,), f"{key!r} must be a mapping with at least one entry")
            for name in data.get(key, ()):
                if not isinstance(name, str):
                    raise self.refuse(
                        (key, name), f"{key!r}: the name {name!r} is no text", "put it in quotes"
                    )
        if data.get("order", "random") not in ("random", "list"):
            raise self.refuse(("order",), "'order' is 'random' or 'list'")
        for key in ("size", "seed"):
            if not isinstance(data.get(key, 1), int) or isinstance(data.get(key), bool):
                raise self.refuse((key,), f"{key!r} must be a whole number")
        if data.get("size", 1) < 1:
            raise self.refuse(("size",), f"'size' {data['size']} is not at least 1")
        metrics = typing.get_args(Metric)
        if data.get("metric", "logit_diff") not in metrics:
            raise self.refuse(
                ("metric",), f"'metric' {data['metric']!r} is not one of " + ", ".join(metrics)
            )

    def lists(self) -> None:
        for name, entries in self.data["lists"].items():
            where = ("lists", name)
            if not isinstance(entries, list) or not entries:
                raise self.refuse(where, f"'lists', entry {name!r}: not a list with content")
            for index, entry in enumerate(entries):
                fields = entry if isinstance(entry, dict) else {None: entry}
                for part, value in fields.items():
                    words = value if part and isinstance(value, list) else [value]
                    place = (*where, index, *([part] if part else []))
                    for word in words or [None]:
                        if isinstance(word, bool) or not isinstance(word, (str, int)):
                            what = f"field {part!r}" if part else "entry"
                            raise self.refuse(
                                place,
                                f"{what} of {name!r} is no text: {value!r}",
                                "put it in quotes",
                            )

    def draw(self) -> None:
        data = self.data
        for slot, name in data["draw"].items():
            if not isinstance(name, str):
                raise self.refuse(("draw", slot), f"slot {slot!r}: {name!r} is not a list's name")
            if name not in data["lists"]:
                raise self.refuse(
                    ("draw", slot), f"slot {slot!r} draws from {name!r}, which is not in 'lists'"
                )
        names = list(data["draw"].values())
        for name in names:
            if len(data["lists"][name]) < names.count(name):
                raise self.refuse(
                    ("lists", name),
                    f"{name!r} has fewer entries than the "
                    f"{names.count(name)} slots drawing from it",
                )
        most = min(len(data["lists"][name]) for name in names) * len(data["templates"])
        if data.get("order") == "list" and data.get("size", 1) > most:
            raise self.refuse(
                ("size",),
                f"'size' {data['size']} is more than the {most} pairs "
                "of the list's entries and the templates",
            )

    def templates(self) -> None:
        for name, texts in self.data["templates"].items():
            where = ("templates", name)
            if not isinstance(texts, dict) or set(texts) != {"clean", "corrupt"}:
                raise self.refuse(
                    where, f"template {name!r} must have exactly 'clean' and 'corrupt'"
                )
            for part, text in texts.items():
                self.text((*where, part), text)

    def text(self, where: Where, text: Any, several: bool = False) -> None:
        """The slots of a text.

        Args:
            several: whether one of its slots may hold a list.
        """
        if not isinstance(text, str) or not text.strip():
            raise self.refuse(where, f"{text!r} is not a text")
        slots = list(SLOT.finditer(text))
        for match in re.finditer(r"\{\s*(\w+)", text):
            whole = any(slot.start() == match.start() for slot in slots)
            if match[1] in self.data["draw"] and not whole:
                raise self.refuse(
                    where,
                    f"{text!r}: the slot {match[1]!r} is not closed",
                    "{slot}, {slot.field}, {slot:label} or {slot.field:label}",
                )
        listed = {(m[1], m[2]) for m in slots if self._holds_lists(where, text, m)}
        if len(listed) > several or sum((m[1], m[2]) in listed for m in slots) > 1:
            parts = ", ".join(f"{slot}.{part}" for slot, part in sorted(listed))
            raise self.refuse(
                where,
                f"{text!r}: {parts} holds lists",
                "'answer' and 'wrong' may use one such field, once",
            )

    def _holds_lists(self, where: Where, text: str, match: re.Match[str]) -> bool:
        """Whether some entries hold a list there; refuses slots and fields that do not exist."""
        slot, part = match[1], match[2]
        if slot not in self.data["draw"]:
            known = ", ".join(self.data["draw"])
            raise self.refuse(
                where, f"{text!r} uses the slot {slot!r}, which is not drawn ({known})"
            )
        values = []
        for index, entry in self._entries(slot):
            if part and (not isinstance(entry, dict) or part not in entry):
                raise self.refuse(
                    ("lists", self.data["draw"][slot], index),
                    f"the entry {entry!r} has no field {part!r}",
                )
            if not part and isinstance(entry, dict):
                raise self.refuse(
                    where,
                    f"{text!r}: the slot {slot!r} needs a field",
                    "one of " + ", ".join(f"{{{slot}.{k}}}" for k in entry),
                )
            values.append(entry[part] if part else entry)
        return any(isinstance(value, list) for value in values)

    def _entries(self, slot: str) -> Iterator[tuple[int, Any]]:
        yield from enumerate(self.data["lists"][self.data["draw"][slot]])

"""JSON files: an object on each line, an array of objects, or lists of them below an object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.common.text_files import read_text
from remote_mi.prompts.examples import FIELDS
from remote_mi.prompts.files.records import FileRecord, FileRecords

_ONE_A_LINE = "one object per line, with double quotes"
_EITHER = "one object per line, or an array of objects"


def read_json(path: Path) -> FileRecords:
    """The objects of a JSON file.

    Raises:
        UsageError: naming file and line.
    """
    text = read_text(path)
    if text.lstrip()[:1] == "[":
        records = list(_from_array(path, text))
    else:
        whole = _whole_object(text)
        records = list(_from_lines(path, text)) if whole is None else _from_object(path, whole)
    if not records:
        raise UsageError(f"{path} has no prompts", _EITHER)
    return FileRecords(str(path), records)


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_unique_keys)


def _from_lines(path: Path, text: str) -> Iterator[FileRecord]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            yield _record(where, _decoded(where, line.strip(), 0, _ONE_A_LINE, alone=True)[0])


def _from_array(path: Path, text: str) -> Iterator[FileRecord]:
    """The elements of an array, one after another, so that each has its line."""
    at = _after_space(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        where = f"{path}:{text.count(chr(10), 0, at) + 1}"
        found, at = _decoded(where, text, at, "an array of objects: [{…}, {…}]")
        yield _record(where, found)
        at = _after_space(text, at)
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != "]":
            line = text.count("\n", 0, at) + 1
            what = "the array does not end" if at >= len(text) else "',' or ']' is missing"
            raise UsageError(f"{path}:{line}: not JSON: {what}", "an array of objects: [{…}, {…}]")
    rest = _after_space(text, at + 1)
    if rest < len(text):
        line = text.count("\n", 0, rest) + 1
        raise UsageError(f"{path}:{line}: not JSON: something follows the array", _EITHER)


def _after_space(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _decoded(where: str, text: str, at: int, hint: str, alone: bool = False) -> tuple[Any, int]:
    """The value at a place of a text, and where it ends; `alone`: nothing may follow."""
    try:
        if alone:
            return _decoder().decode(text), len(text)
        return _decoder().raw_decode(text, at)
    except RecursionError:
        raise UsageError(f"{where}: lists and objects are nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}", hint) from None
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from None


def _record(where: str, found: Any) -> FileRecord:
    if not isinstance(found, dict):
        raise UsageError(
            f"{where}: {found!s:.60} is not an object with a prompt or a pair", _EITHER
        )
    return FileRecord(where, found)


def _whole_object(text: str) -> dict[str, Any] | None:
    """The single object of a file that holds one over several lines, or lists of objects."""
    try:
        found = _decoder().decode(text)
    except (ValueError, RecursionError, UsageError):
        return None  # one object per line, or a mistake that reading by lines places
    return found if isinstance(found, dict) else None


def _from_object(path: Path, whole: dict[str, Any]) -> list[FileRecord]:
    """One record; or the lists of records below an object, such as `data` or splits.

    Raises:
        UsageError: for the columns that `DataFrame.to_json` writes by default.
    """
    if not set(FIELDS).isdisjoint(whole):  # a prompt itself
        return [FileRecord(f"{path}:1", whole)]
    if isinstance(whole.get("data"), (list, dict)):
        whole = whole["data"] if isinstance(whole["data"], dict) else {"data": whole["data"]}
    lists = [value for value in whole.values() if isinstance(value, list)]
    objects = all(isinstance(item, dict) for value in lists for item in value)
    if lists and objects and len(lists) == len(whole):
        return [
            _record(f"{path}: record {index} of {name!r}", item)
            for name, items in whole.items()
            for index, item in enumerate(items, 1)
        ]
    if whole and all(isinstance(v, dict) and set(v) >= {"0"} for v in whole.values()):
        raise UsageError(
            f"{path} has columns, not records: {', '.join(map(str, whole)):.120}",
            'write it with frame.to_json(FILE, orient="records"), or as CSV',
        )
    return [FileRecord(f"{path}:1", whole)]


def _unique_keys(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; Python itself would silently take the last of two equal keys.

    Raises:
        UsageError: if a key occurs twice.
    """
    found = dict(members)
    if len(found) < len(members):
        keys = [key for key, _ in members]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UsageError(f"the key {twice!r} appears twice", "leave one of them out")
    return found

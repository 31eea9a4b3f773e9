"""Which column of a file, or key of its objects, holds which field of a prompt."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.prompts.examples import FIELDS
from remote_mi.prompts.files.records import FileRecord, FileRecords, unpacked
from remote_mi.prompts.messages import is_messages

#: Fields that hold a list or an object, which a cell of a table holds as text.
_NESTED = ("answers", "wrongs", "labels", "corrupt_labels", "messages", "behaviour")
#: Fields of one kind of prompt that are not taken beside the other's.
_OF_PAIR = ("clean", "corrupt", "answer", "answers", "wrong", "wrongs")
_OF_TEXT = ("prompt", "clean", "corrupt")
_OF_PROMPT = ("prompt", "messages", "target")
#: A column this similar to a field's name is taken for a misspelling of it.
_MISSPELT = 0.8


def parse_columns(given: Iterable[str], named: str = "--columns") -> dict[str, str]:
    """Field → column, from words such as `clean=prompt,answer=label`.

    Args:
        named: where they stand, for errors.

    Raises:
        UsageError: for another form, an unknown field, or a field named twice.
    """
    found: dict[str, str] = {}
    for word in (part for text in given for part in text.split(",")):
        field, equals, column = (part.strip() for part in word.partition("="))
        if not equals or not field or not column:
            raise UsageError(f"{named}: {word!r} is not FIELD=COLUMN", _FIELDS)
        if field in found:
            raise UsageError(f"{named}: {field!r} is given twice", "leave one of them out")
        found[field] = column
    check_fields(found, named)
    return found


_FIELDS = "fields: " + ", ".join(FIELDS)


def check_fields(columns: Mapping[str, str], named: str = "columns") -> None:
    """Refuse names that are no fields of a prompt.

    Raises:
        UsageError: naming the first, and the fields.
    """
    for field, column in columns.items():
        if field not in FIELDS:
            swapped = f"did you mean {column}={field}? " if column in FIELDS else ""
            raise UsageError(
                f"{named}: '{field}={column}' is not FIELD=COLUMN: there is no field {field!r}",
                swapped + _FIELDS,
            )


def check_columns(found: FileRecords, columns: Mapping[str, str]) -> None:
    """Refuse a mapping to columns that do not exist, and a table without a prompt.

    Raises:
        UsageError: naming the file's columns.
    """
    names = found.names
    listed = ", ".join(names) if len(names) <= 20 else ", ".join([*names[:20], "…"])
    for column in columns.values():
        if column not in names:
            raise UsageError(
                f"{found.source}: there is no column {column!r}", f"its columns: {listed}"
            )
    if not found.columns:
        return
    if not {"prompt", "clean", "messages"} & {*columns, *names}:
        raise UsageError(
            f"{found.source}: no column is called 'prompt' or 'clean'; its columns: {listed}",
            f"name the right one: {_option(found)}prompt={names[0] if names else 'COLUMN'}",
        )
    for name in names if not columns else ():
        if not name.isalpha():  # prompt_id is something else
            continue
        close = difflib.get_close_matches(name.lower(), FIELDS, n=1, cutoff=_MISSPELT)
        if name not in FIELDS and close and close[0] not in names:
            raise UsageError(
                f"{found.source}: is its column {name!r} the field {close[0]!r}?",
                f"then give {_option(found)}{close[0]}={name}; otherwise rename the column",
            )


def _option(found: FileRecords) -> str:
    """What precedes a mapping of a column on the command line."""
    return f"{found.source}," if found.source.startswith("hf:") else "--columns "


def fields_of(found: FileRecords, record: FileRecord, columns: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a record's prompt, for `parse_example`.

    A column that is mapped to a field is not also taken by its own name. Other columns of a table
    are ignored; those of JSON objects only if columns are mapped.
    """
    taken = set(columns.values())
    skipped: tuple[str, ...] = ()
    if {"clean", "corrupt"} & set(columns):
        skipped = _OF_PROMPT
    elif set(_OF_PROMPT) & set(columns):
        skipped = _OF_PAIR
    fields = {name: record.values[col] for name, col in columns.items() if col in record.values}
    strict = not found.columns and not columns
    for name, value in record.values.items():
        known = name in FIELDS and name not in skipped
        if name not in taken and name not in columns and (known or strict):
            fields[name] = value
    if found.columns:
        for name in fields:
            cell = unpacked(fields[name])
            if name in _NESTED or (name in _OF_TEXT and is_messages(cell)):
                fields[name] = cell
    return fields

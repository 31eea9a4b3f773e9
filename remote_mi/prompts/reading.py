"""Prompts from files and data sets: records of any form become prompts or pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.prompts.datasets import DATASET, read_dataset
from remote_mi.prompts.examples import Example, PromptSet, parse_example
from remote_mi.prompts.files.columns import check_columns, check_fields, fields_of
from remote_mi.prompts.files.reading import read_records
from remote_mi.prompts.files.records import FileRecords, unpacked
from remote_mi.prompts.published import detect_format, find_format
from remote_mi.prompts.published.base import PublishedFormat, RecordMisfit

#: Details of a set of prompts from a file: how its records were read, and which were left out.
COLUMNS, FORMAT, LEFT_OUT = "columns", "format", "left_out"
_LISTED = 8


def read_prompts(
    source: str | Path,
    most: int | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    form: str = "",
    drop: bool = False,
) -> PromptSet:
    """Prompts from a file, or from a data set (`hf:…`).

    A record has `clean`, `corrupt`, `answer`, `wrong`, or `prompt` and optionally `target`;
    `answers` and `wrongs` are lists. Also `template`: prompts of the same template are aligned
    position by position when averaged; `label` and `group`: see `Example`; `labels`: name → words
    of the clean text whose position it names, there and, if they occur in it, in the corrupt text.

    Args:
        most: maximum number of rows to read from a data set; None for all.
        columns: field → the column that holds it, where their names differ.
        form: the published format of the records (see `remote_mi.prompts.published`), which is
            otherwise recognised by its columns.
        drop: leave out records of which no prompt can be made, and say which.

    Raises:
        UsageError: naming the file and line, or the data set and row.
        RemoteMIError: if the hub cannot be reached.
    """
    if str(source).startswith(DATASET):
        found, own = read_dataset(str(source), most)
        return prompts_from(found, str(source), {**own, **(columns or {})}, form, drop)
    path = Path(source)
    return prompts_from(read_records(path), path.name, columns or {}, form, drop)


def prompts_from(
    found: FileRecords, origin: str, columns: Mapping[str, str], form: str, drop: bool
) -> PromptSet:
    """The prompts of a file's records; arguments and errors as `read_prompts`."""
    if columns and form:
        raise UsageError(
            f"--columns and --format {form}: a format has its own columns", "give one of them"
        )
    check_fields(columns)
    known, variant = find_format(form) if form else (None, "")
    if known is None and not columns:
        known = detect_format(found.names)
    if known is not None:
        made = _published(found, known, variant)
        details: dict[str, Any] = {FORMAT: form or known.name}
    else:
        check_columns(found, columns)
        made = [_parsed(found, index, columns) for index in range(len(found.records))]
        details = {COLUMNS: dict(columns)} if columns else {}
    failures = {
        record.where: outcome
        for record, outcome in zip(found.records, made, strict=True)
        if isinstance(outcome, UsageError)
    }
    examples = [example for outcome in made if isinstance(outcome, list) for example in outcome]
    if failures and (not drop or not examples):
        raise _refusal(found, failures)
    if not examples:
        raise UsageError(f"{found.source} has no prompts", "one JSON object per line")
    if failures:
        details[LEFT_OUT] = [f"{where}: {error.message}" for where, error in failures.items()]
    return PromptSet(tuple(examples), origin, details)


def _parsed(
    found: FileRecords, index: int, columns: Mapping[str, str]
) -> list[Example] | UsageError:
    try:
        return [parse_example(fields_of(found, found.records[index], columns))]
    except UsageError as error:
        return error


def _published(
    found: FileRecords, known: PublishedFormat, variant: str
) -> list[list[Example] | UsageError]:
    """What the records of a published format give."""
    if not known.matches(found.names):
        wanted = " or ".join(", ".join(sorted(names)) for names in known.signatures)
        raise UsageError(
            f"{found.source} is not in the format {known.name!r}: its columns are "
            + ", ".join(found.names[:20]),
            f"that format has {wanted}",
        )
    rows = [record.values for record in found.records]
    if found.columns:  # a cell holds a list or an object as text
        rows = [{name: unpacked(value) for name, value in row.items()} for row in rows]
    return [
        UsageError(f"{known.name}: {made}") if isinstance(made, RecordMisfit) else made
        for made in known.read(rows, variant)
    ]


def _refusal(found: FileRecords, failures: Mapping[str, UsageError]) -> UsageError:
    """The error of records of which no prompt can be made: what is alike is said once."""
    total = len(found.records)
    dropping = "fix them, or run the others with --drop-invalid" if len(failures) < total else ""
    if len(failures) == 1:
        [(where, error)] = failures.items()
        return UsageError(f"{where}: {error.message}", error.hint or dropping or None)
    alike: dict[str, list[str]] = {}
    for where, error in failures.items():
        alike.setdefault(error.message, []).append(where)
    lines = [
        f"{places[0]}: {message}" + (f" (and {len(places) - 1} more like it)" if places[1:] else "")
        for message, places in alike.items()
    ]
    more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    hints = dict.fromkeys(error.hint for error in failures.values() if error.hint)
    advice = "; ".join([*(hints if len(hints) == 1 else ()), *([dropping] if dropping else ())])
    return UsageError(
        f"{len(failures)} of {total} records of {found.source} give no prompt:\n  "
        + "\n  ".join([*lines[:_LISTED], *more]),
        advice or None,
    )

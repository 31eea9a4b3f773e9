"""Prompts from files and data sets."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from remote_mi.common.errors import RemoteMIError, UsageError, first_line
from remote_mi.common.text_files import read_text
from remote_mi.prompts.examples import FIELDS, PromptSet, parse_example

DATASET = "hf:"
_LOADERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def read_prompts(source: str | Path, most: int | None = None) -> PromptSet:
    """Prompts from a JSONL file, or from a dataset (`hf:…`).

    Args:
        most: maximum number of rows to read from a dataset; None for all.

    Raises:
        UsageError: naming the file and line, or the dataset and row.
        RemoteMIError: if the hub cannot be reached.
    """
    if str(source).startswith(DATASET):
        return read_dataset(str(source), most)
    return read_jsonl(Path(source))


def read_jsonl(path: Path) -> PromptSet:
    """Prompts from a file with one JSON object per line.

    A line has `clean`, `corrupt`, `answer`, `wrong`, or `prompt` and optionally `target`;
    `answers` and `wrongs` are lists. Also `template`: prompts of the same template are aligned
    position by position when averaged; `label` and `group`: see `Example`; `labels`: name → words
    of the clean text whose position it names, there and, if they occur in it, in the corrupt text.

    Raises:
        UsageError: naming file and line.
    """
    lines = read_text(path).split("\n")
    examples = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            examples.append(parse_example(json.loads(line, object_pairs_hook=_unique_keys)))
        except RecursionError:
            raise UsageError(f"{path}:{number}: lists and objects are nested too deeply") from None
        except ValueError as error:
            raise UsageError(
                f"{path}:{number}: not JSON: {error}", "one object per line, with double quotes"
            ) from None
        except UsageError as error:
            raise UsageError(f"{path}:{number}: {error.message}", error.hint) from None
    if not examples:
        raise UsageError(f"{path} has no prompts", "one JSON object per line")
    return PromptSet(tuple(examples), path.name)


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


def read_dataset(source: str, most: int | None = None) -> PromptSet:
    """Prompts from a Hugging Face dataset; `source` as described in `remote_mi.prompts.examples`.

    Class numbers are replaced by the names of the classes. Empty cells count as missing.

    Raises:
        UsageError: if `datasets` is not installed, or naming the dataset and row.
        RemoteMIError: if it cannot be loaded.
    """
    address, *renamed = source.removeprefix(DATASET).split(",")
    address, _, split = address.partition("#")
    columns = {name: name for name in FIELDS}
    for change in renamed:
        name, equals, column = change.partition("=")
        if name not in FIELDS or not equals or not column:
            raise UsageError(
                f"{source}: {change!r} is not FIELD=COLUMN", "fields: " + ", ".join(FIELDS)
            )
        columns[name] = column
    table = _load_split(source, address, split)
    for change in renamed:
        column = change.partition("=")[2]
        if column not in table.column_names:
            raise UsageError(
                f"{source}: there is no column {column!r}",
                "its columns: " + ", ".join(table.column_names),
            )
    columns = {name: column for name, column in columns.items() if column in table.column_names}
    if not {"prompt", "clean"} & set(columns):
        raise UsageError(
            f"{source}: no column is called 'prompt' or 'clean'; its columns: "
            + ", ".join(table.column_names),
            f"name the right one: {source},prompt={table.column_names[0]}",
        )
    examples = []
    rows = table if most is None or most < 1 else islice(table, most)
    for number, row in enumerate(rows, 1):
        given = {
            name: _class_name(table.features[column], row[column])
            for name, column in columns.items()
            if row[column] is not None
        }
        try:
            examples.append(parse_example(given))
        except UsageError as error:
            raise UsageError(f"{source}: row {number}: {error.message}", error.hint) from None
    if not examples:
        raise UsageError(f"{source} has no rows")
    return PromptSet(tuple(examples), source)


def _class_name(feature: Any, value: Any) -> Any:
    """The name of a class number; any other value unchanged."""
    return feature.int2str(value) if hasattr(feature, "int2str") and value >= 0 else value


def _load_split(source: str, address: str, split: str) -> Any:
    """Load one split of the dataset at an address."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise UsageError(
            f"{source}: datasets need the package `datasets`", 'pip install "remote_mi[datasets]"'
        ) from None
    try:
        found = _load_local(datasets, address) if _is_local(address) else None
        if found is None:
            name, _, config = address.partition(":")
            found = datasets.load_dataset(name, config or None)
    except RemoteMIError:
        raise
    except Exception as error:  # from the hub, the network, or the file format
        if _is_local(address):
            raise UsageError(
                f"{source}: cannot be read as a dataset: {first_line(error)}"
            ) from error
        raise RemoteMIError(
            f"{source}: cannot be loaded from the hub: {type(error).__name__}: {first_line(error)}",
            "check the name and the network; give a dataset on this machine by path: hf:./FOLDER",
        ) from error
    if not isinstance(found, Mapping):
        if split:
            raise UsageError(f"{source}: this dataset has no splits", "leave '#…' out")
        return found
    splits = list(found)
    if not split and len(splits) > 1:
        raise UsageError(
            f"{source}: it has the splits {', '.join(splits)}",
            f"name one: {DATASET}{address}#{splits[0]}",
        )
    if split and split not in splits:
        raise UsageError(f"{source}: there is no split {split!r}", "splits: " + ", ".join(splits))
    return found[split or splits[0]]


def _is_local(address: str) -> bool:
    return address.startswith((".", "/", "~"))


def _load_local(datasets: Any, address: str) -> Any:
    """Load a folder written by `save_to_disk`, a folder of files, or a single file."""
    path = Path(address).expanduser()
    if path.is_file():
        loader = _LOADERS.get(path.suffix.lower())
        if loader is None:
            raise UsageError(f"{DATASET}{address}: not one of {', '.join(_LOADERS)}")
        return datasets.load_dataset(loader, data_files=str(path))["train"]
    if not path.is_dir():
        raise UsageError(
            f"{DATASET}{address}: there is no such file or folder",
            "give a dataset on the hub as hf:ORG/NAME",
        )
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(path))
    return datasets.load_dataset(str(path))

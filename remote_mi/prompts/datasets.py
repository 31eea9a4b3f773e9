"""Rows of Hugging Face datasets, on the hub or on this machine."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from remote_mi.common.errors import RemoteMIError, UsageError, first_line
from remote_mi.prompts.files.columns import parse_columns
from remote_mi.prompts.files.records import FileRecord, FileRecords

DATASET = "hf:"
_LOADERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def read_dataset(source: str, most: int | None = None) -> tuple[FileRecords, dict[str, str]]:
    """The rows of a Hugging Face dataset; `source` as described in `remote_mi.prompts.examples`.

    Class numbers are replaced by the names of the classes. Empty cells count as missing.

    Args:
        most: maximum number of rows to read; None for all.

    Returns:
        its rows, and field → column as the source names them.

    Raises:
        UsageError: if `datasets` is not installed, or naming the dataset.
        RemoteMIError: if it cannot be loaded.
    """
    address, *renamed = source.removeprefix(DATASET).split(",")
    address, _, split = address.partition("#")
    columns = parse_columns(renamed, source)
    table = _load_split(source, address, split)
    rows = table if most is None or most < 1 else islice(table, most)
    records = []
    for number, row in enumerate(rows, 1):
        values = {
            name: _class_name(table.features[name], value)
            for name, value in row.items()
            if value is not None
        }
        records.append(FileRecord(f"{source}: row {number}", values))
    if not records:
        raise UsageError(f"{source} has no rows")
    return FileRecords(source, records, tuple(table.column_names)), columns


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

"""Which reader takes a file: one entry for each ending of a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from remote_mi.common.errors import UsageError
from remote_mi.prompts.files.columnar import read_excel, read_parquet, split_sheet
from remote_mi.prompts.files.delimited import read_csv, read_tsv
from remote_mi.prompts.files.json_records import read_json
from remote_mi.prompts.files.records import FileRecords

READERS: Mapping[str, Callable[[Path], FileRecords]] = {
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".tab": read_tsv,
    ".parquet": read_parquet,
    ".xlsx": read_excel,
    ".xlsm": read_excel,
}
#: Endings of files that are not read → what to do instead.
_INSTEAD = {
    ".xls": "save it as .xlsx or CSV",
    ".ods": "save it as .xlsx or CSV",
    ".feather": "write it as Parquet: frame.to_parquet(FILE)",
    ".arrow": "write it as Parquet; a folder of save_to_disk is given as hf:./FOLDER",
    ".pkl": "pickles run code when read; write it with frame.to_csv(FILE, index=False)",
    ".pickle": "pickles run code when read; write it with frame.to_csv(FILE, index=False)",
    ".gz": "unpack it first",
    ".zip": "unpack it first",
    ".zst": "unpack it first",
    ".yaml": "a phenomenon is given as --phenomenon FILE",
    ".yml": "a phenomenon is given as --phenomenon FILE",
    ".safetensors": "it holds tensors, not texts",
    ".pdf": "copy its texts into a CSV file",
    ".docx": "copy its texts into a CSV file",
}


def read_records(path: Path) -> FileRecords:
    """The records of a file; a name without a known ending is read as JSON.

    Raises:
        UsageError: naming the file and, if there is one, the line or row.
    """
    suffix = split_sheet(path)[0].suffix.lower()
    if suffix in _INSTEAD and suffix not in READERS:
        raise UsageError(
            f"{path}: prompts are not read from {suffix} files",
            f"{_INSTEAD[suffix]}; these are read: {', '.join(READERS)}",
        )
    return READERS.get(suffix, read_json)(path)

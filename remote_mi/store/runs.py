"""The runs of a project: one folder a run, complete in itself and safe to copy.

runs/<utc>-<recipe>-<id8>/
  run.json            status, recipe, prompts, coordinates, provenance, hashes of the artifacts
  config.lock.yaml    the job, to run it again
  source/             the recipe's file, local modules it imports, the phenomenon's file
  events.jsonl        what happened when
  artifacts/result.safetensors
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from remote_mi.errors import Mismatch, NotFound, UsageError, not_found
from remote_mi.results import Result
from remote_mi.store.files import arrays_from_bytes, arrays_to_bytes, store_error

SCHEMA = 1
_ARRAYS = "artifacts/result.safetensors"


@dataclass
class RunRecord:
    """What a run folder is made from.

    Attributes:
        id8: eight hex digits that the key and the environment give.
        lock: the job, for config.lock.yaml.
        sources: file name → content to keep under source/.
        events: one JSON object each, in order.
        error: the message of a failed run, or None.
    """

    id8: str
    result: Result
    lock: Mapping[str, Any]
    sources: Mapping[str, bytes] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    error: str | None = None


class Runs:
    """The runs folder of a project; it need not exist yet."""

    def __init__(self, project: Path) -> None:
        self.folder = project / "runs"

    def ids(self) -> list[str]:
        """Names of all runs, oldest first."""
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(n for n in names if not n.startswith(".") and n.count("-") >= 2)

    def by_id8(self, id8: str) -> list[str]:
        """Names of the runs with this id, newest first."""
        return [name for name in reversed(self.ids()) if name.endswith(f"-{id8}")]

    def find(self, wanted: str | None) -> str:
        """The run of a full name, an id, a prefix of an id, or the newest for None.

        Raises:
            NotFound: with the nearest name. UsageError: if a prefix fits several runs.
        """
        names = self.ids()
        if not names:
            raise NotFound(f"there are no runs in {self.folder}", "`remote-mi demo` makes one")
        if wanted is None:
            return names[-1]
        wanted = Path(wanted).name
        found = [n for n in names if n == wanted or n.rsplit("-", 1)[1].startswith(wanted)]
        if not found:
            known = [*names, *(n.rsplit("-", 1)[1] for n in names)]
            raise not_found("run", wanted, known, "remote-mi runs ls")
        if len({n.rsplit("-", 1)[1] for n in found}) > 1:
            raise UsageError(f"{wanted!r} fits {len(found)} runs: {', '.join(found[:5])}",
                             "give more digits")  # fmt: skip
        return found[-1]

    def read_info(self, name: str) -> dict[str, Any]:
        """run.json of a run.

        Raises:
            Mismatch: if it is damaged or of a newer schema.
        """
        path = self.folder / name / "run.json"
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise Mismatch(f"{path.parent} is not a run: it has no run.json") from None
        except (OSError, ValueError) as error:
            raise Mismatch(f"{path} is damaged: {error}") from None
        if data.get("schema") != SCHEMA:
            raise Mismatch(f"{path} has schema {data.get('schema')}, this version reads {SCHEMA}",
                           "update remote_mi")  # fmt: skip
        return data

    def read(self, name: str) -> Result:
        """A run's result, its artifacts checked against their hashes.

        Raises:
            Mismatch: if something is damaged.
        """
        data = self.read_info(name)
        path = self.folder / name / _ARRAYS
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Mismatch(f"{path} cannot be read: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != data["artifacts"][_ARRAYS]:
            raise Mismatch(f"{path} is damaged: its SHA-256 is not the recorded one",
                           "run the job again")  # fmt: skip
        return Result(data["recipe"], data["document"], arrays_from_bytes(content, path),
                      data["provenance"], name, self.folder / name)  # fmt: skip

    def write(self, record: RunRecord) -> Result:
        """Make a run folder; it appears whole or not at all.

        Raises:
            StoreError: if the disk is full or the folder cannot be written.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        name = f"{stamp}-{record.result.recipe['name']}-{record.id8}"
        partial = self.folder / f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            self._clean()
            self._fill(partial, record)
            target = self.folder / name
            try:
                partial.rename(target)
            except OSError:
                # The same run, finished by another process within the second.
                if not (target / "run.json").exists():
                    raise
                shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise store_error(error, self.folder, "the run") from error
        record.result.run_id, record.result.path = name, self.folder / name
        return record.result

    def _fill(self, folder: Path, record: RunRecord) -> None:
        content = arrays_to_bytes(record.result.arrays)
        info = {
            "schema": SCHEMA,
            "status": "failed" if record.error else "done",
            "error": record.error,
            "recipe": record.result.recipe,
            "document": record.result.document,
            "provenance": record.result.provenance,
            "artifacts": {_ARRAYS: hashlib.sha256(content).hexdigest()},
        }
        files = {
            _ARRAYS: content,
            "config.lock.yaml": yaml.safe_dump(_plain(record.lock), sort_keys=False).encode(),
            "events.jsonl": "".join(json.dumps(e) + "\n" for e in record.events).encode(),
            **{f"source/{name}": text for name, text in record.sources.items()},
            "run.json": json.dumps(info, indent=1).encode(),
        }
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())

    def _clean(self) -> None:
        """Remove folders that a killed process left unfinished."""
        if not self.folder.is_dir():
            return
        for path in self.folder.glob(".partial-*"):
            owner = path.name.split("-")[1]
            if not (owner.isdigit() and _alive(int(owner))):
                shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _plain(value: Any) -> Any:
    """The value in plain containers, as YAML's safe dumper wants it."""
    return json.loads(json.dumps(value))

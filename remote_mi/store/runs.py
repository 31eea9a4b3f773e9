"""The runs of a project: one self-contained folder per run, safe to copy.

runs/<utc>-<recipe>-<id8>/
  run.json            status, recipe, prompts, coordinates, provenance, hashes of the artifacts
  config.lock.yaml    the job, to run it again
  source/             the recipe's file and the local modules it imports
  events.jsonl        timestamped events
  artifacts/result.safetensors
  artifacts/inputs/, ancestors/   the artifacts it took, and what made them (`kept_artifacts`)
  tags.json           the user's tags, if any
"""

from __future__ import annotations

import calendar
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remote_mi.common.atomic_files import store_error, write_atomically
from remote_mi.common.errors import Mismatch, NotFound, UsageError, check_exact, not_found
from remote_mi.common.valid_json import parse_json, to_json
from remote_mi.store.arrays import arrays_to_bytes
from remote_mi.store.environment import Environment
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder, id8_from_name
from remote_mi.store.run_index import DAMAGED, RunIndex, RunRow, run_names
from remote_mi.store.run_info import ARRAYS, RUN_JSON, SCHEMA, DamagedRun, read_info
from remote_mi.store.run_record import RunRecord, environment_of, id8_of, scalars_of
from remote_mi.store.sqlite_index import Unusable
from remote_mi.store.typed_json import WrongJson, dataclass_from_json

_TAGS = "tags.json"
_TAG = re.compile(r"\w[\w.:+-]{0,39}")


@dataclass(frozen=True)
class RecipeName:
    """The part of a recipe that lists need."""

    name: str


class Runs:
    """The runs folder of a project; it need not exist yet."""

    def __init__(self, project: Path) -> None:
        self.folder = project / "runs"
        self._index = RunIndex(project, self.folder, self.row)

    def ids(self) -> list[str]:
        """Names of all runs, oldest first."""
        return run_names(self.folder)

    def rows(self) -> list[RunRow]:
        """The list row of each run, oldest first; from the index if it can be used."""
        if not self.folder.is_dir():
            return []
        try:
            return self._index.rows()
        except Unusable:  # e.g. a read-only project
            return [self.row(name) for name in self.ids()]

    def latest_done(self) -> Mapping[tuple[str, str], str]:
        """(job key, environment id) → name of the newest run that is done."""
        if not self.folder.is_dir():
            return {}
        try:
            return self._index.latest_done()
        except Unusable:
            rows = [self.row(name) for name in self.ids()]
            return {(r.key, r.environment): r.name for r in rows if r.status == "done"}

    def lookup(self, key: str, environment: Environment) -> Result | None:
        """The newest done and undamaged run of a job in an environment; None if there is none.

        Runs are matched by their full key, since two jobs may share an `id8`.
        """
        id8 = id8_of(key, environment)
        for result in self._results_of_key(key, environment.id, id8):
            if result.made.environment and result.made.environment.id == environment.id:
                return result
        return None

    def results_of_key(self, key: str) -> Iterator[Result]:
        """The done and undamaged runs of a job in any environment, newest first."""
        return self._results_of_key(key, None, "")

    def _results_of_key(self, key: str, environment: str | None, id8: str) -> Iterator[Result]:
        """As `results_of_key`, optionally of one environment, whose runs end in `id8`."""
        for name in self._candidates(key, environment, id8):
            try:
                result = self.read(name)
            except Mismatch:
                continue  # damaged, or deleted meanwhile
            if result.made.key == key and result.made.environment:
                yield result

    def _candidates(self, key: str, environment: str | None, id8: str) -> Iterator[str]:
        """Names of runs that may belong to this job, newest first."""
        if not self.folder.is_dir():
            return
        try:
            yield from self._index.names_of(key, environment)
        except Unusable:
            for name in reversed(self.ids()):
                if name.endswith(id8) and self.row(name).status == "done":
                    yield name

    def find_to_remove(self, wanted: str) -> str:
        """The name of the one run that is to be removed, from its full name or its id.

        Raises:
            UsageError: for less than the first four letters of an id, or if several runs match.
            NotFound: with the nearest name.
        """
        check_exact("run", wanted)
        if wanted in (names := self.ids()):
            return wanted
        same = [name for name in names if id8_from_name(name).startswith(wanted)]
        if len(same) > 1:
            raise UsageError(
                f"{wanted!r} matches {len(same)} runs: {', '.join(same[:5])}",
                "give the full name of each run that is to be removed",
            )
        return self.find(wanted)

    def find(self, wanted: str | None) -> str:
        """The name of a run, from its full name, id or a prefix of its id; the newest for None.

        Raises:
            NotFound: with the nearest name. UsageError: if a prefix matches several runs.
        """
        names = self.ids()
        if not names:
            raise NotFound(f"there are no runs in {self.folder}", "`remote-mi demo` makes one")
        if wanted is None:
            return names[-1]
        wanted = Path(wanted).name or wanted
        matches = [
            n for n in names if n == wanted or (wanted and id8_from_name(n).startswith(wanted))
        ]
        if not matches:
            known = [*names, *map(id8_from_name, names)]
            raise not_found("run", wanted, known, "remote-mi runs ls")
        if len(set(map(id8_from_name, matches))) > 1:
            raise UsageError(
                f"{wanted!r} matches {len(matches)} runs: {', '.join(matches[:5])}",
                "give more digits",
            )
        return matches[-1]

    def run(self, name: str) -> RunFolder:
        """The folder of a run, whether or not it exists."""
        return RunFolder(self.folder / name)

    def read(self, name: str) -> Result:
        """A run's result, its artifacts checked against their hashes.

        Raises:
            Mismatch: if a file is damaged.
        """
        return self.run(name).result()

    def row(self, name: str) -> RunRow:
        """The list row of a run, read from its folder."""
        try:
            info = read_info(self.folder / name / RUN_JSON, whole=False)
            made, card = info.made, dataclass_from_json(RecipeName, info.recipe, "recipe")
            if made.environment is None:
                raise WrongJson("provenance.environment", "is missing")
        except Mismatch as error:
            return RunRow(name, DAMAGED, problem=error.message)
        except WrongJson as error:
            problem = DamagedRun(self.folder / name / RUN_JSON, error.where, error.what)
            return RunRow(name, DAMAGED, problem=problem.message)
        return RunRow(
            name,
            info.status,
            made.key,
            made.environment.id,
            card.name,
            made.model.name,
            made.prompts.origin,
            made.shown_parameters,
            made.time or "",
            {str(k): float(v) for k, v in info.scalars.items()},
            self.tags(name),
        )

    def tags(self, name: str) -> list[str]:
        """The user's tags of a run; [] if there are none or the file cannot be read."""
        try:
            found = parse_json((self.folder / name / _TAGS).read_bytes())["tags"]
            return [tag for tag in found if isinstance(tag, str) and _TAG.fullmatch(tag)]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def set_tags(self, name: str, tags: Sequence[str]) -> None:
        """Replace the tags of a run.

        Raises:
            UsageError: for an invalid tag. StoreError: if the folder cannot be written.
        """
        for tag in tags:
            if not _TAG.fullmatch(tag):
                raise UsageError(
                    f"{tag!r} is not a valid tag", "letters, digits and . : + - _, at most 40"
                )
        folder = self.folder / name
        content = to_json({"schema": SCHEMA, "tags": list(dict.fromkeys(tags))}).encode()
        try:
            write_atomically(folder / _TAGS, content, folder)
        except OSError as error:
            raise store_error(error, folder, "the tags") from error

    def remove(self, name: str) -> None:
        """Delete a run permanently and atomically.

        Raises:
            StoreError: if the folder cannot be written.
        """
        aside = self._new_partial_path()
        try:
            (self.folder / name).rename(aside)
        except OSError as error:
            raise store_error(error, self.folder, "the change") from error
        shutil.rmtree(aside, ignore_errors=True)

    def write(self, record: RunRecord) -> Result:
        """Write a run folder; it appears complete or not at all.

        Raises:
            StoreError: if the disk is full or the folder cannot be written.
        """
        partial = self._new_partial_path()
        try:
            self._remove_unfinished()
            self._write_files(partial, record)
            name = self._publish(partial, record)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise store_error(error, self.folder, "the run") from error
        record.result.run_id, record.result.path = name, self.folder / name
        return record.result

    def _new_partial_path(self) -> Path:
        return self.folder / f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def _publish(self, partial: Path, record: RunRecord) -> str:
        """Give a finished folder its name, and return it.

        If another process finished the same run within the same second, that one is kept. A
        different run with the same `id8` takes the next free second.
        """
        recipe, status = record.result.recipe["name"], "failed" if record.error else "done"
        moment = max(int(time.time()), self._newest_moment() + 1)
        while True:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))
            name = f"{stamp}-{recipe}-{record.id8}"
            try:
                partial.rename(self.folder / name)
                return name
            except OSError:
                if not (self.folder / name).exists():
                    raise
            row, provenance = self.row(name), record.result.provenance
            same = row.key == str(provenance["key"]) and row.status == status
            if same and row.environment == environment_of(provenance).id:
                shutil.rmtree(partial, ignore_errors=True)
                return name
            moment += 1

    def _newest_moment(self) -> int:
        """The time in the newest run's name if the clock was set back since then, else 0.

        Names are ordered by time, so that the next run must not have an earlier one.
        """
        names = self.ids()
        try:
            newest = calendar.timegm(time.strptime(names[-1][:16], "%Y%m%dT%H%M%SZ"))
        except (IndexError, ValueError):  # no run, or not a date
            return 0
        # A few seconds ahead, it is a run that took the next free second (see `_publish`).
        return newest if newest > time.time() + 5 and names[-1] < "9999" else 0

    def _write_files(self, folder: Path, record: RunRecord) -> None:
        import yaml  # slow to import, and not needed for reading

        content = arrays_to_bytes(record.result.arrays)
        lock = yaml.safe_dump(_to_plain(record.lock), sort_keys=False).encode()
        kept = {
            ARRAYS: content,
            "config.lock.yaml": lock,
            **{f"source/{name}": text for name, text in record.sources.items()},
            **record.inputs,
        }
        info = {
            "schema": SCHEMA,
            "status": "failed" if record.error else "done",
            "error": record.error,
            "recipe": record.result.recipe,
            "document": record.result.document,
            "provenance": record.result.provenance,
            "scalars": scalars_of(record.result),
            "artifacts": {name: hashlib.sha256(text).hexdigest() for name, text in kept.items()},
        }
        files = {
            **kept,
            "events.jsonl": "".join(to_json(e) + "\n" for e in record.events).encode(),
            RUN_JSON: to_json(info, indent=1).encode(),
        }
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())

    def _remove_unfinished(self) -> None:
        """Remove folders that killed processes left unfinished."""
        if not self.folder.is_dir():
            return
        for path in self.folder.glob(".partial-*"):
            owner = path.name.split("-")[1]
            if not (owner.isdigit() and _is_running(int(owner))):
                shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _to_plain(value: Any) -> Any:
    """The value in plain containers, as YAML's safe dumper requires."""
    return parse_json(to_json(value))

"""The runs of a project: one folder a run, complete in itself and safe to copy.

runs/<utc>-<recipe>-<id8>/
  run.json            status, recipe, prompts, coordinates, provenance, hashes of the artifacts
  config.lock.yaml    the job, to run it again
  source/             the recipe's file, local modules it imports, the phenomenon's file
  events.jsonl        what happened when
  artifacts/result.safetensors
  tags.json           what the user calls it, if anything
"""

from __future__ import annotations

import hashlib
import json
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
from remote_mi.common.errors import Mismatch, NotFound, UsageError, not_found
from remote_mi.store.arrays import arrays_to_bytes
from remote_mi.store.environment import Environment
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder, id8_in
from remote_mi.store.run_index import DAMAGED, RunIndex, RunRow, run_names
from remote_mi.store.run_info import ARRAYS, RUN_JSON, SCHEMA, DamagedRun, read_info
from remote_mi.store.run_record import RunRecord, environment_of, id8_of, scalars_of
from remote_mi.store.sqlite_index import Unusable
from remote_mi.store.typed_json import WrongJson, typed

_TAGS = "tags.json"
_TAG = re.compile(r"\w[\w.:+-]{0,39}")


@dataclass(frozen=True)
class Named:
    """Of a recipe, what a list says."""

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
        """What a list says of each run, oldest first; from the index where there is one."""
        if not self.folder.is_dir():
            return []
        try:
            return self._index.rows()
        except Unusable:  # a project that cannot be written
            return [self.row(name) for name in self.ids()]

    def done(self) -> Mapping[tuple[str, str], str]:
        """(job key, id of the environment) → name of the newest run that is done."""
        if not self.folder.is_dir():
            return {}
        try:
            return self._index.done()
        except Unusable:
            rows = [self.row(name) for name in self.ids()]
            return {(r.key, r.environment): r.name for r in rows if r.status == "done"}

    def lookup(self, key: str, environment: Environment) -> Result | None:
        """The newest run of a job in an environment that is done and whole; None if there is none.

        Its key decides: two jobs may share the digits that end their names.
        """
        id8 = id8_of(key, environment)
        for result in self._of_key(key, environment.id, id8):
            if result.made.environment and result.made.environment.id == environment.id:
                return result
        return None

    def of_key(self, key: str) -> Iterator[Result]:
        """The runs of a job in whatever environment that are done and whole, newest first."""
        return self._of_key(key, None, "")

    def _of_key(self, key: str, environment: str | None, id8: str) -> Iterator[Result]:
        """As `of_key`; of one environment where that is given, with the digits of its runs."""
        for name in self._candidates(key, environment, id8):
            try:
                result = self.read(name)
            except Mismatch:
                continue  # damaged, or deleted meanwhile
            if result.made.key == key and result.made.environment:
                yield result

    def _candidates(self, key: str, environment: str | None, id8: str) -> Iterator[str]:
        """Names of runs that may be of this job, newest first."""
        if not self.folder.is_dir():
            return
        try:
            yield from self._index.names_of(key, environment)
        except Unusable:
            for name in reversed(self.ids()):
                if name.endswith(id8) and self.row(name).status == "done":
                    yield name

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
        found = [n for n in names if n == wanted or id8_in(n).startswith(wanted)]
        if not found:
            known = [*names, *map(id8_in, names)]
            raise not_found("run", wanted, known, "remote-mi runs ls")
        if len(set(map(id8_in, found))) > 1:
            raise UsageError(
                f"{wanted!r} fits {len(found)} runs: {', '.join(found[:5])}", "give more digits"
            )
        return found[-1]

    def run(self, name: str) -> RunFolder:
        """The folder of a run, whether or not it is there."""
        return RunFolder(self.folder / name)

    def read(self, name: str) -> Result:
        """A run's result, its artifacts checked against their hashes.

        Raises:
            Mismatch: if something is damaged.
        """
        return self.run(name).result()

    def row(self, name: str) -> RunRow:
        """What a list says of a run, from its folder."""
        try:
            info = read_info(self.folder / name / RUN_JSON, whole=False)
            made, card = info.made, typed(Named, info.recipe, "recipe")
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
            dict(made.parameters),
            made.time or "",
            {str(k): float(v) for k, v in info.scalars.items()},
            self.tags(name),
        )

    def tags(self, name: str) -> list[str]:
        """What the user calls a run; [] if nothing, or if the file cannot be read."""
        try:
            found = json.loads((self.folder / name / _TAGS).read_bytes())["tags"]
            return [tag for tag in found if isinstance(tag, str) and _TAG.fullmatch(tag)]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def set_tags(self, name: str, tags: Sequence[str]) -> None:
        """Call a run so from now on.

        Raises:
            UsageError: for a tag that is none. StoreError: if the folder cannot be written.
        """
        for tag in tags:
            if not _TAG.fullmatch(tag):
                raise UsageError(
                    f"{tag!r} is not a tag", "letters, digits and . : + - _, at most 40"
                )
        folder = self.folder / name
        content = json.dumps({"schema": SCHEMA, "tags": list(dict.fromkeys(tags))}).encode()
        try:
            write_atomically(folder / _TAGS, content, folder)
        except OSError as error:
            raise store_error(error, folder, "the tags") from error

    def remove(self, name: str) -> None:
        """Delete a run for good; gone at once or not at all.

        Raises:
            StoreError: if the folder cannot be written.
        """
        aside = self._partial()
        try:
            (self.folder / name).rename(aside)
        except OSError as error:
            raise store_error(error, self.folder, "the change") from error
        shutil.rmtree(aside, ignore_errors=True)

    def write(self, record: RunRecord) -> Result:
        """Make a run folder; it appears whole or not at all.

        Raises:
            StoreError: if the disk is full or the folder cannot be written.
        """
        partial = self._partial()
        try:
            self._clean()
            self._fill(partial, record)
            name = self._publish(partial, record)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise store_error(error, self.folder, "the run") from error
        record.result.run_id, record.result.path = name, self.folder / name
        return record.result

    def _partial(self) -> Path:
        return self.folder / f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def _publish(self, partial: Path, record: RunRecord) -> str:
        """Give a finished folder its name, and return it.

        The same run, finished by another process within the second, is left as it is. Another run
        of the same digits takes the next second that is free.
        """
        recipe, status = record.result.recipe["name"], "failed" if record.error else "done"
        moment = int(time.time())
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

    def _fill(self, folder: Path, record: RunRecord) -> None:
        import yaml  # slow to import, and reading does without

        content = arrays_to_bytes(record.result.arrays)
        lock = yaml.safe_dump(_plain(record.lock), sort_keys=False).encode()
        kept = {
            ARRAYS: content,
            "config.lock.yaml": lock,
            **{f"source/{name}": text for name, text in record.sources.items()},
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
            "events.jsonl": "".join(json.dumps(e) + "\n" for e in record.events).encode(),
            RUN_JSON: json.dumps(info, indent=1).encode(),
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

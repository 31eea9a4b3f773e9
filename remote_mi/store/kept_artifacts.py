"""Keeping the artifacts of a run: in the results cache by their digest, small ones in its folder.

    <run>/artifacts/inputs/PARAMETER.safetensors   the numbers, up to `SMALL` bytes
    <run>/ancestors/RUN/                           what the run that made them was made from: its
                                                   run.json, lock and source, without its numbers

so that a run's folder alone says, and can make again, what it was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.common.errors import Mismatch, NotFound, RemoteMIError
from remote_mi.common.sizes import format_size
from remote_mi.store.artifacts import BY_DIGEST, LAYER, StoredArtifact, is_digest
from remote_mi.store.cache import Cache
from remote_mi.store.environment import Environment
from remote_mi.store.lock import LOCK
from remote_mi.store.run_folder import SOURCE, RunFolder
from remote_mi.store.run_info import RUN_JSON
from remote_mi.store.tensor_files import SUFFIX, TensorFacts, TensorFile, tensor_file

#: Largest artifact that is copied into a run's folder, in bytes; others are kept by digest.
SMALL = 50_000_000
INPUTS = "artifacts/inputs"
ANCESTORS = "ancestors"
#: In place of an environment: numbers are the same everywhere.
_ANYWHERE = Environment("artifact", "any", "any", "any")
_VALUE = "value"


def keep(cache: Cache, artifact: StoredArtifact) -> None:
    """Keep an artifact in the cache under its digest; raises StoreError if that cannot be written."""
    key = artifact.digest.removeprefix(BY_DIGEST)
    about = {"recipe": "artifact", "model": {"name": str(artifact.model.get("name", "any"))}}
    document = {"dims": list(artifact.dims or ()), LAYER: list(artifact.coords.get(LAYER, ()))}
    arrays = {_VALUE: artifact.array}
    cache.put(key, _ANYWHERE, document, arrays, artifact.to_json(), {**about, "part": True})


def kept(cache: Cache, digest: str) -> StoredArtifact | None:
    """The artifact of a digest, if the cache still has it."""
    if not is_digest(digest):
        return None
    entry = cache.get(digest.removeprefix(BY_DIGEST), _ANYWHERE)
    if entry is None or _VALUE not in entry.arrays:
        return None
    record = dict(entry.record)
    layers = list(entry.document.get(LAYER, ()))
    found = StoredArtifact(
        str(record.get("named", digest)),
        entry.arrays[_VALUE],
        tuple(entry.document.get("dims", ())),
        {LAYER: layers} if layers else {},
        origin_of(record),
    )
    return found if found.digest == digest else None


def origin_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Where an artifact comes from, of what a run records of it."""
    own = ("named", "digest", "dims", "shape", "dtype", "bytes", "kept")
    return {name: value for name, value in record.items() if name not in own}


@dataclass
class KeptInputs:
    """What a run's folder keeps of its artifacts.

    Attributes:
        records: parameter → what run.json says of it, with where its numbers are kept.
        files: file in the folder → content. notes: what could not be kept.
    """

    records: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def inputs_to_keep(
    records: Mapping[str, Mapping[str, Any]], folders: Mapping[str, str], cache: Cache
) -> KeptInputs:
    """What a run's folder is to keep of its artifacts.

    Args:
        records: parameter → `StoredArtifact.to_json`. folders: parameter → folder of the run that
            made it, if there is one. cache: that has their numbers.
    """
    made = KeptInputs()
    for parameter, record in records.items():
        digest, size = str(record["digest"]), int(record["bytes"])
        where, name = "", f"{INPUTS}/{parameter}{SUFFIX}"
        found = kept(cache, digest)
        if found is None:
            made.notes.append(f"the numbers of {record['named']} are not kept: no room for them")
        elif size > SMALL:
            where = "cache"
            made.notes.append(
                f"{record['named']} is {format_size(size)}: it is kept in the results cache, "
                f"as {digest[:19]}…, and not in the run's folder"
            )
        else:
            where = name
            layers = list(found.coords.get(LAYER, ())) or None
            facts = TensorFacts(list(found.dims or ()), layers, found.origin)
            made.files[name] = tensor_file({parameter: found.array}, {parameter: facts})
        made.records[parameter] = {**record, "kept": where}
        if parameter in folders:
            made.files.update(_ancestor_files(Path(folders[parameter])))
    return made


def _ancestor_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """What is copied of the run that made an artifact, and of those that made its own."""
    own = [folder / RUN_JSON, folder / LOCK]
    own += [p for p in sorted((folder / SOURCE).rglob("*.py")) if "__pycache__" not in p.parts]
    own += sorted((folder / INPUTS).glob(f"*{SUFFIX}"))
    for path in own:
        if path.is_file():
            inside = path.relative_to(folder).as_posix()
            yield f"{ANCESTORS}/{folder.name}/{inside}", path.read_bytes()
    for path in sorted((folder / ANCESTORS).rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def kept_input(run: RunFolder, parameter: str, caches: tuple[Cache, ...]) -> StoredArtifact:
    """An artifact that a run took, from its folder or else from a cache; its digest is checked.

    Raises:
        NotFound: if it is kept nowhere any more. Mismatch: if its numbers are others.
    """
    recorded = run.info.provenance.get("artifacts", {}).get(parameter, {})
    digest = str(recorded.get("digest", ""))
    path = run.path / INPUTS / f"{parameter}{SUFFIX}"
    if path.is_file():
        try:
            opened = TensorFile(path)
            facts, array = opened.facts(parameter), opened.read(parameter)
        except RemoteMIError as error:
            raise Mismatch(error.message) from None
        dims = tuple(facts.dims or recorded.get("dims", ()))
        coords = {LAYER: facts.layers} if facts.layers else {}
        named = str(recorded.get("named", parameter))
        found = StoredArtifact(named, array, dims, coords, origin_of(recorded))
        if found.digest != digest:
            raise Mismatch(f"{path} does not hold the numbers that {run.name} took")
        return found
    for cache in caches:
        if (found := kept(cache, digest)) is not None:
            return found
    raise NotFound(
        f"{run.name} took {recorded.get('named', parameter)}, which is kept neither in its folder "
        "nor in the results cache",
        f"make it again: {recorded.get('run') or recorded.get('file') or 'its origin is not known'}",
    )

"""Artifacts: tensors that one run made, or a file holds, and another run takes.

An artifact is named by its user as

    RUN:output          an output or summary of a run, by the run's name, id, prefix or folder
    RUN                 the only one that fits
    FILE.safetensors    the only tensor of a file, or FILE.safetensors:name
    sha256:…            what the results cache keeps under the digest of its numbers

each optionally with `@dimension=coordinate,…`, which chooses a part. It is identified by the digest
of its numbers, never by its origin, which is recorded.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from remote_mi.common.digests import canonical_json
from remote_mi.common.errors import NotFound, RunFailed, UsageError
from remote_mi.common.text import line
from remote_mi.recipes.card import EXAMPLE
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.store.named_array import NamedArray
from remote_mi.store.opening import find_run
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder
from remote_mi.store.tensor_files import OTHERS, SUFFIX, TensorFile, canonical

#: Begins the name of what is named by the digest of its numbers.
BY_DIGEST = "sha256:"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PART = re.compile(r"(?P<name>.+)@(?P<at>\w+=[^@=,]+(,\w+=[^@=,]+)*)", re.DOTALL)
_FILE = re.compile(rf"(?P<file>.+({'|'.join(map(re.escape, (SUFFIX, *OTHERS)))}))(:(?P<name>.*))?")
LAYER = "layer"


@dataclass(frozen=True)
class StoredArtifact:
    """A tensor with what is known of it.

    Attributes:
        named: as its user named it. array: its numbers.
        dims: names of its dimensions; None if they are not known.
        coords: dimension → label of each index, for those that are known.
        origin: JSON: the run and its output, recipe, parameters, site, prompts, model (as it entered
            the key) and artifacts; or the file.
        folder: of the run, if it is one on this machine.
    """

    named: str
    array: np.ndarray = field(repr=False, compare=False)
    dims: tuple[str, ...] | None
    coords: Mapping[str, Sequence[Any]] = field(default_factory=dict, repr=False)
    origin: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @functools.cached_property
    def digest(self) -> str:
        """Of dtype, shape and bytes in canonical form, as the key contains it."""
        array = np.ascontiguousarray(self.array)
        head = canonical_json([array.dtype.name, list(array.shape)])
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        return BY_DIGEST + hashlib.sha256(head.encode() + b"\n" + little.tobytes()).hexdigest()

    @property
    def model(self) -> Mapping[str, Any]:
        """The model it was made for; {} if that is not known."""
        found = self.origin.get("model")
        return found if isinstance(found, Mapping) else {}

    @property
    def layers(self) -> list[int] | None:
        """The layer of each index of the dimension `layer`, if it has one and they are known."""
        known = self.coords.get(LAYER) if LAYER in (self.dims or ()) else None
        return [int(layer) for layer in known] if known else None

    @property
    def site(self) -> str:
        """The site it was made at; "" if that is not known."""
        return str(self.origin.get("site") or "")

    def to_json(self) -> dict[str, Any]:
        """Everything but its numbers, as runs record it."""
        return {
            "named": self.named,
            "digest": self.digest,
            "dims": list(self.dims or ()),
            "shape": list(self.array.shape),
            "dtype": self.array.dtype.name,
            "bytes": self.array.nbytes,
            **self.origin,
        }

    def described_dims(self) -> str:
        """Its dimensions and their sizes, in words."""
        sizes = " × ".join(map(str, self.array.shape)) or "one number"
        return f"{' × '.join(self.dims)} ({sizes})" if self.dims else sizes

    def part(self, at: Mapping[str, str]) -> StoredArtifact:
        """The part at some coordinates; these dimensions are gone.

        Raises:
            UsageError: for a dimension or coordinate that it does not have.
        """
        found = self
        for dim, wanted in at.items():
            if not found.dims or dim not in found.dims:
                raise UsageError(
                    f"{self.named}: there is no dimension {dim!r}: it has {self.described_dims()}",
                    f"leave @{dim}={wanted} out",
                )
            axis = found.dims.index(dim)
            labels = [str(x) for x in found.coords.get(dim, range(found.array.shape[axis]))]
            if wanted not in labels:
                known = ", ".join(line(label, 20) for label in labels[:8])
                more = ", …" if len(labels) > 8 else ""
                raise UsageError(f"{self.named}: {dim} has no {wanted!r}", f"it has: {known}{more}")
            taken = found.array.take(labels.index(wanted), axis)
            dims = found.dims[:axis] + found.dims[axis + 1 :]
            found = replace(found, array=taken, dims=dims)
        return replace(found, origin={**self.origin, "at": dict(at)} if at else self.origin)

    def fitted(self, dims: Sequence[str], what: str) -> StoredArtifact:
        """The same with exactly these dimensions, in canonical form.

        Dimensions of one entry that are not asked for are dropped; a missing `layer` gets one.

        Args:
            what: whom it is for, in a message.

        Raises:
            UsageError: if it has others, or numbers that are none.
        """
        array, own = self.array, self.dims
        takes = f"{what} takes {' × '.join(dims) or 'a number'}"
        if own is None:
            missing = LAYER in dims and array.ndim == len(dims) - 1
            if array.ndim != len(dims) and not missing:
                raise UsageError(
                    f"{self.named} has the shape {self.described_dims()}, and {takes}",
                    "remote-mi artifacts import FILE --dims NAME,… says which dimension is which",
                )
            own = tuple(dim for dim in dims if not (missing and dim == LAYER))
        for dim in [d for d in own if d not in dims]:
            axis = own.index(dim)
            if array.shape[axis] != 1:
                raise UsageError(
                    f"{self.named} has {self.described_dims()}, and {takes}", self._choose(dim)
                )
            array, own = array.squeeze(axis), own[:axis] + own[axis + 1 :]
        lacking = [dim for dim in dims if dim not in own]
        if lacking not in ([], [LAYER]):
            raise UsageError(
                f"{self.named} has {self.described_dims()}, and {takes}: there is no "
                + ", ".join(lacking),
                "name another output; `remote-mi artifacts show RUN` lists them",
            )
        array = np.transpose(array, [own.index(dim) for dim in dims if dim in own])
        if lacking:
            array = np.expand_dims(array, list(dims).index(LAYER))
        coords = {dim: self.coords[dim] for dim in own if dim in self.coords}
        return replace(self, array=canonical(array, self.named), dims=tuple(dims), coords=coords)

    def _choose(self, dim: str) -> str:
        labels = list(self.coords.get(dim, range(self.array.shape[(self.dims or ()).index(dim)])))
        return f"choose one of {dim}: {self.named}@{dim}={line(str(labels[0]), 40)}"


def find_artifact(named: str, dims: Sequence[str], project: Path, what: str) -> StoredArtifact:
    """The artifact that a user named, with exactly these dimensions.

    Args:
        project: with the runs, and for relative file names. what: whom it is for, in messages.

    Raises:
        NotFound: if there is no such run, output, file or tensor. RunFailed: if the run failed.
        UsageError: if it does not fit, or several may be meant. Mismatch: if the run is damaged.
    """
    part = _PART.fullmatch(named)
    whole, at = (part["name"], _places(part["at"])) if part else (named, {})
    found = _found(whole, [*dims, *at], project, named)
    return found.part(at).fitted(dims, what)


def named_artifact(named: str, project: Path) -> StoredArtifact:
    """The artifact that a user named, with its own dimensions; errors as `find_artifact`."""
    part = _PART.fullmatch(named)
    whole, at = (part["name"], _places(part["at"])) if part else (named, {})
    found = _found(whole, (), project, named).part(at)
    return replace(found, array=canonical(found.array, named))


def _found(whole: str, dims: Sequence[str], project: Path, named: str) -> StoredArtifact:
    """The whole that a name refers to, without the part that it chooses."""
    if is_digest(whole):
        raise NotFound(
            f"{whole[:19]}… is not in the results cache any more",
            "name the run that made it, or its file",
        )
    file = _FILE.fullmatch(whole)
    if file is not None and not RunFolder(Path(whole)).is_run:
        return _of_file(_path_of(file["file"], project), file["name"] or "", named)
    return _of_run(whole, dims, project, named)


def is_digest(named: str) -> bool:
    """Whether a name is the digest of an artifact's numbers."""
    return bool(_DIGEST.fullmatch(named))


def _places(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(","))  # type: ignore[misc]


def _path_of(text: str, project: Path) -> Path:
    """A file of the working folder, else of the project."""
    path = Path(text).expanduser()
    return path if path.is_absolute() or path.exists() else project / path


def _of_file(path: Path, name: str, named: str) -> StoredArtifact:
    """A tensor of a file."""
    opened = TensorFile(path)
    name = opened.one(name)
    facts, array = opened.facts(name), opened.read(name)
    dims = tuple(facts.dims) if facts.dims and len(facts.dims) == array.ndim else None
    coords = {LAYER: facts.layers} if facts.layers else {}
    origin = {**facts.origin, "file": path.name, "tensor": name}
    return StoredArtifact(named, array, dims, coords, origin)


def _of_run(text: str, dims: Sequence[str], project: Path, named: str) -> StoredArtifact:
    """An output of a run; the only one that may fit if none is named."""
    folder, output = _run_and_output(text, project)
    info = folder.info
    if info.failed:
        raise RunFailed(
            f"{named}: the run {folder.name} failed, so it made nothing: {info.error}",
            f"`remote-mi view {folder.id8}` shows where; fix it and run it again",
        )
    result = folder.result()
    if output and output not in result.names():
        result[output]  # raises, naming the nearest
    if not output:
        every = artifacts_of(result)
        fit = [n for n in every if not dims or may_fit(result[n], dims)]
        if len(fit) != 1:
            listed = ", ".join(fit or every) or "none"
            wanted = f" with the dimensions {' × '.join(dims)}" if dims else ""
            raise UsageError(
                f"the run {folder.name} has {len(fit) or 'no'} outputs{wanted}: {listed}",
                f"name one: {folder.id8}:{fit[0] if fit else 'OUTPUT'}",
            )
        output = fit[0]
    return output_of(result, output, dims, named)


def _run_and_output(text: str, project: Path) -> tuple[RunFolder, str]:
    """The run and the output that `RUN:output` or `RUN` names; a folder's name may have a colon."""
    if RunFolder(Path(text)).is_run:
        return RunFolder(Path(text).absolute()), ""
    run, colon, output = text.rpartition(":")
    return find_run(run if colon else text, project), output if colon else ""


def artifacts_of(result: Result) -> list[str]:
    """The outputs and summaries of a run that are numbers over all prompts, controls left out."""
    controls = set(result.controls.values())
    return [
        name
        for name in result.names()
        if name in result.arrays
        and name not in controls
        and kind_of_output(result.outputs.get(name)).averaged
    ]


def may_fit(array: NamedArray, asked: Sequence[str]) -> bool:
    """Whether an output has the dimensions that are asked for, beside those of one entry."""
    wanted = [dim for dim in asked if dim not in EXAMPLE.values()]
    sizes = dict(zip(array.dims, array.shape, strict=True))
    extra = any(size != 1 for dim, size in sizes.items() if dim not in wanted)
    lacking = [dim for dim in wanted if dim not in sizes]
    return bool(wanted) and not extra and lacking in ([], [LAYER]) and lacking != wanted


def output_of(result: Result, output: str, dims: Sequence[str], named: str) -> StoredArtifact:
    """An output of a run as an artifact: its value over all prompts, which for several is their mean.

    Args:
        dims: that are asked for; with `pair` or `prompt` among them, each prompt's own value.

    Raises:
        UsageError: if it is not numbers, or differs in shape from prompt to prompt.
    """
    declared = result.outputs.get(output)
    if not kind_of_output(declared).averaged:
        kind = kind_of_output(declared).plural
        raise UsageError(f"{named}: {output!r} holds {kind}, not numbers", "name another output")
    each = [dim for dim in EXAMPLE.values() if dim in dims]
    if each and declared is not None and declared.of == "example":
        arrays = result.each(output)
        if len({array.shape for array in arrays}) != 1:
            raise UsageError(
                f"{named}: {output!r} has another shape for each {each[0]}",
                "give prompts of one length, or take the mean over them",
            )
        values = np.stack([array.values for array in arrays])
        own, coords = (each[0], *arrays[0].dims), dict(arrays[0].coords)
    else:
        array = result[output]
        values, own, coords = array.values, array.dims, dict(array.coords)
    origin = {"run": result.run_id, "output": output, **_of_provenance(result)}
    return StoredArtifact(named, np.asarray(values), own, coords, origin, result.path)


def _of_provenance(result: Result) -> dict[str, Any]:
    """What a run's provenance says of everything that it made."""
    made = result.provenance
    parameters = made.get("parameters") or {}
    return {
        "recipe": result.name,
        "key": made.get("key", ""),
        "parameters": dict(parameters),
        "site": str(parameters.get("site") or ""),
        "prompts": (made.get("prompts") or {}).get("origin", ""),
        "model": dict(made.get("model") or {}),
        "artifacts": dict(made.get("artifacts") or {}),
    }


def every_artifact(project: Path, runs: Sequence[str]) -> Iterator[StoredArtifact]:
    """The artifacts of some finished runs of a project, newest last; damaged runs are left out."""
    for name in runs:
        folder = find_run(name, project)
        if folder.info.failed:
            continue
        result = folder.result()
        for output in artifacts_of(result):
            yield output_of(result, output, (), f"{folder.id8}:{output}")

"""A run computed again from its folder alone, and held against what it gave.

Neither the project's runs nor the results cache answer: it is computed in a project and a store of
its own, which are removed afterwards.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remote_mi.backends.registry import option_value, parse_backend
from remote_mi.common.errors import (
    Mismatch,
    RemoteMIError,
    StoreError,
    UsageError,
)
from remote_mi.common.progress import Silent, Watch
from remote_mi.jobs.job import Job
from remote_mi.jobs.reproduction.rebuild import (
    KeptRun,
    commit_of,
    copy_source,
    made_before,
    model_here,
    read_kept,
    recorded_job,
    what_changed,
)
from remote_mi.jobs.reproduction.verify import verify
from remote_mi.jobs.runner import execute
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes.code_identity import EARLIER
from remote_mi.store.comparison import TOLERANCE, Comparison, compare
from remote_mi.store.opening import find_run
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder


@dataclass(frozen=True)
class Reproduction:
    """A run, computed again.

    Attributes:
        run: its name. comparison: of it (a) with what was computed now (b).
        tolerance: that it is held against; see `remote_mi.store.comparison`.
        notes: what is not as it was, though the same was asked for.
        kept: folder of the new run, None where it was not asked for.
    """

    run: str
    comparison: Comparison
    tolerance: float
    notes: list[str] = field(default_factory=list)
    kept: Path | None = None

    @property
    def matches(self) -> bool:
        """Whether every output is within the tolerance."""
        return self.comparison.within(self.tolerance)

    @property
    def verdict(self) -> str:
        """In a sentence."""
        worst = self.comparison.worst
        apart = worst.relative if worst else 0.0
        if not self.matches:
            names = dict.fromkeys(d.name for d in self.comparison.beyond(self.tolerance))
            return f"not reproduced: beyond the tolerance of {self.tolerance:g}: {', '.join(names)}"
        if apart == 0:
            return "reproduced: all values are the same"
        return f"reproduced: within {apart:.1e}, the tolerance is {self.tolerance:g}"

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "matches": self.matches,
            "tolerance": self.tolerance,
            "verdict": self.verdict,
            "notes": self.notes,
            "kept": str(self.kept) if self.kept else None,
            "comparison": self.comparison.to_json(),
        }

    def __repr__(self) -> str:
        return "\n".join([f"{self.run}: {self.verdict}", *self.notes, "", repr(self.comparison)])


@dataclass(frozen=True)
class Asked:
    """What a reproduction was asked for.

    Attributes:
        backend: where to compute; None is where it was computed before.
        model: new place of a model that was named by its folder.
        tolerance, timeout: as `reproduce`.
        keep: folder for the new run.
    """

    backend: str | None = None
    model: Path | None = None
    tolerance: float = TOLERANCE
    timeout: float | None = None
    keep: Path | None = None


def reproduce(
    run: str | Path | Result,
    *,
    backend: str | None = None,
    model: str | Path | None = None,
    tolerance: float = TOLERANCE,
    keep: str | Path | None = None,
    timeout: float | None = None,
    project: str | Path | None = None,
    watch: Watch | None = None,
) -> Reproduction:
    """Compute a run again from its folder alone, and compare.

    This executes the recipe that lies in the folder.

    Args:
        run: name, id, prefix of an id, path of a run's folder, or a result that has one.
        backend: where; by default where it was computed before.
        model: new place of a model that was named by its folder; its content must be the same.
        tolerance: how far outputs may be apart; see `remote_mi.store.comparison`.
        keep: folder into which the new run is put.
        timeout: seconds to wait for a remote job.

    Raises:
        Mismatch: if the folder was changed, or the model is not the one of then.
        NotFound: if there is no such run, or the model's folder is gone. Others as `remote_mi.run`.
    """
    if isinstance(run, Result):
        if run.path is None:
            raise UsageError("this result has no run folder", "name a run")
        run = run.path
    asked = Asked(
        backend, Path(model) if model else None, tolerance, timeout, Path(keep) if keep else None
    )
    return reproduce_folder(find_run(run, project).path, asked, watch or Silent())


def reproduce_folder(folder: Path, asked: Asked, watch: Watch) -> Reproduction:
    """As `reproduce`, of a run's folder."""
    kept = read_kept(folder)
    if kept.info.failed:
        raise UsageError(f"{kept.name} failed when it was run: {kept.info.error}")
    notes = _trusted(kept)
    recorded = RunFolder(folder).result()
    with tempfile.TemporaryDirectory(prefix="remote-mi-reproduce-") as temporary:
        home = Path(temporary).resolve()
        with source_of(kept, home) as source:
            job = recorded_job(kept, source, home / "project")
            notes += _code_notes(kept, job)
            where = asked.backend or backend_of(kept)
            job = replace(job, model=_model(kept, asked, where), store=home / "store")
            result = execute(job, where, asked.timeout, watch)
        found = compare(recorded, result)
        place = _kept(result, asked.keep)
    result.path = place
    return Reproduction(kept.name, found, asked.tolerance, notes, place)


def reproduce_all(
    folders: Sequence[Path], asked: Asked, watch: Watch
) -> list[tuple[str, Reproduction | RemoteMIError]]:
    """Several runs, each reproduced or with the error that it gave, in their order.

    Runs of one model follow each other, so that it is loaded once.
    """
    outcomes: dict[Path, Reproduction | RemoteMIError] = {}
    for folder in sorted(folders, key=_model_name):
        watch.stage(f"run {len(outcomes) + 1} of {len(folders)}: {folder.name}")
        try:
            outcomes[folder] = reproduce_folder(folder, asked, watch)
        except RemoteMIError as error:
            outcomes[folder] = error
    return [(folder.name, outcomes[folder]) for folder in folders]


def _model_name(folder: Path) -> str:
    try:
        return str(sorted(read_kept(folder).identity.items(), key=str))
    except RemoteMIError:
        return ""


def run_elsewhere(
    folder: Path, backend: str, project: Path, timeout: float | None, watch: Watch
) -> Result:
    """The job of a run on another backend: computed there, or taken where it is there already.

    Args:
        folder: of the run. project: where the new run is kept. Others and errors as `reproduce`.
    """
    kept = read_kept(folder)
    _trusted(kept)
    with tempfile.TemporaryDirectory(prefix="remote-mi-compare-") as temporary:
        with source_of(kept, Path(temporary).resolve()) as source:
            job = recorded_job(kept, source, project)
            _code_notes(kept, job)
            return execute(replace(job, model=model_here(kept, None)), backend, timeout, watch)


@contextmanager
def source_of(kept: KeptRun, home: Path) -> Iterator[Path]:
    """A run's copied source in a folder of its own; what is imported from it is forgotten after."""
    paths, known = list(sys.path), set(sys.modules)
    source = copy_source(kept, home)
    try:
        yield source
    finally:
        sys.path[:] = paths
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).is_relative_to(source):
                del sys.modules[name]


def backend_of(kept: KeptRun) -> str:
    """The backend a run was computed by, as it is asked for."""
    return option_value(kept.info.made.backend or "local")


def _trusted(kept: KeptRun) -> list[str]:
    """Notes on a run that is to be executed.

    Raises:
        Mismatch: if its files are not as they were recorded.
    """
    found = verify(kept.folder)
    if not found.holds:
        said = "; ".join(f"{f.part}: {f.said}" for f in found.problems)
        raise Mismatch(
            f"{kept.name} was changed since it was made: {said}",
            "remote-mi reproduce RUN --verify-only   says all that was checked",
        )
    return [f"{f.part}: {f.said}" for f in found.findings if f.state == "note" and f.part != "key"]


def _code_notes(kept: KeptRun, job: Job) -> list[str]:
    """What the rebuilt job's key says.

    Raises:
        Mismatch: if the lock does not give the recorded key.
    """
    changed = what_changed(kept, job)
    if changed == "lock":
        raise Mismatch(f"{kept.name}: what its lock says does not give the recorded key")
    notes = [EARLIER] if made_before(kept) else []
    if changed == "code":
        notes += [
            "the recipe's code has another digest than then: remote_mi's own code that it "
            "reaches has changed"
        ]
    return notes


def _model(kept: KeptRun, asked: Asked, backend: str) -> ModelSpec:
    """The model to load, as the backend takes it to be the one of then."""
    spec = model_here(kept, asked.model)
    commit = None if "content" in kept.identity else commit_of(kept)
    environment = kept.info.made.kind
    kind, _ = parse_backend(backend)
    return kind.spec_for_rerun(
        spec, commit, environment if asked.backend is None else None, kept.name
    )


def _kept(result: Result, keep: Path | None) -> Path | None:
    """The new run, moved to where it is to stay."""
    if keep is None:
        return None
    if result.path is None:
        raise StoreError("the new run could not be written, so it cannot be kept")
    target = keep.absolute() / result.path.name
    try:
        shutil.copytree(result.path, target)
    except FileExistsError:
        raise StoreError(f"{target} is there already", "name another folder") from None
    except (OSError, shutil.Error) as error:
        raise StoreError(f"the new run cannot be kept in {keep}: {error}") from error
    return target

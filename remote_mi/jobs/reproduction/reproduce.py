"""Reproducing a run from its folder alone, and comparing the new result with the recorded one.

Existing runs and the results cache are not used: it is computed in a temporary project with a
separate cache.
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
from remote_mi.jobs.reproduction.inputs import Inputs, kept_inputs, remade_inputs
from remote_mi.jobs.reproduction.rebuild import (
    KeptRun,
    commit_of,
    copy_source,
    find_model,
    is_from_earlier_version,
    read_kept,
    recorded_job,
    what_changed,
)
from remote_mi.jobs.reproduction.verify import verify
from remote_mi.jobs.runner import execute
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes.code_identity import EARLIER_SCHEMA_NOTE
from remote_mi.store.comparison import TOLERANCE, Comparison, compare
from remote_mi.store.opening import find_run
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder


@dataclass(frozen=True)
class Reproduction:
    """The outcome of computing a run again.

    Attributes:
        run: its name. comparison: of the recorded result (a) with the new one (b).
        tolerance: see `remote_mi.store.comparison`.
        notes: what differs from the recorded run besides the numbers.
        kept: folder of the new run; None if it was not kept.
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
        """The outcome in one line."""
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
class ReproductionOptions:
    """The options of a reproduction.

    Attributes:
        backend: to compute on; None for the one it was computed on before.
        model: new location of a model that was given as a folder.
        tolerance, timeout: as `reproduce`.
        keep: folder for the new run.
        chain: make the artifacts that it took again, too, by the runs that made them.
    """

    backend: str | None = None
    model: Path | None = None
    tolerance: float = TOLERANCE
    timeout: float | None = None
    keep: Path | None = None
    chain: bool = False


def reproduce(
    run: str | Path | Result,
    *,
    backend: str | None = None,
    model: str | Path | None = None,
    tolerance: float = TOLERANCE,
    keep: str | Path | None = None,
    timeout: float | None = None,
    chain: bool = False,
    project: str | Path | None = None,
    watch: Watch | None = None,
) -> Reproduction:
    """Compute a run again from its folder alone, and compare the results.

    This executes the recipe that is stored in the folder.

    Args:
        run: name, id, prefix of an id, path of a run's folder, or a result that has one.
        backend: to compute on; by default the one it was computed on before.
        model: new location of a model that was given as a folder; its content must be the same.
        tolerance: how far apart outputs may be; see `remote_mi.store.comparison`.
        keep: folder to save the new run in.
        timeout: seconds to wait for a remote job.
        chain: also make the artifacts that it took again, by the runs that made them, and take
            those; without it, the numbers that it took are taken.

    Raises:
        Mismatch: if the folder was changed, or the model is a different one.
        NotFound: if there is no such run, or the model's folder is gone. Others as `remote_mi.run`.
    """
    if isinstance(run, Result):
        if run.path is None:
            raise UsageError("this result has no run folder", "name a run")
        run = run.path
    options = ReproductionOptions(
        backend,
        Path(model) if model else None,
        tolerance,
        timeout,
        Path(keep) if keep else None,
        chain,
    )
    return reproduce_folder(find_run(run, project).path, options, watch or Silent())


def reproduce_folder(folder: Path, options: ReproductionOptions, watch: Watch) -> Reproduction:
    """As `reproduce`, for a run's folder."""
    kept = read_kept(folder)
    if kept.info.failed:
        raise UsageError(f"{kept.name} is a failed run: {kept.info.error}")
    notes = _verified_notes(kept)
    recorded = RunFolder(folder).result()
    with tempfile.TemporaryDirectory(prefix="remote-mi-reproduce-") as temporary:
        home = Path(temporary).resolve()

        def again(run: KeptRun, inputs: Inputs) -> Result:
            own = home / run.name
            with source_of(run, own) as source:
                job = recorded_job(run, source, own / "project")
                notes.extend(_code_notes(run, job))
                where = options.backend or backend_of(run)
                job = replace(job, model=_model(run, options, where), store=home / "store")
                return execute(inputs.put_into(job), where, options.timeout, watch)

        inputs = remade_inputs(kept, folder, again) if options.chain else kept_inputs(kept)
        notes += inputs.notes
        result = again(kept, inputs)
        comparison = compare(recorded, result)
        result.path = _keep_in(result, options.keep)
    return Reproduction(kept.name, comparison, options.tolerance, notes, result.path)


def reproduce_all(
    folders: Sequence[Path], options: ReproductionOptions, watch: Watch
) -> list[tuple[str, Reproduction | RemoteMIError]]:
    """Reproduce several runs; returns each one's name and outcome or error, in the given order.

    They are computed grouped by model, so that each model is loaded once.
    """
    outcomes: dict[Path, Reproduction | RemoteMIError] = {}
    for folder in sorted(folders, key=_model_name):
        watch.stage(f"run {len(outcomes) + 1} of {len(folders)}: {folder.name}")
        try:
            outcomes[folder] = reproduce_folder(folder, options, watch)
        except RemoteMIError as error:
            outcomes[folder] = error
    return [(folder.name, outcomes[folder]) for folder in folders]


def _model_name(folder: Path) -> str:
    try:
        return str(sorted(read_kept(folder).identity.items(), key=str))
    except RemoteMIError:
        return ""


def run_on_backend(
    folder: Path, backend: str, project: Path, timeout: float | None, watch: Watch
) -> Result:
    """The result of a run's job on another backend: an existing one, or computed there.

    Args:
        folder: of the run. project: for the new run. Others and errors as `reproduce`.
    """
    kept = read_kept(folder)
    _verified_notes(kept)
    with tempfile.TemporaryDirectory(prefix="remote-mi-compare-") as temporary:
        with source_of(kept, Path(temporary).resolve()) as source:
            job = kept_inputs(kept).put_into(recorded_job(kept, source, project))
            _code_notes(kept, job)
            return execute(replace(job, model=find_model(kept, None)), backend, timeout, watch)


@contextmanager
def source_of(kept: KeptRun, home: Path) -> Iterator[Path]:
    """A copy of a run's stored source; modules imported from it are unloaded afterwards."""
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
    """The backend a run was computed on, as for `--backend`."""
    return option_value(kept.info.made.backend or "local")


def _verified_notes(kept: KeptRun) -> list[str]:
    """Verify a run before it is executed; returns the notes of the verification.

    Raises:
        Mismatch: if its files have changed.
    """
    verification = verify(kept.folder)
    if not verification.holds:
        problems = "; ".join(f"{f.part}: {f.said}" for f in verification.problems)
        raise Mismatch(
            f"{kept.name} has changed since it was made: {problems}",
            "remote-mi reproduce RUN --verify-only   shows everything that was checked",
        )
    return [
        f"{f.part}: {f.said}"
        for f in verification.findings
        if f.state == "note" and f.part != "key"
    ]


def _code_notes(kept: KeptRun, job: Job) -> list[str]:
    """Notes on differences between the rebuilt job's key and the recorded one.

    Raises:
        Mismatch: if the lock does not yield the recorded key.
    """
    changed = what_changed(kept, job)
    if changed == "lock":
        raise Mismatch(f"{kept.name}: its lock does not yield the recorded key")
    notes = [EARLIER_SCHEMA_NOTE] if is_from_earlier_version(kept) else []
    if changed == "code":
        notes += [
            "the recipe's code has a different digest than recorded: remote_mi's own code that "
            "it reaches has changed"
        ]
    return notes


def _model(kept: KeptRun, options: ReproductionOptions, backend: str) -> ModelSpec:
    """The model to load, so that the backend uses the recorded one."""
    spec = find_model(kept, options.model)
    commit = None if "content" in kept.identity else commit_of(kept)
    environment = kept.info.made.kind
    kind, _ = parse_backend(backend)
    return kind.spec_for_rerun(
        spec, commit, environment if options.backend is None else None, kept.name
    )


def _keep_in(result: Result, keep: Path | None) -> Path | None:
    """Copy the new run into `keep`; returns its path, None if it is not to be kept."""
    if keep is None:
        return None
    if result.path is None:
        raise StoreError("the new run could not be written, so it cannot be kept")
    target = keep.absolute() / result.path.name
    try:
        shutil.copytree(result.path, target)
    except FileExistsError:
        raise StoreError(f"{target} already exists", "choose another folder") from None
    except (OSError, shutil.Error) as error:
        raise StoreError(f"the new run cannot be kept in {keep}: {error}") from error
    return target

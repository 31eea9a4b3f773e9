"""Opening what was run before, from Python."""

from __future__ import annotations

from pathlib import Path

from remote_mi.common.errors import Mismatch, NotFound, RunFailed
from remote_mi.common.named_files import named_files
from remote_mi.common.paths import project_folder
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder
from remote_mi.store.runs import Runs
from remote_mi.store.studies import StudyRecord, StudyRecords, read_folder


def load_run(run: str | Path | None = None, project: str | Path | None = None) -> Result:
    """The result of a run of a project.

    Args:
        run: full name, id or prefix of an id, or the path of a run's folder, wherever it lies;
            the newest by default.
        project: folder that holds runs/; the working folder by default.

    Raises:
        NotFound, UsageError, Mismatch: if there is none, several fit, or it is damaged.
        RunFailed: if it failed, so that there is no result.
    """
    folder = find_run(run, project)
    if folder.info.failed:
        raise RunFailed(
            f"the run {folder.name} failed: {folder.info.error}",
            "`remote-mi view` shows where; mend it and run it again",
        )
    return folder.result()


def find_run(run: str | Path | None, project: str | Path | None = None) -> RunFolder:
    """The folder of a run; arguments and errors as `load_run`."""
    if run is not None and RunFolder(Path(run)).is_run:
        return RunFolder(Path(run).absolute())
    runs = Runs(Path(project).absolute() if project else project_folder())
    return runs.run(runs.find(None if run is None else str(run)))


def find_run_or_study(wanted: str | None, project: Path) -> RunFolder | StudyRecord:
    """What a user named: a run as in `find_run`, or else a study as in `study_named`.

    A folder of a run comes first, then the name of a study, then the id of a run.

    Raises:
        NotFound, UsageError, Mismatch: as these.
    """
    if wanted is not None and not RunFolder(Path(wanted)).is_run:
        study = study_named(wanted, project)
        if study is not None:
            return study
    return find_run(wanted, project)


def runs_beside(folder: Path) -> Runs:
    """The runs in the folder that a run's folder lies in, be it a project's runs/ or not."""
    runs = Runs(folder.parent.parent)
    runs.folder = folder.parent
    return runs


def study_named(wanted: str, project: Path) -> StudyRecord | None:
    """The study of a name, of its folder wherever it lies, or of its file; None if there is none.

    Raises:
        NotFound: if it is there, and was never run. Mismatch: if its folder is damaged.
    """
    # Slow to import, and opening a run does without.
    from remote_mi.common.yaml_file import read_generated

    given, records = Path(wanted), StudyRecords(project)
    if (given / "study.json").is_file():
        return read_folder(given.absolute())
    if given.suffix in (".yaml", ".yml"):
        try:
            wanted = str(read_generated(given)["study"])
        except (OSError, ValueError, KeyError, TypeError):
            wanted = given.stem
    name = wanted.removeprefix("study-")
    known = name in records.names() or name in named_files("studies", project)
    return records.read(name) if known else None


def runs_of_study(study: StudyRecord) -> dict[RunFolder, str]:
    """The folder of every finished run of a study, beside its own → the job's key it stands for.

    Raises:
        NotFound: if nothing of it is finished. Mismatch: if a run is not there.
    """
    found: dict[RunFolder, str] = {}
    for point in study.points:
        if point.state != "done" or not point.run:
            continue
        folder = RunFolder(study.path.parent / Path(point.run).name)
        if not folder.is_run:
            raise Mismatch(
                f"the study {study.name} names the run {point.run}, which is not beside its folder",
                "copy the runs along with it",
            )
        found[folder] = point.key
    if not found:
        raise NotFound(
            f"nothing of the study {study.name} is finished", f"remote-mi study run {study.name}"
        )
    return found

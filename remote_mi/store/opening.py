"""Finding and opening earlier runs and studies."""

from __future__ import annotations

import os
from pathlib import Path

from remote_mi.common.errors import Mismatch, NotFound, RunFailed
from remote_mi.common.named_files import named_files
from remote_mi.common.paths import project_folder
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder
from remote_mi.store.runs import Runs
from remote_mi.store.studies import StudyRecord, StudyRecords, read_study_folder


def load_run(run: str | Path | None = None, project: str | Path | None = None) -> Result:
    """Load the result of a run.

    Args:
        run: full name, id or prefix of an id, or the path of any run's folder; the newest run
            by default.
        project: folder that contains runs/; the working folder by default.

    Raises:
        NotFound, UsageError, Mismatch: if there is none, several match, or it is damaged.
        RunFailed: if it failed, so that there is no result.
    """
    folder = find_run(run, project)
    if folder.info.failed:
        raise RunFailed(
            f"the run {folder.name} failed: {folder.info.error}",
            "`remote-mi view` shows where; fix it and run it again",
        )
    return folder.result()


def find_run(run: str | Path | None, project: str | Path | None = None) -> RunFolder:
    """The folder of a run; arguments and errors as `load_run`."""
    if run is not None and RunFolder(Path(run)).is_run:
        return RunFolder(Path(run).absolute())
    runs = Runs(Path(project).absolute() if project else project_folder())
    return runs.run(runs.find(None if run is None else str(run)))


def find_run_or_study(wanted: str | None, project: Path) -> RunFolder | StudyRecord:
    """The run (as `find_run`) or study (as `find_study`) that a user named.

    A run's folder takes precedence, then a study, then a run's name or id.

    Raises:
        NotFound, UsageError, Mismatch: as those two functions.
    """
    if wanted is not None and not RunFolder(Path(wanted)).is_run:
        study = find_study(wanted, project)
        if study is not None:
            return study
    return find_run(wanted, project)


def sibling_runs(folder: Path) -> Runs:
    """The runs in the parent of a run's folder, whether or not that is a project's runs/."""
    runs = Runs(folder.parent.parent)
    runs.folder = folder.parent
    return runs


def find_study(wanted: str, project: Path) -> StudyRecord | None:
    """A study by its name, by the path of its folder or by its file; None if there is none.

    Raises:
        NotFound: if it exists but was never run. Mismatch: if its folder is damaged.
    """
    # Slow to import, and not needed to open a run.
    from remote_mi.common.yaml_file import read_generated

    given, records = Path(wanted), StudyRecords(project)
    if os.path.isfile(given / "study.json"):
        return read_study_folder(given.absolute())
    if given.suffix in (".yaml", ".yml"):
        try:
            wanted = str(read_generated(given)["study"])
        except (OSError, ValueError, KeyError, TypeError):
            wanted = given.stem
    name = wanted.removeprefix("study-")
    known = name in records.names() or name in named_files("studies", project)
    return records.read(name) if known else None


def runs_of_study(study: StudyRecord) -> dict[RunFolder, str]:
    """The folder of every finished run of a study → the key of its job.

    Raises:
        NotFound: if no point is finished. Mismatch: if a run is missing next to the study's folder.
    """
    found: dict[RunFolder, str] = {}
    for point in study.points:
        if point.state != "done" or not point.run:
            continue
        folder = RunFolder(study.path.parent / Path(point.run).name)
        if not folder.is_run:
            raise Mismatch(
                f"the study {study.name} refers to the run {point.run}, which is not next to its "
                "folder",
                "copy the runs along with it",
            )
        found[folder] = point.key
    if not found:
        raise NotFound(
            f"no point of the study {study.name} is finished", f"remote-mi study run {study.name}"
        )
    return found

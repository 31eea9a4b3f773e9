"""A study that has run, for Python: its results, claims and comparisons."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from remote_mi.common.display import Displayed
from remote_mi.common.errors import not_found
from remote_mi.common.paths import project_folder
from remote_mi.store.opening import find_study
from remote_mi.store.result import Result
from remote_mi.store.studies import PointRecord, StudyRecord, StudyRecords
from remote_mi.store.study_comparisons import ComparedPoints, compared_points
from remote_mi.store.study_results import ClaimFinding, StudyResults, claim_findings


@dataclass(frozen=True, repr=False)
class LoadedStudy(Displayed):
    """A study as far as it has run. In a notebook it displays its claims and comparisons.

    Attributes:
        record: its points, with the state of each.
    """

    record: StudyRecord

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def points(self) -> Sequence[PointRecord]:
        """All points, in the study's order."""
        return self.record.points

    @functools.cached_property
    def claims(self) -> list[ClaimFinding]:
        """Its claims, each with its verdict: "holds", "fails" or "undecided"."""
        return claim_findings(self.record)

    @functools.cached_property
    def comparisons(self) -> list[ComparedPoints]:
        """Its comparisons, with their numbers."""
        return compared_points(self.record)

    @functools.cached_property
    def results(self) -> StudyResults:
        """`results[index]` is the result of a point; None if there is none yet."""
        return StudyResults(self.record)

    def result(self, point: int) -> Result | None:
        """The result of a point by its index; None if there is none yet."""
        return self.results[point]


def load_study(study: str | Path, project: str | Path | None = None) -> LoadedStudy:
    """Load a study that has run, or is running.

    Args:
        study: its name, its file, or the path of its folder, which need not be in a project.
        project: folder that contains runs/; the working folder by default.

    Raises:
        NotFound: if there is none, or it was never run. Mismatch: if its folder is damaged.
    """
    folder = Path(project).absolute() if project else project_folder()
    record = find_study(str(study), folder)
    if record is None:
        raise not_found("study", str(study), StudyRecords(folder).names(), "remote-mi study ls")
    return LoadedStudy(record)

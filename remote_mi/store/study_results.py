"""The results of a study's points, and what its claims come to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remote_mi.common.errors import RemoteMIError
from remote_mi.store.claims.claim import Claim
from remote_mi.store.claims.estimates import Estimate
from remote_mi.store.claims.evaluation import (
    FAILS,
    UNDECIDED,
    Judgement,
    estimates_of,
    judge_estimates,
)
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder
from remote_mi.store.studies import PointRecord, StudyRecord

#: How many results are kept in memory at one time.
_MOST_OPEN = 64


class StudyResults:
    """The results of a study's points, read when they are asked for."""

    def __init__(self, record: StudyRecord) -> None:
        self.record = record
        self._open: OrderedDict[str, Result] = OrderedDict()

    def __getitem__(self, point: int) -> Result | None:
        """The result of a point; None if there is none yet.

        Raises:
            Mismatch: if its run is damaged or not next to the study's folder.
        """
        entry = self.record.points[point]
        if entry.state != "done" or not entry.run:
            return None
        if entry.run not in self._open:
            folder = self.record.path.parent / Path(entry.run).name
            self._open[entry.run] = RunFolder(folder).result()
        self._open.move_to_end(entry.run)
        while len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)
        return self._open[entry.run]


@dataclass(frozen=True)
class ClaimFinding:
    """What the results of a study say of one of its claims.

    Attributes:
        judgement: of the claim as a whole: it holds only if it holds in each of its points.
        points: (index of the point, what tells it from the others, its own judgement).
    """

    claim: Claim
    judgement: Judgement
    points: list[tuple[int, str, Judgement]]

    @property
    def verdict(self) -> str:
        return self.judgement.verdict

    @property
    def failing(self) -> list[str]:
        """The names of the points in which it fails, if it speaks of several."""
        return self._named(FAILS)

    @property
    def undecided(self) -> list[str]:
        """The names of the points in which it is undecided, if it speaks of several."""
        return self._named(UNDECIDED)

    def _named(self, verdict: str) -> list[str]:
        several = len(self.points) > 1
        return [name for _, name, found in self.points if several and found.verdict == verdict]

    def to_json(self) -> dict[str, Any]:
        """As JSON; numbers that do not exist are null."""
        claim = self.claim
        return {
            "id": claim.id,
            "says": claim.says,
            "holds": dict(claim.holds),
            "status": claim.status,
            "why_exploratory": claim.why,
            "frozen": claim.frozen,
            "digest": claim.digest,
            **self.judgement.to_json(),
            "points": [
                {"point": index, "name": name, **found.to_json()}
                for index, name, found in self.points
            ],
        }


def claim_findings(record: StudyRecord) -> list[ClaimFinding]:
    """What the results of a study say of its claims.

    Points without a result leave a claim undecided, unless it fails in another.
    """
    results = StudyResults(record)
    return [_finding(claim, record, results) for claim in record.claims]


def _finding(claim: Claim, record: StudyRecord, results: StudyResults) -> ClaimFinding:
    expected = claim.expectation
    found: list[list[Estimate] | str] = []
    for point in claim.points:
        try:
            result = results[point]
            found.append("no result yet" if result is None else estimates_of(result, expected))
        except RemoteMIError as error:
            found.append(". ".join(filter(None, (error.message, error.hint))))
    cells = sum(len(some) for some in found if isinstance(some, list))
    judgements = [
        Judgement(UNDECIDED, reason=some)
        if isinstance(some, str)
        else judge_estimates(some, expected, cells, len(found))
        for some in found
    ]
    names = point_names([record.points[point] for point in claim.points])
    points = list(zip(claim.points, names, judgements, strict=True))
    return ClaimFinding(claim, _together(judgements), points)


def _together(judgements: Sequence[Judgement]) -> Judgement:
    """The judgement of a claim about several points: all of them must hold."""
    several = len(judgements) > 1
    failing = [j for j in judgements if j.verdict == FAILS]
    if failing:
        some = f"in {len(failing)} of {len(judgements)} points" if several else ""
        return replace(failing[0], reason=failing[0].reason or some)
    open_ones = [j for j in judgements if j.verdict == UNDECIDED]
    if not open_ones:
        weakest = min(judgements, key=lambda j: _width_inside(j))
        return replace(weakest, reason=f"in all {len(judgements)} points" if several else "")
    needed = [j.needed for j in open_ones]
    known = [count for count in needed if count is not None]
    first = next((j for j in open_ones if j.estimate is not None), open_ones[0])
    reasons = list(dict.fromkeys(j.reason for j in open_ones if j.reason))
    some = f"in {len(open_ones)} of {len(judgements)} points" if several else ""
    return replace(
        first,
        reason=": ".join(filter(None, [some, "; ".join(reasons)])),
        needed=max(known) if len(known) == len(needed) else None,
    )


def _width_inside(judgement: Judgement) -> float:
    """The value on which a claim that holds depends most: the one with the widest interval."""
    found = judgement.estimate
    return found.low - found.high if found is not None else 0.0


def point_names(points: Sequence[PointRecord]) -> list[str]:
    """What tells points from each other: those of their settings in which some differ."""
    described = [
        {
            "recipe": point.recipe.rpartition("/")[2],
            "prompts": point.prompts,
            "model": point.model.rpartition("/")[2],
            "seed": point.seed,
            **{f"{name}=": value for name, value in point.parameters.items()},
        }
        for point in points
    ]
    names = list(dict.fromkeys(name for one in described for name in one))
    varying = [n for n in names if len({repr(one.get(n)) for one in described}) > 1]
    return [
        ", ".join(
            f"{name if name.endswith('=') else 'seed ' if name == 'seed' else ''}{one[name]}"
            for name in varying
            if name in one
        )
        or f"point {point.index + 1}"
        for point, one in zip(points, described, strict=True)
    ]

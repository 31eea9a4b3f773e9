"""The claims of a study as a table with their verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from remote_mi.common.text import line
from remote_mi.report.study.shown import ShownTable, estimate_text, place_of_estimate
from remote_mi.store.claims.claim import FrozenClaim
from remote_mi.store.claims.evaluation import FAILS, UNDECIDED, Judgement
from remote_mi.store.studies import StudyRecord
from remote_mi.store.study_results import ClaimFinding, claim_findings

#: What the verdicts mean, for every medium.
MEANING = (
    "A claim holds if the 95% interval lies within its bound, fails if it lies outside, and is "
    "undecided if neither. A claim about several cells or points needs all of them to hold; that one "
    "of N is (for `any`), or is not (for `fails`), is said only at the level 1 − 0.05/N (Bonferroni)."
)
#: Most points that are named as failing.
_MOST_NAMED = 4


@dataclass(frozen=True)
class ShownClaims:
    """The claims of a study.

    Attributes:
        findings: each with its verdict. withdrawn: registered claims that it no longer makes.
    """

    findings: list[ClaimFinding] = field(default_factory=list)
    withdrawn: list[FrozenClaim] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.findings or self.withdrawn)

    @property
    def table(self) -> ShownTable:
        """One row per claim: what it says, its verdict, the number on which that depends."""
        heads = ["id", "claim", "verdict", "value, 95% CI", "status"]
        rows = [
            [
                line(found.claim.id),
                line(found.claim.says),
                verdict_text(found),
                value_text(found.judgement),
                status_text(found),
            ]
            for found in self.findings
        ]
        data_heads = [
            *("id", "claim", "verdict", "value", "low", "high", "n", "status", "frozen", "digest"),
        ]
        data = [_data_row(found) for found in self.findings]
        return ShownTable(heads, rows, [False] * len(heads), data_heads, data)

    @property
    def notes(self) -> list[str]:
        """What was expected of the numbers, why a claim is undecided or exploratory, and what a
        study no longer claims."""
        return [note for found in self.findings for note in _notes(found)] + [
            f"No longer claimed: {line(one.id)}, registered {_day(one.time)}: “{line(one.says)}”."
            for one in self.withdrawn
        ]


def shown_claims(record: StudyRecord) -> ShownClaims:
    """The claims of a study, evaluated."""
    return ShownClaims(claim_findings(record), record.withdrawn)


def verdict_text(found: ClaimFinding) -> str:
    """The verdict; with where it fails, or how many prompts would decide it."""
    if found.verdict == FAILS and found.failing:
        return f"fails in {_some(found.failing)}"
    if found.verdict == UNDECIDED and found.judgement.needed:
        return f"undecided; about {found.judgement.needed} prompts would decide it"
    return found.verdict


def value_text(judgement: Judgement) -> str:
    """The value on which a verdict depends, with its interval, number of prompts and place."""
    found = judgement.estimate
    if found is None:
        return "–"
    text = estimate_text(found)
    if found.n:
        text += f", n={found.n}"
    place = place_of_estimate(found)
    return f"{text} at {place}" if place and judgement.cells > 1 else text


def status_text(found: ClaimFinding) -> str:
    """ "registered" or "exploratory", with the day on which it was frozen."""
    return f"{found.claim.status} {_day(found.claim.frozen)}".strip()


def _notes(found: ClaimFinding) -> Iterator[str]:
    claim, judgement = found.claim, found.judgement
    over = f" over {judgement.cells} cells" if judgement.cells > 1 else ""
    many = f" in each of {len(found.points)} points" if len(found.points) > 1 else ""
    named = [
        " or ".join(map(str, claim.holds[name]))
        for name in ("recipe", "model", "phenomenon", "seed")
        if name in claim.holds
    ]
    named += [f"{name}={value}" for name, value in claim.holds.get("parameters", {}).items()]
    what = ": ".join(filter(None, (", ".join(named), claim.expectation.text)))
    yield f"{line(claim.id)}: {line(what)}{over}{many}; digest {claim.digest[:12]}."
    if judgement.verdict == UNDECIDED and judgement.reason:
        yield f"{line(claim.id)} is undecided: {line(judgement.reason)}."
    if claim.frozen and not claim.registered:
        yield f"{line(claim.id)} is exploratory: {line(claim.why)}."


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return "; ".join(line(name) for name in names[:_MOST_NAMED]) + more


def _day(time: str) -> str:
    return time.partition("T")[0]


def _data_row(found: ClaimFinding) -> list[object]:
    claim, value = found.claim, found.judgement.estimate
    numbers = [None] * 4 if value is None else [value.value, value.low, value.high, value.n]
    said = [claim.id, claim.says, found.verdict]
    return [*said, *numbers, claim.status, claim.frozen, claim.digest]

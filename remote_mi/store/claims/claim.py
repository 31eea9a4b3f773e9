"""Claims of a study: what each says, which points it speaks of, and when it was frozen.

A claim is frozen the first time that `study run` meets it: its content, the points that it speaks of
and the time are appended to `claims.jsonl` in the study's folder, and never changed. A claim that
was frozen before there was any result is *registered*; every other one is *exploratory*.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remote_mi.common.digests import digest
from remote_mi.common.valid_json import parse_json, to_json
from remote_mi.store.claims.expectation import Expectation, parse_expectation
from remote_mi.store.typed_json import WrongJson, dataclass_from_json

FILE = "claims.jsonl"


@dataclass(frozen=True)
class Claim:
    """A claim of a study.

    Attributes:
        id: its name. says: it in words. holds: what must be so, in canonical form.
        points: indices of the points that it speaks of.
        subjects: digest of what each of them is: recipe, model, prompts, parameters.
        frozen: when it was frozen, in UTC. registered: whether that was before any result.
        why: why it is not registered; "".
    """

    id: str
    says: str
    holds: Mapping[str, Any]
    points: list[int] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    frozen: str = ""
    registered: bool = False
    why: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of what it says, in words and in numbers."""
        return digest({"id": self.id, "says": self.says, "holds": dict(self.holds)})

    @property
    def status(self) -> str:
        """ "registered" or "exploratory"."""
        return "registered" if self.registered else "exploratory"

    @property
    def expectation(self) -> Expectation:
        """What must be so in each of its points."""
        return parse_expectation(self.holds)


@dataclass(frozen=True)
class FrozenClaim:
    """A line of `claims.jsonl`: a claim as it was when it was first met."""

    id: str
    says: str
    holds: Mapping[str, Any]
    subjects: list[str]
    digest: str
    time: str
    registered: bool
    why: str = ""


def read_frozen(folder: Path) -> list[FrozenClaim]:
    """The claims that were frozen in a study's folder, in order; a damaged line is left out."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        try:
            found.append(dataclass_from_json(FrozenClaim, parse_json(line), ""))
        except (ValueError, WrongJson):
            continue
    return found


def freeze(
    folder: Path, claims: Sequence[Claim], results: Mapping[int, bool], begun: bool
) -> list[Claim]:
    """The claims of a study with their status; those that are new are frozen now.

    Args:
        folder: the study's. results: index of a point → whether there is a result of it already.
        begun: whether a point of the study was ever done.

    Raises:
        OSError: if the file cannot be written.
    """
    known = {entry.digest: entry for entry in reversed(read_frozen(folder))}  # the first counts
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    made, new = [], []
    for claim in claims:
        there = sum(results[point] for point in claim.points)
        entry = known.get(claim.digest)
        if entry is None:
            why = ""
            if begun:
                why = "it was added or changed after the study had results"
            elif there:
                why = f"{there} of the {len(claim.points)} results it speaks of existed before it"
            entry = FrozenClaim(
                *(claim.id, claim.says, claim.holds, claim.subjects, claim.digest, now),
                registered=not why,
                why=why,
            )
            new.append(entry)
        elif entry.registered and sorted(entry.subjects) != sorted(claim.subjects):
            added = len(set(claim.subjects) - set(entry.subjects))
            removed = len(set(entry.subjects) - set(claim.subjects))
            why = f"the points it speaks of were changed since: {added} added, {removed} left out"
            entry = replace(entry, registered=False, why=why)
        made.append(replace(claim, frozen=entry.time, registered=entry.registered, why=entry.why))
    if new:
        _append(folder / FILE, "".join(to_json(vars(entry)) + "\n" for entry in new))
    return made


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def withdrawn(folder: Path, claims: Sequence[Claim]) -> list[FrozenClaim]:
    """The registered claims that the study no longer makes, or makes in other words."""
    present = {claim.digest for claim in claims}
    return [e for e in read_frozen(folder) if e.registered and e.digest not in present]

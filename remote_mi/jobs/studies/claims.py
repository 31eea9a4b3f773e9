"""Reading the claims of a study file, and checking them against the recipes that they speak of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remote_mi.common.errors import RemoteMIError
from remote_mi.common.yaml_file import KeyPath
from remote_mi.jobs.studies.coordinates import CoordinateCheck
from remote_mi.jobs.studies.entry_reader import Reader, selection
from remote_mi.jobs.studies.grid import StudyGrid
from remote_mi.jobs.studies.selection import Origin
from remote_mi.store.claims.bounds import is_comparison, parse_bound
from remote_mi.store.claims.claim import Claim
from remote_mi.store.claims.expectation import (
    Expectation,
    WrongExpectation,
    check_expectation,
    parse_expectation,
)

_SELECTORS = ("recipe", "model", "phenomenon", "seed")


class ClaimReader:
    """Reads claims in two steps: each by itself, then with the points that it speaks of.

    Args:
        reader: collects the problems.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.entries: list[tuple[KeyPath, Mapping[str, Any], Expectation]] = []
        first: dict[str, int] = {}
        for where, entry in reader.entries(("claims",)):
            line = reader.found.keys.get(where, (0, 0))[0]
            if entry["id"] in first:
                message = f"two claims have the id {entry['id']!r}"
                hint = f"the first is on line {first[entry['id']]}"
                reader.add_problem((*where, "id"), message, hint)
                continue
            first[entry["id"]] = line
            try:
                expected = parse_expectation(entry["holds"])
            except WrongExpectation as error:
                reader.add_error((*where, "holds", *error.inside), error)
                continue
            self.entries.append((where, entry, expected))

    def claims(self, grid: StudyGrid) -> tuple[Claim, ...]:
        """The claims, each with its points; mistakes are added to the reader's problems."""
        check = CoordinateCheck(self.reader)
        made = []
        for where, entry, expected in self.entries:
            inside = (*where, "holds")
            points = grid.selected(selection(inside, entry["holds"]))
            origins = [grid.origins[index] for index in points]
            if not self._names_a_recipe(inside, entry["holds"], origins):
                continue
            for origin in origins:
                try:
                    check_expectation(origin.recipe.card, expected)
                    check(origin, expected.output, expected.at)
                except WrongExpectation as error:
                    self.reader.add_error((*inside, *error.inside), error)
                except RemoteMIError as error:
                    self.reader.add_error(inside, error)
            holds = _canonical(entry["holds"], expected)
            made.append(Claim(entry["id"], entry["says"].strip(), holds, points))
        return tuple(made)

    def _names_a_recipe(
        self, where: KeyPath, holds: Mapping[str, Any], origins: list[Origin]
    ) -> bool:
        """Whether it is clear which recipe a claim is about; if not, that is a problem."""
        names = list(dict.fromkeys(origin.recipe.card.name for origin in origins))
        if holds.get("recipe") or len(names) < 2:
            return True
        message = f"the study has {len(names)} recipes, and the claim does not say which"
        self.reader.add_problem(where, message, f"recipe: {names[0]}")
        return False


def _canonical(holds: Mapping[str, Any], expected: Expectation) -> dict[str, Any]:
    """What a claim says in numbers, in one form however it is written."""
    named = {
        name: value if isinstance(value, list) else [value]
        for name in _SELECTORS
        if (value := holds.get(name)) not in (None, [])
    }
    parameters = {"parameters": dict(holds["parameters"])} if holds.get("parameters") else {}
    at = {
        dim: parse_bound(wanted).text if is_comparison(wanted) else wanted
        for dim, wanted in expected.at.items()
    }
    return {
        **named,
        **parameters,
        "output": expected.output,
        **({"at": at} if at else {}),
        expected.quantifier: expected.bound.text,
    }

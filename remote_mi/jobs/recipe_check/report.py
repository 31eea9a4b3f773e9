"""What a check of a recipe found: each property, on each model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["fails", "note", "holds", "not applicable"]
#: Property → what it says, in the order in which they are checked.
PROPERTIES = {
    "inputs": "prompts, parameters and weights are unchanged afterwards",
    "repetition": "the same inputs give the same bits twice",
    "company": "an example alone gives what it gives among others",
    "order": "examples in another order give the same",
    "identity": "a pair of identical prompts has no effect",
    "families": "it runs on each family of models, or is refused with a reason",
    "place": "a server gives the numbers of this machine",
}
#: Property → what usually causes its failure, and what to do about it.
CAUSES = {
    "inputs": "it changes in place what it was given: work on a copy",
    "repetition": "randomness without a seed, or a variable outside of the function that it "
    "changes: draw from a torch.Generator whose seed is a parameter, and keep state inside",
    "company": "a variable outside of the function in which one example leaves something for the "
    'next: keep state inside, or compute what all share in a setup (setup="…")',
    "order": "an example counts by its place in the list, such as a reference that is the first "
    "one: use all of them alike",
    "identity": "what is put in is not what was taken out: another position, site or layer, or an "
    "effect that is measured against another run",
    "families": "something that not every model has: a module's own name, a number of heads, a "
    "shape; use portable names and the kit's sites, or raise a ValueError with the reason",
    "place": "a tensor of another dtype or device, or a function that differs between versions of "
    "a library",
}
_RANK: tuple[State, ...] = ("fails", "note", "holds", "not applicable")


@dataclass(frozen=True)
class PropertyFinding:
    """One property on one model.

    Attributes:
        property: one of `PROPERTIES`. state: the verdict. model: its family, or its name.
        message: what was found, or why the property does not apply.
        output: with the largest difference; "" if there is none. difference: its size.
    """

    property: str
    state: State
    model: str
    message: str = ""
    output: str = ""
    difference: float | None = None

    def to_json(self) -> dict[str, Any]:
        finite = self.difference is not None and math.isfinite(self.difference)
        return {**asdict(self), "difference": self.difference if finite else None}


@dataclass(frozen=True, repr=False)
class RecipeCheck:
    """What a check of a recipe found.

    Attributes:
        recipe: its name. findings: one for each property on each model. seconds: it took.
    """

    recipe: str
    findings: tuple[PropertyFinding, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no property fails."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """The properties that fail on some model."""
        return [name for name in PROPERTIES if self.state(name) == "fails"]

    def of(self, name: str) -> list[PropertyFinding]:
        """The findings on one property."""
        return [finding for finding in self.findings if finding.property == name]

    def state(self, name: str) -> State:
        """The verdict on one property over all models: the worst of them."""
        found = {finding.state for finding in self.of(name)}
        for state in _RANK:
            if state in found:
                return state
        return "not applicable"

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "passed": self.passed,
            "seconds": self.seconds,
            "properties": {
                name: {
                    "meaning": meaning,
                    "state": self.state(name),
                    "cause": CAUSES[name] if self.state(name) == "fails" else None,
                    "findings": [finding.to_json() for finding in self.of(name)],
                }
                for name, meaning in PROPERTIES.items()
            },
        }

    def __repr__(self) -> str:
        verdict = f"fails: {', '.join(self.failed)}" if self.failed else "all properties hold"
        lines = [f"{self.recipe}: {verdict} ({self.seconds:.1f} s)"]
        for name, meaning in PROPERTIES.items():
            state = self.state(name)
            lines.append(f"  {name:10}  {state:14}  {meaning}")
            lines += [f"  {'':10}  {text}" for text in self._details(name)]
            if state == "fails":
                lines.append(f"  {'':10}  usually: {CAUSES[name]}")
        return "\n".join(lines)

    def _details(self, name: str) -> list[str]:
        """A line for each thing that was found, with the models on which it was."""
        by_message: dict[str, list[str]] = {}
        for finding in self.of(name):
            if finding.message:
                by_message.setdefault(finding.message, []).append(finding.model)
        return [
            f"{_joined(models)}: {message}" if any(models) else message
            for message, models in by_message.items()
        ]


def _joined(models: Iterable[str]) -> str:
    names = list(dict.fromkeys(models))
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return ", ".join(names if not more else names[:3]) + more

"""Words that follow the kind of evidence that a recipe declares."""

from __future__ import annotations

#: Kind of evidence → the verb of a sentence about a value that is told from its control.
_VERBS = {
    "observational": "can be read from",
    "interventional": "changes with interventions at",
    "counterfactual": "is carried by",
}
NEUTRAL = "stands out at"
_LIMITS = {
    "observational": (
        "The run is only read, never changed: the numbers say what can be read from a place, not "
        "what the model uses."
    ),
    "interventional": (
        "The run is changed: the numbers say what changes with such interventions, not how the "
        "model comes to do it without them."
    ),
    "counterfactual": (
        "A part of the run is exchanged for that of another input: the numbers say what that part "
        "carries between these inputs, not between others."
    ),
}


def verb(evidence: str) -> str:
    """How a value that is told from its control belongs to a place, e.g. "can be read from".

    Args:
        evidence: as the recipe declares it; "" if it does not.
    """
    return _VERBS.get(evidence, NEUTRAL)


def limit_of_evidence(evidence: str) -> str:
    """What a kind of evidence says and what it does not, in a sentence; "" if none is declared."""
    text = _LIMITS.get(evidence)
    return f"Evidence: {evidence}. {text}" if text else ""

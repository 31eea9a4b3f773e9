"""What each kind of place can do for a recipe: one table, used in plans and by checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from remote_mi.common.versions import is_at_least

PlaceKind = Literal["local", "trusted", "sandboxed"]

#: Need of a recipe → place → "yes", "no", or the first nnsight version that can.
TABLE: Mapping[str, Mapping[PlaceKind, str]] = {
    # Gradients live in the model's process; the sandbox is a separate one.
    "gradients": {"local": "yes", "trusted": "yes", "sandboxed": "no"},
    # Needs eager attention, which a job in the model's process switches on and off itself. In the
    # sandbox, the server's nnsight has to do that.
    "attention_weights": {"local": "yes", "trusted": "yes", "sandboxed": "0.8.1"},
    "generation": {"local": "yes", "trusted": "yes", "sandboxed": "yes"},
    "weights": {"local": "yes", "trusted": "yes", "sandboxed": "no"},
}


@dataclass(frozen=True)
class Place:
    """Where the code of a job would run.

    Attributes:
        kind: "local" on this machine; on a server, "trusted" in the model's process, or "sandboxed"
            in a separate one.
        nnsight: version of nnsight there; "" if irrelevant or unknown.
    """

    kind: PlaceKind
    nnsight: str = ""


LOCAL = Place("local")


def unmet_needs(needs: Sequence[str], place: Place) -> list[str]:
    """The needs of a recipe that the place cannot meet."""
    return [
        need
        for need in _place_needs(needs)
        if not _is_supported(TABLE[need][place.kind], place.nnsight)
    ]


def _is_supported(answer: str, version: str) -> bool:
    if answer in ("yes", "no"):
        return answer == "yes"
    return is_at_least(version, answer)


def depends_on_trust(needs: Sequence[str]) -> bool:
    """Whether a server can meet these needs only if it trusts the key."""
    kinds = [TABLE[need] for need in _place_needs(needs)]
    return any(answers["sandboxed"] != answers["trusted"] for answers in kinds)


def _place_needs(needs: Sequence[str]) -> list[str]:
    """The needs that depend on the place; the others depend on the model."""
    return [need for need in needs if need in TABLE]

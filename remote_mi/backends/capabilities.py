"""What each kind of place can do for a recipe: one table, asked before a job is sent and in plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from remote_mi.common.versions import is_from

PlaceKind = Literal["local", "trusted", "sandboxed"]

#: Need of a recipe → place → whether it can, as "yes", "no", or the nnsight from which on it can.
TABLE: Mapping[str, Mapping[PlaceKind, str]] = {
    # The gradient lives in the process of the model; the sandbox is another one.
    "gradients": {"local": "yes", "trusted": "yes", "sandboxed": "no"},
    # Read under eager attention, which a job beside the model switches on and off by itself. In
    # the sandbox it is the server's nnsight that has to.
    "attention_weights": {"local": "yes", "trusted": "yes", "sandboxed": "0.8.1"},
    "generation": {"local": "yes", "trusted": "yes", "sandboxed": "yes"},
    "weights": {"local": "yes", "trusted": "yes", "sandboxed": "no"},
}


@dataclass(frozen=True)
class Place:
    """Where the code of a job would run.

    Attributes:
        kind: "local" on this machine; on a server "trusted" beside the model, or "sandboxed" in a
            process without it.
        nnsight: version of nnsight there; "" where it does not matter or is not known.
    """

    kind: PlaceKind
    nnsight: str = ""


LOCAL = Place("local")


def unmet_needs(needs: Sequence[str], place: Place) -> list[str]:
    """Those of a recipe's needs that the place cannot serve."""
    return [
        need
        for need in _place_needs(needs)
        if not _is_supported(TABLE[need][place.kind], place.nnsight)
    ]


def _is_supported(answer: str, version: str) -> bool:
    if answer in ("yes", "no"):
        return answer == "yes"
    return is_from(version, answer)


def depends_on_trust(needs: Sequence[str]) -> bool:
    """Whether a server has to be asked for its trust before it is known if it can serve."""
    kinds = [TABLE[need] for need in _place_needs(needs)]
    return any(answers["sandboxed"] != answers["trusted"] for answers in kinds)


def _place_needs(needs: Sequence[str]) -> list[str]:
    """The needs that a place serves or not; the others are the model's."""
    return [need for need in needs if need in TABLE]

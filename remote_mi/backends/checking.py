"""What `remote-mi doctor` finds: one check a thing, each with a deadline of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from remote_mi.common.deadline import within
from remote_mi.common.errors import RemoteMIError, first_line

State = Literal["ok", "problem", "note"]

#: Longest wait for a quick answer, for a server that first asks its cluster, and for a model's
#: configuration and tokenizer to be fetched and built, in seconds.
QUICK_S, CLUSTER_S, MODEL_S = 10.0, 40.0, 180.0


@dataclass(frozen=True)
class Check:
    """What was found about one thing.

    Attributes:
        name: the thing. state: "ok", "problem", or "note" where it may matter or not.
        found: what is so. advice: what to do about it.
        exit_code: of a problem: 4 the key, 5 the server, 1 anything else.
    """

    name: str
    state: State
    found: str
    advice: str | None = None
    exit_code: int = 1


def run_check(name: str, seconds: float, work: Callable[[], list[Check]]) -> list[Check]:
    """What some work finds; where it fails or takes too long, that is what is found."""
    try:
        return within(seconds, work)
    except Exception as error:
        return [failed_check(name, error)]


def failed_check(name: str, error: Exception) -> Check:
    """The check of a thing that an error came from."""
    if not isinstance(error, RemoteMIError):
        return Check(name, "problem", f"{type(error).__name__}: {first_line(error)}")
    code = error.exit_code if error.exit_code in (4, 5) else 1
    return Check(name, "problem", error.message, error.hint, code)

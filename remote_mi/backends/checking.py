"""The checks that `remote-mi doctor` reports, each with its own deadline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from remote_mi.common.deadline import run_with_deadline
from remote_mi.common.errors import RemoteMIError, first_line

State = Literal["ok", "problem", "note"]

#: Longest wait for a quick answer, for a server that first asks its cluster, and for fetching
#: and building a model's configuration and tokenizer, in seconds.
QUICK_S, CLUSTER_S, MODEL_S = 10.0, 40.0, 180.0


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: what was checked. state: "ok", "problem", or "note" for what may or may not matter.
        found: the finding. advice: what to do about it.
        exit_code: of a problem: 4 for the key, 5 for the server, 1 for anything else.
    """

    name: str
    state: State
    found: str
    advice: str | None = None
    exit_code: int = 1


def run_check(name: str, seconds: float, work: Callable[[], list[Check]]) -> list[Check]:
    """The checks that `work` returns; if it raises or takes too long, one check that says so."""
    try:
        return run_with_deadline(seconds, work)
    except Exception as error:
        return [failed_check(name, error)]


def failed_check(name: str, error: Exception) -> Check:
    """The check that reports an error."""
    if not isinstance(error, RemoteMIError):
        return Check(name, "problem", f"{type(error).__name__}: {first_line(error)}")
    code = error.exit_code if error.exit_code in (4, 5) else 1
    return Check(name, "problem", error.message, error.hint, code)

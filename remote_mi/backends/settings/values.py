"""The settings as values, their defaults, and the names of backends and servers in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from remote_mi.common.errors import UsageError

FILE = "remote-mi.yaml"
#: Entry of `hosts`: the personal server.
HERE = "here"


@dataclass(frozen=True)
class Limits:
    """Limits in bytes that `auto` observes; None leaves the decision to measurements.

    Attributes:
        memory, gpu_memory: how much of this machine's memory, and its GPUs', a model may take.
        download: the largest download for a model.
        ask_above: downloads from this size on need confirmation.
        upload: how much one job may send to a server.
        results: how much one job may return, from a server or on this machine.
    """

    memory: int | None = None
    gpu_memory: int | None = None
    download: int | None = None
    ask_above: int = 200_000_000
    upload: int = 10_000_000
    results: int = 1_000_000_000


@dataclass(frozen=True)
class StudySettings:
    """How studies run.

    Attributes:
        max_remote: how many jobs of a study may be on servers at a time.
    """

    max_remote: int = 8


@dataclass(frozen=True)
class Settings:
    """The settings in force.

    Attributes:
        prefer: backends that `auto` tries, in this order: local, ndif (all of `hosts`),
            ndif:here, ndif:URL, those of other packages. `auto` never uses one that is left out.
        hosts: servers that "ndif" in `prefer` expands to: here, or URLs. None means the personal
            one if it is running, and the one that nnsight is configured for.
        limits, studies: see there.
        path: the file they were read from; None if there is none.
        lines: dotted name → line of the file, for the settings it contains.
    """

    prefer: tuple[str, ...] = ("local", "ndif")
    hosts: tuple[str, ...] | None = None
    limits: Limits = Limits()
    studies: StudySettings = StudySettings()
    path: Path | None = None
    lines: Mapping[str, int] = field(default_factory=dict)

    def origin(self, name: str) -> str:
        """Where a setting comes from: "remote-mi.yaml:3", or "default"."""
        return f"{FILE}:{self.lines[name]}" if name in self.lines else "default"


def normalize_host(word: str) -> str:
    """A server as in `hosts`: here, or an address without its trailing slash.

    Raises:
        UsageError: if it is neither, or contains a user name or password.
    """
    if word == HERE:
        return word
    shown = repr(word) if "@" not in word else "that"  # the part before it may be a password
    try:
        parts = urlsplit(word)
        sound = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        _ = parts.port  # raises for a port that is not a number
    except ValueError:
        sound = False
    if not sound or not word.isprintable() or " " in word:
        raise UsageError(
            f"{shown} is not the address of a server", f"{HERE}, or e.g. https://api.ndif.us"
        )
    return word.rstrip("/")

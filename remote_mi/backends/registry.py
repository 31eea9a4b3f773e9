"""Every kind of backend by its name: the package's own, and those of installed packages.

A package adds one by an entry point of the group `remote_mi.backends`, whose name is the kind's
and which names a `remote_mi.backends.kind.BackendKind`, as a class or an object. Nothing else in
this package knows a backend by its name.

A backend has a name in two forms. It is asked for as `KIND` or `KIND:WHERE`, and written down in
runs as `KIND` or `KIND WHERE`.
"""

from __future__ import annotations

import functools
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from remote_mi.backends.kind import BackendKind
from remote_mi.common.errors import RemoteMIError, UsageError, first_line, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from remote_mi.backends.base import Backend
    from remote_mi.backends.detached import DetachedBackend
    from remote_mi.backends.ledger import Entry

#: Kinds of the package's own: name → module and class.
BACKENDS = {
    "local": "remote_mi.backends.local.kind:LocalKind",
    "ndif": "remote_mi.backends.ndif.kind:NdifKind",
}
#: Group of entry points under which other packages name theirs.
ENTRY_POINTS = "remote_mi.backends"
AUTO = "auto"


def kind_names() -> list[str]:
    """The names of all kinds, the package's own first."""
    return list(dict.fromkeys([*BACKENDS, *_entry_points(tuple(sys.path))]))


def get_kind(name: str) -> BackendKind:
    """The kind of a name.

    Raises:
        UsageError: if there is none, or it cannot be imported.
    """
    if not _is_kind(name):
        raise _unknown_backend(name, name)
    return (
        _builtin_kind(name)
        if name in BACKENDS
        else _load_entry_point(_entry_points(tuple(sys.path))[name])
    )


def _is_kind(name: str) -> bool:
    """Whether there is a kind of that name; for the package's own, other packages are not asked."""
    return name in BACKENDS or name in _entry_points(tuple(sys.path))


def _unknown_backend(word: str, name: str) -> UsageError:
    close = nearest(name, (AUTO, *kind_names()))
    return UsageError(
        f"no backend {word!r}",
        (f"did you mean {close!r}? " if close else "") + f"there are: {', '.join(option_values())}",
    )


@functools.cache
def _builtin_kind(name: str) -> BackendKind:
    module, _, kind = BACKENDS[name].partition(":")
    return getattr(import_module(module), kind)()


@functools.lru_cache(maxsize=4)
def _entry_points(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """The entry points of other packages by name; looked for once, which takes milliseconds.

    Args:
        path: where packages are looked for, as it is now.
    """
    from importlib.metadata import entry_points  # slow to import, and seldom needed

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


@functools.cache
def _load_entry_point(point: EntryPoint) -> BackendKind:
    try:
        found = point.load()
        kind = found() if isinstance(found, type) else found
    except Exception as error:  # somebody else's module: anything can come
        raise UsageError(
            f"the backend {point.name!r} of {point.value} cannot be imported: "
            f"{type(error).__name__}: {first_line(error)}",
            "mend or uninstall the package that brings it",
        ) from error
    if not isinstance(kind, BackendKind) or kind.name != point.name:
        raise UsageError(
            f"{point.value} is no backend named {point.name!r}",
            "it has to name a remote_mi.backends.kind.BackendKind of that name",
        )
    return kind


def kinds() -> list[BackendKind]:
    """Every kind that can be imported; of another, the error is told to whoever asks for it."""
    found = []
    for name in kind_names():
        try:
            found.append(get_kind(name))
        except UsageError:
            continue
    return found


def option_values(servers: bool = False) -> list[str]:
    """What `--backend` takes, for help. `servers`: only those that are servers."""
    of_kinds = [
        word for kind in kinds() if kind.is_server or not servers for word in kind.option_values
    ]
    return of_kinds if servers else [AUTO, *of_kinds]


def is_backend(word: str) -> bool:
    """Whether a word begins as the name of a backend does, `auto` not among them."""
    return _is_kind(word.partition(":")[0])


def parse_backend(word: str) -> tuple[BackendKind, str]:
    """The kind that a word names, and which one of the kind: "" for the kind's own.

    Raises:
        UsageError: if there is no such backend.
    """
    name, colon, where = word.partition(":")
    if not _is_kind(name):
        raise _unknown_backend(word, name)
    kind = get_kind(name)
    return kind, kind.normalize_where(where) if colon else ""


def parse_server(word: str) -> tuple[BackendKind, str]:
    """As `named`, of one that is a server.

    Raises:
        UsageError: if it names no server.
    """
    name, _, where = word.partition(":")
    kind = get_kind(name) if _is_kind(name) else None
    if kind is None or not kind.is_server:
        close = nearest(name, [kind.name for kind in kinds() if kind.is_server])
        raise UsageError(
            f"{word!r} is no server",
            (f"did you mean {close!r}? " if close else "")
            + f"there are: {', '.join(option_values(servers=True))}",
        )
    return kind, where


def backend_name(word: str) -> str:
    """The name of a backend as it is written down in settings and studies; `auto` is one, too.

    Raises:
        UsageError: if there is no such backend.
    """
    if word == AUTO:
        return word
    kind, where = parse_backend(word)
    return f"{kind.name}:{where}" if where else kind.name


def open_backend(word: str, project: Path, rows_bytes: int | None = None) -> Backend:
    """The backend that `--backend` names.

    Args:
        rows_bytes: what the rows of a sweep may take there, as a plan says.

    Raises:
        UsageError: if there is none of that name.
    """
    kind, where = parse_backend(word)
    return kind.backend(where, project, rows_bytes)


def option_value(written: str) -> str:
    """What `--backend` takes, of a backend's name as runs have it."""
    return written.replace(" ", ":", 1)


def kind_of(entry: Entry) -> BackendKind:
    """The kind of backend that has a job of the ledger.

    Raises:
        UsageError: if it is not installed any more.
    """
    return get_kind(entry.host.partition(" ")[0])


def backend_of(entry: Entry, project: Path) -> DetachedBackend:
    """The backend of a job of the ledger, at the address that it had."""
    return kind_of(entry).backend_of(entry, project)


def error_of(entry: Entry) -> RemoteMIError | None:
    """The error that a job of the ledger ended in."""
    return kind_of(entry).error_of(entry.error) if entry.error else None

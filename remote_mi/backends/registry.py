"""Every kind of backend by name: the built-in ones, and those of installed packages.

A package adds one with an entry point in the group `remote_mi.backends`. The entry point has the
kind's name and refers to a `remote_mi.backends.kind.BackendKind`, a class or an object. Nothing
else in this package refers to a backend by name.

A backend's name has two forms: `KIND` or `KIND:WHERE` as the value of `--backend`, and `KIND` or
`KIND WHERE` as recorded in runs.
"""

from __future__ import annotations

import functools
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from remote_mi.backends.kind import BackendKind
from remote_mi.common.authors_code import contained, describe_error
from remote_mi.common.errors import RemoteMIError, UsageError, nearest
from remote_mi.common.plug_ins import entry_point, entry_points

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from remote_mi.backends.base import Backend
    from remote_mi.backends.detached import DetachedBackend
    from remote_mi.backends.ledger import Entry

#: Built-in kinds: name → module and class.
BACKENDS = {
    "local": "remote_mi.backends.local.kind:LocalKind",
    "ndif": "remote_mi.backends.ndif.kind:NdifKind",
}
#: Group of the entry points of other packages.
ENTRY_POINTS = "remote_mi.backends"
AUTO = "auto"


def kind_names() -> list[str]:
    """The names of all kinds, the built-in ones first."""
    return list(dict.fromkeys([*BACKENDS, *(point.name for point in entry_points(ENTRY_POINTS))]))


def get_kind(name: str) -> BackendKind:
    """The kind of this name.

    Raises:
        UsageError: if there is none, or it cannot be imported.
    """
    if name in BACKENDS:
        return _builtin_kind(name)
    point = entry_point(ENTRY_POINTS, name)
    if point is None:
        raise _unknown_backend(name, name)
    return _load_entry_point(point)


def _is_kind(name: str) -> bool:
    """Whether there is a kind of that name; entry points are read only if it is not built in."""
    return name in BACKENDS or entry_point(ENTRY_POINTS, name) is not None


def _unknown_backend(word: str, name: str) -> UsageError:
    close = nearest(name, (AUTO, *kind_names()))
    return UsageError(
        f"no backend {word!r}",
        (f"did you mean {close!r}? " if close else "") + f"there are: {', '.join(option_values())}",
    )


@functools.cache
def _builtin_kind(name: str) -> BackendKind:
    return resolve_name(BACKENDS[name])()


@functools.cache
def _load_entry_point(point: EntryPoint) -> BackendKind:
    try:
        with contained():
            found = point.load()
            kind = found() if isinstance(found, type) else found
    except Exception as error:  # third-party code: anything can be raised
        raise UsageError(
            f"the backend {point.name!r} of {point.value} cannot be imported: "
            f"{describe_error(error)}",
            "fix or uninstall the package that provides it",
        ) from error
    if not isinstance(kind, BackendKind) or kind.name != point.name:
        raise UsageError(
            f"{point.value} is not a backend named {point.name!r}",
            "the entry point must refer to a remote_mi.backends.kind.BackendKind of that name",
        )
    return kind


def kinds() -> list[BackendKind]:
    """Every kind that can be imported; for any other, `get_kind` raises the error."""
    found = []
    for name in kind_names():
        try:
            found.append(get_kind(name))
        except UsageError:
            continue
    return found


def option_values(servers: bool = False) -> list[str]:
    """The values of `--backend`, for help. `servers`: only servers."""
    of_kinds = [
        word for kind in kinds() if kind.is_server or not servers for word in kind.option_values
    ]
    return of_kinds if servers else [AUTO, *of_kinds]


def is_backend(word: str) -> bool:
    """Whether a word is `KIND` or `KIND:…` of a known kind; `auto` is not."""
    return _is_kind(word.partition(":")[0])


def parse_backend(word: str) -> tuple[BackendKind, str]:
    """The kind and the part after the colon ("" for none) of a value of `--backend`.

    Raises:
        UsageError: if there is no such backend.
    """
    name, colon, where = word.partition(":")
    if not _is_kind(name):
        raise _unknown_backend(word, name)
    kind = get_kind(name)
    return kind, kind.normalize_where(where) if colon else ""


def parse_server(word: str) -> tuple[BackendKind, str]:
    """Like `parse_backend`, for a server; the part after the colon is not checked.

    Raises:
        UsageError: if it names no server.
    """
    name, _, where = word.partition(":")
    kind = get_kind(name) if _is_kind(name) else None
    if kind is None or not kind.is_server:
        close = nearest(name, [kind.name for kind in kinds() if kind.is_server])
        raise UsageError(
            f"{word!r} is not a server",
            (f"did you mean {close!r}? " if close else "")
            + f"there are: {', '.join(option_values(servers=True))}",
        )
    return kind, where


def backend_name(word: str) -> str:
    """A backend's name as settings and studies record it; `auto` is one, too.

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
        rows_bytes: memory for the rows of a sweep there, from a plan.

    Raises:
        UsageError: if there is no such backend.
    """
    kind, where = parse_backend(word)
    return kind.backend(where, project, rows_bytes)


def option_value(written: str) -> str:
    """The value of `--backend` for a backend's name as recorded in runs."""
    return written.replace(" ", ":", 1)


def kind_of(entry: Entry) -> BackendKind:
    """The kind of backend of a job in the ledger.

    Raises:
        UsageError: if it is no longer installed.
    """
    return get_kind(entry.host.partition(" ")[0])


def backend_of(entry: Entry, project: Path) -> DetachedBackend:
    """The backend of a job in the ledger, at the address it had."""
    return kind_of(entry).backend_of(entry, project)


def error_of(entry: Entry) -> RemoteMIError | None:
    """The error in which a job in the ledger ended."""
    return kind_of(entry).error_of(entry.error) if entry.error else None

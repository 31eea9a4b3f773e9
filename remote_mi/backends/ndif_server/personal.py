"""The one personal server of a user: its address, what it serves, and how to start it.

The rest of the package uses this module; apart from the package, it imports only the standard
library until a server is actually started.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from remote_mi.backends.ndif_server.errors import ServerRunning, ServerUnavailable
from remote_mi.common.errors import BackendUnavailable, UsageError
from remote_mi.common.paths import server_folder
from remote_mi.common.progress import Watch
from remote_mi.models.embedded import EMBEDDED

if TYPE_CHECKING:
    from remote_mi.backends.ndif_server.record import Record
    from remote_mi.backends.ndif_server.server import Server

HERE = "here"
"""The name of the personal server in place of an address: `ndif:here`."""

SERVED_EMBEDDED = f"remote-mi/{EMBEDDED}"
"""The repository id under which the embedded model is served."""

_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Served:
    """A running personal server.

    Attributes:
        url: where clients send their jobs.
        hub_url: where the stand-in for the model hub listens.
        models: folder by repository id.
        auth: whether it checks keys.
        keys: API key by privilege, "plain" (sandboxed) and "trusted"; empty without `auth`.
        contents: digest of each folder's content at the start, by repository id.
        since: when it was started, in seconds since 1970.
    """

    url: str
    hub_url: str
    models: dict[str, Path]
    auth: bool
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    contents: dict[str, str] = field(default_factory=dict, repr=False)
    since: float = 0.0


def state_folder() -> Path:
    """The folder with everything about the personal server except its environment."""
    return server_folder() / "personal"


def personal_server(**options: Any) -> Server:
    """The personal server, running or not.

    Args:
        options: as of `Server`: `threads`, `auth`, `execution_timeout`, `watch`, …

    Raises:
        ServerUnavailable: NDIF does not run on this operating system.
    """
    if os.name != "posix":
        raise ServerUnavailable("a personal NDIF server needs Linux or macOS")
    from remote_mi.backends.ndif_server.server import Server

    return Server(state_folder(), venvs=server_folder(), **options)


def bring_up(models: Sequence[str], watch: Watch, **options: Any) -> Server:
    """Fetch what is missing and start the personal server. Returns it running.

    A server of which a service died is stopped and started anew; it serves what it served before,
    too.

    Args:
        models: what to serve: the embedded model's name, folders, hub ids. If empty, what a
            server that is restarted served, else the embedded model.
        watch: shows the progress.
        options: as of `Server`: `threads`, `auth`, `execution_timeout`.

    Raises:
        ServerRunning: it is already running; the message says where, and what it serves.
        ServerUnavailable: something is not installed; the message says what to install.
        UsageError: a model cannot be served, or two would have the same repository id.
        RemoteMIError: a model could not be fetched, or the server did not start.
    """
    from remote_mi.models.served_folder import ensure_folder

    record = _record()
    broken = record if record is not None and record.is_broken() else None
    served = {name: Path(folder) for name, folder in broken.models.items()} if broken else {}
    if broken and broken.keys:
        options["auth"] = True
    server = personal_server(watch=watch, **options)
    named = _by_repo_id(models or (() if served else (EMBEDDED,)))
    running = running_server(HERE)
    if running and not broken:
        raise _already_running(running, named)
    server.check_programs()  # before a download of minutes
    wanted = {repo_id: ensure_folder(model, watch) for repo_id, model in named.items()}
    if broken:
        watch.note(f"{', '.join(broken.dead_services())} died; the server is started anew")
    return server.start(served | wanted)


def repo_id_of(model: str) -> str:
    """The repository id under which a model is served.

    The embedded model has one of ours, a folder is `local/` and its name, and a hub id is itself.

    Args:
        model: as the option `--model` takes it.

    Raises:
        UsageError: it can be neither.
    """
    from remote_mi.models.spec import ModelSpec

    if model == EMBEDDED:
        return SERVED_EMBEDDED
    folder = ModelSpec(model).folder
    if folder is not None:
        # Not allowed in a hub id: other characters, "--", "..", and "-" or "." at its ends.
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name)
        name = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", name))[:80].strip("-.")
        return f"local/{name.removesuffix('.git') or 'model'}"
    word = r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?"
    if not re.fullmatch(f"({word}/)?{word}", model) or "--" in model or ".." in model:
        raise UsageError(f"{model!r} is neither a folder nor a hub id", "write it as org/model")
    return model


def running_server(host: str) -> Served | None:
    """The personal server, if this is its address and it is running; takes about a millisecond.

    Args:
        host: a base URL, or "here".
    """
    record = _record()
    if record is None or not record.is_running():
        return None
    if host != HERE and not _is_same_address(host, record.url):
        return None
    models = {repo_id: Path(folder) for repo_id, folder in record.models.items()}
    return Served(
        record.url,
        record.hub_url,
        models,
        bool(record.keys),
        dict(record.keys),
        dict(record.contents),
        record.since,
    )


def is_same_server(url: str, moment: float) -> bool:
    """Whether the personal server that runs is the one that was at an address at a moment.

    Args:
        url: the address. moment: seconds since 1970.
    """
    found = running_server(HERE)
    return found is not None and found.url == url and found.since <= moment


def served_repo_id(folder: Path, served: Served) -> str | None:
    """The repository id under which a server serves a folder; None if it does not.

    Raises:
        UsageError: if the folder changed since the server was started. The server may have loaded
            the old content, and its results would be stored as those of the new.
    """
    from remote_mi.models.folders import folder_digest

    wanted = folder.expanduser().resolve()
    found = next((name for name, path in served.models.items() if path.resolve() == wanted), None)
    before = served.contents.get(found or "")
    if before is not None and before != folder_digest(folder.expanduser()):
        raise UsageError(
            f"the files of {folder} changed since the personal server was started",
            f"`remote-mi ndif down`, then `remote-mi ndif up --model {folder}`",
        )
    return found


def model_option(repo_id: str, served: Served) -> str:
    """The value of `--model` for a served model: for weights of this machine, their folder.

    Their repository id does not identify their content, so it cannot be part of a key.
    """
    if repo_id == SERVED_EMBEDDED:
        return EMBEDDED
    if repo_id.startswith("local/") and repo_id in served.models:
        return str(served.models[repo_id])
    return repo_id


def require_running() -> Served:
    """The running personal server.

    Raises:
        BackendUnavailable: none is running.
    """
    found = running_server(HERE)
    if found:
        return found
    record = _record()
    if record is not None and record.is_starting():
        raise BackendUnavailable(
            "the personal NDIF server is still starting",
            "`remote-mi ndif status` says when it is up",
        )
    raise BackendUnavailable("no personal NDIF server is running", "`remote-mi ndif up` starts one")


def _record() -> Record | None:
    if os.name != "posix":
        return None
    from remote_mi.backends.ndif_server.record import Record

    return Record.read(state_folder())


def _is_same_address(host: str, url: str) -> bool:
    """Whether an address is the server's, which listens on loopback only."""
    try:
        asked, ours = urlsplit(host.rstrip("/")), urlsplit(url)
        return (asked.scheme, asked.port, asked.path) == (ours.scheme, ours.port, ours.path) and (
            asked.hostname in _LOOPBACK
        )
    except ValueError:  # not a port number
        return False


def _by_repo_id(models: Sequence[str]) -> dict[str, str]:
    """Models by repository id; nothing is fetched."""
    named: dict[str, str] = {}
    for model in models:
        repo_id = repo_id_of(model)
        # The hub's names are looked up without regard to case.
        other = next((named[name] for name in named if name.lower() == repo_id.lower()), model)
        if other != model:
            raise UsageError(
                f"{other} and {model} would both be served as {repo_id}",
                "rename one of the folders",
            )
        named[repo_id] = model
    return named


def _already_running(running: Served, wanted: dict[str, str]) -> ServerRunning:
    listed = ", ".join(running.models)
    message = f"a personal NDIF server is already running at {running.url}, serving {listed}"
    if set(wanted) <= set(running.models):
        return ServerRunning(
            message, "use it with `--backend ndif:here`, or end it with `remote-mi ndif down`"
        )
    missing = ", ".join(name for name in wanted if name not in running.models)
    return ServerRunning(message, f"`remote-mi ndif down` first: it does not serve {missing}")

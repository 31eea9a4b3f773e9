"""A throwaway PostgreSQL with two API keys, for a server that checks them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remote_mi.backends.ndif_server.errors import ServerStartFailed, ServerUnavailable
from remote_mi.backends.ndif_server.processes import send_signal
from remote_mi.backends.ndif_server.settings import program

_REMEDY = (
    "checking keys needs PostgreSQL: install it with `apt-get install postgresql` (Debian, "
    "Ubuntu) or `brew install postgresql`"
)
_USER = "postgres"  # PostgreSQL refuses to run as root; used instead
_SECONDS = 60

# The tables NDIF's key query reads; one statement a line, as single-user mode wants it.
_SCHEMA = """\
CREATE TABLE users (user_id uuid PRIMARY KEY, email text);
CREATE TABLE user_tags (user_tag_id int PRIMARY KEY, name text UNIQUE);
CREATE TABLE keys (key_id uuid PRIMARY KEY, user_id uuid);
CREATE TABLE key_user_tag_assignments (key_id uuid, user_tag_id int);
INSERT INTO user_tags VALUES (1, 'trusted'), (2, 'priority');
INSERT INTO users VALUES ('{owner}', 'user@localhost');
INSERT INTO keys VALUES ('{plain}', '{owner}'), ('{trusted}', '{owner}');
INSERT INTO key_user_tag_assignments VALUES ('{trusted}', 1), ('{trusted}', 2);
"""


@dataclass(frozen=True)
class Database:
    """A database that is ready to be served.

    Attributes:
        folder: holds all of it; remove it afterwards.
        keys: API key by privilege: "plain" (sandboxed) and "trusted" (also has priority).
        user: the user to run it as; None for the current one.
    """

    folder: Path
    keys: dict[str, str]
    user: str | None

    @property
    def user_options(self) -> dict[str, Any]:
        """Arguments of `subprocess` that run a program as that user."""
        return _user_options(self.user)

    def command(self, port: int) -> list[str]:
        """The command line that serves it on loopback."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",  # its content need not outlive the server
        }
        chosen = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [programs()["postgres"], "-D", str(self.folder / "data"), "-p", str(port), *chosen]


def programs() -> dict[str, str]:
    """Full path by name of the programs needed.

    Raises:
        ServerUnavailable: PostgreSQL is not installed.
    """
    # Debian keeps them off the PATH, one folder a version; the newest first.
    versions = Path("/usr/lib/postgresql")
    folders = sorted(
        (str(folder) for folder in versions.glob("*/bin")),
        key=lambda folder: float(Path(folder).parent.name),
        reverse=True,
    )
    return {name: program(name, _REMEDY, *folders) for name in ("initdb", "postgres")}


def create(log: Path) -> Database:
    """Create a database with two new keys. Takes one or two seconds.

    Raises:
        ServerUnavailable: PostgreSQL is not installed.
        ServerStartFailed: it is, but failed to create a database.
    """
    found = programs()
    user = _other_user()
    folder = Path(tempfile.mkdtemp(prefix="rmi-", dir="/tmp"))
    try:
        if user:
            shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
        keys = {"plain": str(uuid.uuid4()), "trusted": str(uuid.uuid4())}
        schema = _SCHEMA.format(owner=uuid.uuid4(), **keys)
        data = str(folder / "data")
        new = ["--no-sync", "--no-locale", "-A", "trust", "-U", "postgres", "-E", "UTF8"]
        _run([found["initdb"], *new, "-D", data], log, user)
        _run([found["postgres"], "--single", "-F", "-D", data, "postgres"], log, user, schema)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Database(folder=folder, keys=keys, user=user)


def _other_user() -> str | None:
    """The user to run PostgreSQL as; None for the current one."""
    if os.getuid() != 0:
        return None
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        raise ServerUnavailable(
            f"PostgreSQL does not run as root, and this machine has no user {_USER!r}: add one "
            f"with `useradd --system {_USER}`, or start the server as another user"
        ) from None
    return _USER


def _user_options(user: str | None) -> dict[str, Any]:
    return {"user": user, "group": user, "extra_groups": []} if user else {}


def _run(command: list[str], log: Path, user: str | None, sent: str = "") -> None:
    try:
        with log.open("ab") as output:
            subprocess.run(
                command,
                input=sent.encode(),
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                timeout=_SECONDS,
                check=True,
                **_user_options(user),
            )
    except (subprocess.SubprocessError, OSError) as error:
        raise ServerStartFailed(
            f"PostgreSQL failed to create a database: {error} (log: {log})"
        ) from None


def end(pid: int) -> None:
    """Ask a PostgreSQL to end at once; unlike a kill, this releases its shared memory."""
    send_signal(pid, signal.SIGQUIT)

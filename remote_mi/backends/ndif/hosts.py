"""NDIF servers: their addresses, the key, and what is remembered about each.

Nothing here imports torch or nnsight: looking up an existing result must stay quick.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from remote_mi.backends.ndif.errors import KeyRefused
from remote_mi.backends.ndif_server import personal
from remote_mi.common.atomic_files import write_atomically
from remote_mi.common.errors import BackendUnavailable, UsageError
from remote_mi.common.paths import cache_root
from remote_mi.common.yaml_file import read_generated

DEFAULT_HOST = "https://api.ndif.us"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Host:
    """An NDIF server.

    Attributes:
        url: its base address.
        name: as recorded in runs, "ndif " and the address; "ndif here" is the personal server,
            whose address changes with each start.
        served: what the personal server serves; None for any other.
        key: sent instead of the stored one.
    """

    url: str
    name: str
    served: personal.Served | None = None
    key: str | None = field(default=None, repr=False)

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine."""
        return urlsplit(self.url).hostname in _LOOPBACK

    def key_headers(self) -> dict[str, str]:
        """The header that carries the key; empty if there is none.

        Raises:
            KeyRefused: if the key would be sent unencrypted.
        """
        key = self.key or api_key()
        if self.served is not None and self.key is None:
            # It knows only its own keys, and must not see the user's.
            known = self.served.keys
            key = key if key in known.values() else known.get("plain")
        if not key:
            return {}
        if urlsplit(self.url).scheme != "https" and not self.is_loopback:
            raise KeyRefused(
                f"the API key is not sent to {self.url}: plain http beyond this machine",
                "use https, or unset NDIF_API_KEY",
            )
        if not key.isascii() or not key.isprintable():
            raise KeyRefused(
                "the API key contains invalid characters",
                "`remote-mi login` stores another one",
            )
        return {"ndif-api-key": key}


#: The personal server; its address is known once it is running.
HERE = Host("", "ndif here")


def find_host(asked: str | None) -> Host:
    """The server of `--backend ndif` (None), `ndif:here`, or `ndif:URL`.

    Raises:
        UsageError: if it is not an address. BackendUnavailable: if no personal server is running.
    """
    if asked == personal.HERE:
        served = personal.require_running()
        return replace(HERE, url=served.url, served=served)
    given = asked or os.environ.get("NDIF_HOST") or _nnsight_settings().get("HOST") or DEFAULT_HOST
    url = str(given).rstrip("/")
    shown = repr(given) if "@" not in url else "that"  # the part before it may be a password
    if not is_address(url):
        raise UsageError(
            f"{shown} is not the address of a server",
            f"e.g. --backend ndif:{DEFAULT_HOST}, or ndif:here for a personal one",
        )
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise UsageError(
            "an address that contains a name or password is not accepted",
            "set the key with `remote-mi login`",
        )
    served = personal.running_server(url) if parts.hostname in _LOOPBACK else None
    return Host(url, f"ndif {url}", served)


def is_address(url: str) -> bool:
    """Whether a request can be sent to an address."""
    try:
        _ = httpx.URL(url).host  # raises for what no request could use
        parts = urlsplit(url)
    except (httpx.InvalidURL, ValueError):
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def nnsight_config_file() -> Path:
    """Path of nnsight's settings, which include the key."""
    given = os.environ.get("NNSIGHT_CONFIG")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME", "~/.config")
    return Path(base).expanduser() / "nnsight" / "config.yaml"


def api_key() -> str | None:
    """The key as nnsight finds it: in the environment, else in its settings."""
    if "nnsight" in sys.modules:  # it reads a notebook's secrets, too
        from nnsight.schema.config import CONFIG

        found = CONFIG.API.APIKEY
    else:
        found = os.environ.get("NDIF_API_KEY") or _nnsight_settings().get("APIKEY")
    # With trailing space, the HTTP library's error would repeat the key.
    return str(found or "").strip() or None


def keep_key(key: str) -> Path:
    """Write the key into nnsight's settings, readable only by the user; the rest is kept.

    Raises:
        UsageError: if the file exists but holds no settings: it is not overwritten.
        BackendUnavailable: if the file cannot be written.
    """
    path = nnsight_config_file()
    settings = _read(path)
    api = settings.get("API")
    api = {} if api is None else api
    if not isinstance(api, dict) or (not settings and _has_content(path)):
        raise UsageError(
            f"{path} cannot be read as nnsight's settings",
            "fix or remove it, or set NNSIGHT_CONFIG to another file",
        )
    settings["API"] = {**api, "APIKEY": key}
    target = path.resolve()  # a symbolic link is preserved
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            yaml.safe_dump(settings, file)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise BackendUnavailable(
            f"{path} cannot be written: {error.strerror}", "set NNSIGHT_CONFIG to another file"
        ) from None
    return path


def _has_content(path: Path) -> bool:
    """Whether a file has content other than empty settings, readable or not."""
    try:
        return read_generated(path) not in (None, {})
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def _nnsight_settings() -> Mapping[str, Any]:
    api = _read(nnsight_config_file()).get("API")
    return api if isinstance(api, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_generated(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def recall(host: Host) -> dict[str, Any]:
    """What is remembered about a server: `packages`, `python`, `trusted`, each with a time."""
    found = _memory().get(host.name)
    return found if isinstance(found, dict) else {}


def remember(host: Host, **learnt: Any) -> None:
    """Remember facts about a server; losing them costs no more than another request."""
    memory = _memory()
    now = {name: [value, round(time.time())] for name, value in learnt.items()}
    memory[host.name] = {**memory.get(host.name, {}), **now}
    try:
        write_atomically(_memory_file(), json.dumps(memory).encode(), cache_root() / "tmp")
    except OSError:
        pass


def _memory() -> dict[str, Any]:
    try:
        found = json.loads(_memory_file().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _memory_file() -> Path:
    return cache_root() / "ndif-hosts.json"


_KEY_FORM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_well_formed_key(key: str) -> bool:
    """Whether a text has the form of a key: 8-4-4-4-12 hexadecimal digits."""
    return _KEY_FORM.fullmatch(key) is not None


def key_source() -> str:
    """Where the key comes from, in words."""
    return "NDIF_API_KEY" if os.environ.get("NDIF_API_KEY") else str(nnsight_config_file())

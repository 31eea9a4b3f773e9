"""Storing the NDIF key, once a server knows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from remote_mi.backends.checking import QUICK_S
from remote_mi.backends.kind import KeyStore
from remote_mi.backends.ndif import facts
from remote_mi.backends.ndif.client import Client
from remote_mi.backends.ndif.errors import KeyRefused, NotNdif
from remote_mi.backends.ndif.hosts import find_host, is_well_formed_key, keep_key
from remote_mi.common.deadline import run_with_deadline
from remote_mi.common.errors import BackendUnavailable, UsageError
from remote_mi.common.text import line


class NdifKeys(KeyStore):
    """The key that nnsight sends to NDIF servers.

    Args:
        asked: the server that is asked whether it knows a key, as `find_host` takes it.
    """

    name = "NDIF"
    source = "get one at https://login.ndif.us"
    variable = "NDIF_API_KEY"

    def __init__(self, asked: str | None) -> None:
        self.host = find_host(asked)
        if self.host.served is not None:
            raise UsageError(
                "a personal server creates its own keys, which are used automatically",
                "there is nothing to save for it",
            )

    def format_problem(self, key: str) -> str:
        return "" if is_well_formed_key(key) else "one has 8-4-4-4-12 hexadecimal digits"

    def verify(self, key: str) -> str:
        client, url = Client(replace(self.host, key=key)), self.host.url
        try:
            who = run_with_deadline(QUICK_S, lambda: facts.caller(client))
        except NotNdif:
            raise
        except BackendUnavailable as error:
            return f"{url} could not be asked whether it knows the key: {line(error.message)}"
        if not who.checks_keys:
            return f"{url} checks no keys"
        if not who.known:
            raise KeyRefused(f"{url} does not know this key; it is not kept", self.source)
        return f"{url}: {line(facts.describe_caller(who))}"

    def save(self, key: str) -> Path:
        return keep_key(key)

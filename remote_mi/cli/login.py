"""`remote-mi login`: keep the key for NDIF."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import click

from remote_mi.backends.doctor import QUICK_S
from remote_mi.backends.ndif import facts
from remote_mi.backends.ndif.client import Client
from remote_mi.backends.ndif.errors import KeyRefused, NotNdif
from remote_mi.backends.ndif.facts import described
from remote_mi.backends.ndif.hosts import Host, find_host, has_form_of_a_key, keep_key, server_named
from remote_mi.cli.output import say
from remote_mi.common.deadline import within
from remote_mi.common.errors import BackendUnavailable, UsageError
from remote_mi.common.text import line

_WHERE = "https://login.ndif.us gives one"
_LONGEST = 4096


@click.command()
@click.option("--key-stdin", is_flag=True, help="Read the key from stdin instead of asking for it.")
@click.option(
    "--backend",
    default="ndif",
    show_default=True,
    metavar="NAME",
    help="The server that is asked whether it knows the key: ndif, ndif:URL.",
)
@click.argument("words", nargs=-1, metavar="")
def login(key_stdin: bool, backend: str, words: tuple[str, ...]) -> None:
    """Keep the NDIF key where nnsight keeps it, once the server knows it.

    The key is asked for without being shown; where stdin is no terminal, it is read from there. A key that the server does not know is not kept. If the server cannot be reached, it is kept unasked.
    """
    if words:
        raise UsageError(
            "the key is never an argument: the shell would keep it in its history",
            "type `remote-mi login` and then the key, or use --key-stdin",
        )
    asked = server_named(backend)
    host = find_host(asked)
    if host.served is not None:
        raise UsageError(
            "a personal server makes its own keys, and they are used by themselves",
            "nothing is to be kept for it",
        )
    key = _given(key_stdin)
    found = _asked(host, key)
    print(keep_key(key))
    say(f"the key is kept there; {found}")
    if os.environ.get("NDIF_API_KEY") not in (None, "", key):
        say("NDIF_API_KEY is set to another key and goes before the one that is kept: unset it")
    say(f"\nnext: remote-mi doctor{'' if backend == 'ndif' else f' --backend {backend}'}")


def _given(key_stdin: bool) -> str:
    """The key as typed or read.

    Raises:
        UsageError: if it has not the form of one; the message does not repeat it.
    """
    if key_stdin or not sys.stdin.isatty():
        key = sys.stdin.read(_LONGEST).strip()
    else:
        key = click.prompt(
            "NDIF key (not shown)", hide_input=True, default="", show_default=False, err=True
        ).strip()
    if not key:
        raise UsageError("no key was given", _WHERE)
    if not has_form_of_a_key(key):
        raise UsageError("that is no key: one has 8-4-4-4-12 hexadecimal digits", _WHERE)
    return key


def _asked(host: Host, key: str) -> str:
    """What the server says of the key, in words.

    Raises:
        KeyRefused: if it does not know it. NotNdif: if it is no NDIF server.
    """
    client = Client(replace(host, key=key))
    try:
        who = within(QUICK_S, lambda: facts.caller(client))
    except NotNdif:
        raise
    except BackendUnavailable as error:
        return f"whether {host.url} knows it could not be asked: {line(error.message)}"
    if not who.checks_keys:
        return f"{host.url} checks no keys"
    if not who.known:
        raise KeyRefused(f"{host.url} does not know this key; it is not kept", _WHERE)
    return f"{host.url}: {line(described(who))}"

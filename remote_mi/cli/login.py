"""`remote-mi login`: save the NDIF key."""

from __future__ import annotations

import os
import sys

import click

from remote_mi.backends.kind import KeyStore
from remote_mi.backends.registry import parse_server
from remote_mi.cli.output import say
from remote_mi.common.errors import UsageError

_MAX_KEY_LENGTH = 4096


@click.command()
@click.option("--key-stdin", is_flag=True, help="Read the key from stdin instead of asking for it.")
@click.option(
    "--backend",
    default="ndif",
    show_default=True,
    metavar="NAME",
    help="Server to check the key with: ndif, ndif:URL.",
)
@click.argument("words", nargs=-1, metavar="")
def login(key_stdin: bool, backend: str, words: tuple[str, ...]) -> None:
    """Check the NDIF key with the server, and save it where nnsight keeps it.

    The key is prompted for without being shown, or read from stdin if that is not a terminal. A
    key that the server does not know is not saved. If the server cannot be reached, the key is
    saved unchecked.
    """
    if words:
        raise UsageError(
            "the key is not accepted as an argument: the shell would keep it in its history",
            "type `remote-mi login` and then the key, or use --key-stdin",
        )
    kind, where = parse_server(backend)
    keeper = kind.keys(where)
    key = _read_key(keeper, key_stdin)
    verdict = keeper.verify(key)
    print(keeper.save(key))
    say(f"the key is saved there; {verdict}")
    if keeper.variable and os.environ.get(keeper.variable) not in (None, "", key):
        say(
            f"{keeper.variable} is set to another key and takes precedence over the saved one: "
            "unset it"
        )
    say(f"\nnext: remote-mi doctor{'' if backend == 'ndif' else f' --backend {backend}'}")


def _read_key(keeper: KeyStore, key_stdin: bool) -> str:
    """The key as typed or read.

    Raises:
        UsageError: if it does not have the form of a key; the message does not repeat it.
    """
    if key_stdin or not sys.stdin.isatty():
        key = sys.stdin.read(_MAX_KEY_LENGTH).strip()
    else:
        key = click.prompt(
            f"{keeper.name} key (not shown)",
            hide_input=True,
            default="",
            show_default=False,
            err=True,
        ).strip()
    if not key:
        raise UsageError("no key was given", keeper.source)
    problem = keeper.format_problem(key)
    if problem:
        raise UsageError(f"that is not a key: {problem}", keeper.source)
    return key

"""`remote-mi login`: keep the key for NDIF."""

from __future__ import annotations

import os
import sys

import click

from remote_mi.backends.kind import KeyStore
from remote_mi.backends.registry import parse_server
from remote_mi.cli.output import say
from remote_mi.common.errors import UsageError

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
    kind, where = parse_server(backend)
    keeper = kind.keys(where)
    key = _given(keeper, key_stdin)
    found = keeper.verify(key)
    print(keeper.save(key))
    say(f"the key is kept there; {found}")
    if keeper.variable and os.environ.get(keeper.variable) not in (None, "", key):
        say(
            f"{keeper.variable} is set to another key and goes before the one that is kept: "
            "unset it"
        )
    say(f"\nnext: remote-mi doctor{'' if backend == 'ndif' else f' --backend {backend}'}")


def _given(keeper: KeyStore, key_stdin: bool) -> str:
    """The key as typed or read.

    Raises:
        UsageError: if it has not the form of one; the message does not repeat it.
    """
    if key_stdin or not sys.stdin.isatty():
        key = sys.stdin.read(_LONGEST).strip()
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
    form = keeper.format_problem(key)
    if form:
        raise UsageError(f"that is no key: {form}", keeper.source)
    return key

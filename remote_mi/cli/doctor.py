"""`remote-mi doctor`: check this machine, the key and a server."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from remote_mi.backends.checking import Check
from remote_mi.backends.doctor import diagnose
from remote_mi.backends.registry import option_values, parse_server
from remote_mi.cli.output import print_json, say, stdout_console
from remote_mi.common.text import counted, line

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}
_NAME_WIDTH = 18


@click.command()
@click.option(
    "--backend",
    default="ndif",
    show_default=True,
    metavar="NAME",
    help=f"{', '.join(option_values(servers=True))}.",
)
@click.option(
    "--model", metavar="ID|FOLDER", help="Also check whether this model can be used there."
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def doctor(backend: str, model: str | None, as_json: bool) -> int:
    """Check this machine, the key, a server and a model there, and say what to fix.

    Each check is ok, a note or a problem. The exit code is that of the first problem: 4 for the
    key, 5 for the server, 1 for anything else.
    """
    console = stdout_console()
    checks = []
    for check in diagnose(*parse_server(backend), model):
        checks.append(check)
        if not as_json:
            console.print(_row(check))
    problems = [check for check in checks if check.state == "problem"]
    code = problems[0].exit_code if problems else 0
    if as_json:
        print_json({"checks": [_check_to_json(check) for check in checks], "exit_code": code})
    elif problems:
        say(
            f"\n{counted(len(problems), 'problem')}: " + ", ".join(check.name for check in problems)
        )
    else:
        say("\nno problems; next: remote-mi models --backend " + backend)
    return code


def _row(check: Check) -> Table:
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=len("problem"))
    row.add_column(width=_NAME_WIDTH)
    row.add_column(overflow="fold")
    details = Text(line(check.found))
    if check.advice and check.state != "ok":
        details.append(f"\n→ {line(check.advice)}", style="dim")
    row.add_row(Text(check.state, style=_STYLES[check.state]), Text(check.name), details)
    return row


def _check_to_json(check: Check) -> dict[str, object]:
    fields = asdict(check)
    if check.state != "problem":
        del fields["exit_code"]
    return fields

"""`remote-mi config`: show the settings in effect, and where each comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from remote_mi.backends.settings import FILE, Settings, load
from remote_mi.cli.output import print_json, say, stdout_console
from remote_mi.common.paths import cache_root, project_folder
from remote_mi.common.sizes import format_size
from remote_mi.common.text import line


@click.group()
def config() -> None:
    """Show the settings of a project."""


@config.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def show(as_json: bool) -> None:
    """Show the settings in effect, and where each comes from.

    That is `remote-mi.yaml`, an environment variable, or the default. The NDIF key is not a
    setting; `remote-mi doctor` reports whether there is one.
    """
    settings = load(project_folder())
    rows = list(_rows(settings))
    if as_json:
        print_json(
            {
                "file": str(settings.path) if settings.path else None,
                "settings": {
                    name: {"value": value, "from": origin} for name, value, origin in rows
                },
            }
        )
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", style="dim")
    for name, value, origin in rows:
        table.add_row(name, Text(line(_format_value(name, value))), Text(line(origin)))
    stdout_console().print(table)
    say(f"\nnext: {'change' if settings.path else 'write'} {project_folder() / FILE}")


def _rows(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """The name, value and origin of every setting."""
    for name, value, variable in (
        ("project", project_folder(), "REMOTE_MI_PROJECT"),
        ("cache", cache_root(), "REMOTE_MI_CACHE"),
    ):
        yield name, str(value), variable if os.environ.get(variable) else "default"
    for name in ("prefer", "hosts"):
        yield name, getattr(settings, name), settings.origin(name)
    for group in ("limits", "studies"):
        part = getattr(settings, group)
        for item in fields(part):
            name = f"{group}.{item.name}"
            yield name, getattr(part, item.name), settings.origin(name)


def _format_value(name: str, value: Any) -> str:
    if name == "hosts" and value is None:
        return "the personal server if it is running, and the one nnsight is configured for"
    if isinstance(value, tuple):
        return ", ".join(value)
    if name.startswith("limits."):
        return "none" if value is None else format_size(value)
    return str(value)

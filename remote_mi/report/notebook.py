"""Results in a notebook: the terminal's figures as HTML, by the same renderer."""

from __future__ import annotations

import io

from rich.console import Console

from remote_mi.report.terminal import show
from remote_mi.results import Result

_WIDTH = 110
_FRAME = (
    '<pre style="line-height:1.2;font-family:Menlo,Consolas,DejaVu Sans Mono,monospace;'
    'font-size:12px;overflow-x:auto">{code}</pre>'
)


def html(result: Result) -> str:
    """A result as one HTML element; all text is escaped, nothing is fetched."""
    console = Console(record=True, file=io.StringIO(), width=_WIDTH, force_terminal=True,
                      color_system="truecolor", legacy_windows=False)  # fmt: skip
    show(result, console)
    return console.export_html(inline_styles=True, code_format=_FRAME)

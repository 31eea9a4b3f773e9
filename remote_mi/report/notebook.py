"""HTML for notebooks: results, lists of runs, plans, and jobs on servers.

A result is rendered as in HTML reports, but without a script: cells are explained on hover. All
text is escaped, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from rich.console import Console

from remote_mi.common.console import capturing_console
from remote_mi.common.errors import RemoteMIError
from remote_mi.common.text import line, prose, visible
from remote_mi.jobs.dispatch.plan import Plan
from remote_mi.jobs.remote import RemoteJob
from remote_mi.recipes.figures import Figure
from remote_mi.report.document.html import figure_html, figure_style
from remote_mi.report.kinds.sentences import shorten
from remote_mi.report.summary import all_readings
from remote_mi.report.terminal import heading, select_figures
from remote_mi.report.wording import Slice, verdict_text
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

#: Maximum rows and columns of an array.
_MOST_ROWS, _MOST_COLUMNS = 40, 16
#: Width in characters of printed text in a notebook, and its HTML element.
_WIDTH = 110
_PRINTED = (
    '<pre style="line-height:1.2;font-family:Menlo,Consolas,DejaVu Sans Mono,monospace;'
    'font-size:12px;overflow-x:auto">{code}</pre>'
)
_PART = Markup("<p><b>{}</b></p>{}")
_ROW = Markup('<tr><th scope="row">{}</th><td>{}</td></tr>')


def printed_html(show: Callable[[Console], Any]) -> str:
    """What a function prints on a console, with its colours, as one HTML element."""
    console = capturing_console(_WIDTH, color=True, record=True)
    show(console)
    return console.export_html(inline_styles=True, code_format=_PRINTED)


def html(result: Result) -> str:
    """A result as one HTML element: heading, figures with what they say, notes."""
    head = [text.plain for text in heading(result)]
    parts = [Markup("<p><b>{}</b><br>{}</p>").format(head[0], " ".join(head[1:]))]
    if verdict := verdict_text(result):
        parts.append(Markup("<p><b>{}</b></p>").format(verdict))
    said = all_readings(result)
    for figure in select_figures(result, None):
        parts.append(_figure(figure, result))
        parts += [Markup("<p>→ {}</p>").format(text) for text in said.pop(figure.name, [])]
    parts += [Markup("<p>note: {}</p>").format(prose(note)) for note in result.notes]
    return _frame(Markup("").join(parts))


def array_html(array: NamedArray) -> str:
    """An array as a table of its last two dimensions, at the first coordinate of the others."""
    sizes = ", ".join(f"{dim}: {size}" for dim, size in zip(array.dims, array.shape, strict=True))
    title = f"{array.name} ({sizes})" if sizes else array.name
    part, cut = array, []
    while part.values.ndim > 2:
        cut.append(f"{part.dims[0]} {part.coords[part.dims[0]][0]}")
        part = part.isel(part.dims[0], 0)
    if cut:
        title += f", at {', '.join(cut)}; others: .sel({array.dims[0]}=…)"
    grid = part.values.reshape((-1, 1) if part.values.ndim < 2 else part.shape)
    down = _labels(part, 0) if part.dims else [""]
    across = _labels(part, 1) if part.values.ndim == 2 else ["value"]
    head = [" × ".join(part.dims), *_truncate(across, _MOST_COLUMNS)]
    rows = [
        [name, *_truncate([_cell_text(value) for value in row], _MOST_COLUMNS)]
        for name, row in zip(down[:_MOST_ROWS], grid, strict=False)
    ]
    if len(down) > _MOST_ROWS:
        rows.append([f"… {len(down) - _MOST_ROWS} more", *[""] * (len(head) - 1)])
    return table_html(title, head, rows)


def _labels(array: NamedArray, axis: int) -> list[str]:
    return [visible(str(label)) for label in array.coords[array.dims[axis]]]


def _truncate(texts: list[str], most: int) -> list[str]:
    """The first texts, and the number of the others."""
    return texts if len(texts) <= most else [*texts[:most], f"… {len(texts) - most} more"]


def _cell_text(value: Any) -> str:
    if not isinstance(value, (float, np.floating)):
        return shorten(line(str(value)))
    return f"{float(value):.4g}"


def table_html(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts with a title."""

    def row(cells: Sequence[str], cell: Markup) -> Markup:
        return Markup("<tr>{}</tr>").format(Markup("").join(cell.format(prose(c)) for c in cells))

    head = row(heads, Markup('<th scope="col">{}</th>'))
    body = Markup("").join(row(cells, Markup("<td>{}</td>")) for cells in rows)
    table = Markup(
        '<div class="scroll"><table class="plain"><thead>{}</thead><tbody>{}</tbody></table></div>'
    ).format(head, body)
    return _frame(_PART.format(prose(title), table))


def facts_html(title: str, facts: Mapping[str, str]) -> str:
    """Names and values as a small table with a title."""
    rows = Markup("").join(_ROW.format(prose(name), prose(value)) for name, value in facts.items())
    table = Markup('<table class="plain"><tbody>{}</tbody></table>').format(rows)
    return _frame(_PART.format(prose(title), table))


def job_html(job: RemoteJob) -> str:
    """A job on a server: where it is, its state, and its outcome."""
    if job.id is None:
        return facts_html("Job", {"state": "the result already existed"})
    entry = job.entry
    facts = {
        "server": entry.url,
        "state": f"{entry.state} {entry.status.lower()}",
        "run": entry.run or "",
        "error": str((entry.error or {}).get("message", "")),
    }
    title = f"Job {entry.id[:8]}: {entry.recipe}"
    return facts_html(title, {name: value for name, value in facts.items() if value})


def plan_html(plan: Plan) -> str:
    """A plan: every backend considered, and why it can or cannot run the job."""
    rows = [
        ["→" if o is plan.chosen else "·" if o.can else "✗", o.backend, o.why, o.hint]
        for o in plan.options
    ]
    return table_html(str(plan), ["", "backend", "why", "what would help"], rows)


def _figure(figure: Figure, result: Result) -> Markup:
    name = f"{line(figure.name)} [{line(figure.unit)}]" if figure.unit else line(figure.name)
    try:
        return _PART.format(name, Markup(figure_html(figure, result, Slice())))
    except RemoteMIError as error:
        return _PART.format(name, prose(error.message))


def _frame(content: Markup) -> str:
    style = Markup("<style>{}</style>").format(Markup(figure_style()))
    return str(Markup('<div class="rmi">{}{}</div>').format(style, content))

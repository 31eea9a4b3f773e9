"""A report as one HTML file: nothing is fetched, and all foreign text is escaped.

The page's `Content-Security-Policy` allows only the script and the style sheet of this package,
identified by their hashes, and no requests of any kind.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup, escape

from remote_mi.common.text import line, prose, visible
from remote_mi.recipes.figures import Figure
from remote_mi.report import colors
from remote_mi.report.document.across import NumberedComparison
from remote_mi.report.document.author_text import PLACES
from remote_mi.report.document.content import REPRODUCTION_NOTE, NumberedFigure, Report, overview
from remote_mi.report.document.run_facts import computation_facts, summary_line
from remote_mi.report.kinds.registry import kind_of, kinds, lay_out
from remote_mi.report.markup import PagePlace, environment, read_asset
from remote_mi.report.slices import cut_dims
from remote_mi.report.study.claims import MEANING
from remote_mi.report.wording import Slice
from remote_mi.store.result import Result

#: Symbol of a space instead of "␠", which fewer fonts have.
SPACE = "␣"
#: Maximum number of cells in a page for the initially hidden prompts of figures of one prompt.
MOST_OTHERS = 12_000
#: Maximum number of embedded numbers for the slices of one figure, and of all figures of a page.
MOST_SLICED, MOST_SLICED_IN_ALL = 120_000, 600_000
_LONGEST_OPTION = 70
_CONTENTS = {
    "question": "Question",
    "claims": "Claims",
    "model": "Model",
    "method": "Method",
    "data": "Data",
    "results": "Results",
    "controls": "Controls and limits",
    "discussion": "Discussion",
    "reproduction": "Reproduction",
    "environment": "Environment",
    "references": "References",
}


def html(report: Report, written: Mapping[str, str] | None = None) -> str:
    """A report as an HTML document.

    Args:
        written: the author's text, section (see `remote_mi.report.document.author_text`) →
            Markdown; missing sections are marked in the page.
    """
    style, script = figure_style() + read_asset("page.css"), read_asset("report.js")
    rows = overview(report)
    data = [
        {**vars(d), "caption": d.caption, "pairs": any(e.get("corrupt") for e in d.examples)}
        for d in report.data
    ]
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            report={**_fields(report), "data": data},
            contents=[
                (k, v)
                for k, v in _CONTENTS.items()
                if {"references": report.references, "claims": report.about.claims}.get(k, True)
            ],
            overview=rows,
            any_differs=any(row["differs"] for row in rows),
            intervals=report.intervals,
            claims_meaning=MEANING,
            how=REPRODUCTION_NOTE,
            others=_other_prompts(report),
            numbers=_numbers_per_figure(report),
            written={name: _markdown(text) for name, text in (written or {}).items()},
            places=PLACES,
            style=style,
            script=script,
            style_hash=_hash(style),
            script_hash=_hash(script),
        )
    )
    return page.replace("␠", SPACE)


def _numbers_per_figure(report: Report) -> int:
    """How many numbers a figure may embed so that its reader can choose a slice."""
    sliced = sum(
        kind_of(shown.figure).sliced and bool(cut_dims(shown.figure, s.result))
        for s in report.sections
        for shown in s.shown
    )
    return min(MOST_SLICED, MOST_SLICED_IN_ALL // max(1, sliced))


def _other_prompts(report: Report) -> dict[int, list[dict[str, Any]]]:
    """Number of a figure of one prompt → its markup for other prompts, as many as fit."""
    figures = [(s.result, shown) for s in report.sections for shown in s.shown if shown.prompts > 1]
    markup_of: dict[int, list[dict[str, Any]]] = {}
    for result, shown in figures:
        left, markup_of[shown.number] = MOST_OTHERS // len(figures), []
        for item in range(shown.prompts):
            if item == shown.slice_.item:
                continue
            left -= int(np.prod(result.each(shown.figure.output)[item].shape[:-1]))
            if left < 0:
                break
            kind, layout = lay_out(shown.figure, result, replace(shown.slice_, item=item))
            markup = kind.html(layout, PagePlace(script=True))
            markup_of[shown.number].append({"markup": markup, "item": item})
    return markup_of


def figure_html(figure: Figure, result: Result, slice_: Slice) -> str:
    """One figure as markup without a script: cells are explained by their titles on hover.

    It needs `figure_style` and a parent with the class `rmi`.
    """
    kind, layout = lay_out(figure, result, slice_)
    return str(kind.html(layout, PagePlace())).replace("␠", SPACE)


def figure_style() -> str:
    """The style sheet of figures."""
    styles = dict.fromkeys(kind.style() for kind in kinds().values())  # some kinds share a style
    return read_asset("figures.css") + "".join(styles) + _levels()


@functools.cache
def _levels() -> str:
    return colors.css_rules() + "\n"


@functools.cache
def _environment() -> Environment:
    return environment(
        oneline=line,
        prose=prose,
        visible=_visible,
        code_spans=_code_spans,
        breakable=_breakable,
        rendered=_render_figure,
        computation_facts=_computation_facts,
        summary_line=summary_line,
        option=_option,
    )


def _fields(report: Report) -> dict[str, Any]:
    return {**vars(report), "notes": report.notes}


def _option(clean: str) -> str:
    """A prompt as an entry of a menu."""
    text = line(clean)
    return text if len(text) <= _LONGEST_OPTION else text[: _LONGEST_OPTION - 1] + "…"


def _render_figure(
    shown: NumberedFigure | NumberedComparison, result: Result, numbers: int
) -> dict[str, Any]:
    """The markup of a figure, and the dimensions without a choice of slices."""
    assert shown.figure is not None
    kind, layout = lay_out(shown.figure, result, shown.slice_)
    place = PagePlace(f"f{shown.number}", script=True, numbers=numbers, titles=0)
    return {"markup": kind.html(layout, place), "cut": kind.fixed_dims(layout, place)}


def _computation_facts(result: Result) -> list[tuple[str, str]]:
    return list(computation_facts(result).items())


def _visible(text: str | None) -> str:
    return visible(text) if text else ""


def _code_spans(text: str) -> Markup:
    """A sentence whose `names` between backticks become code."""
    parts = prose(text).split("`")
    if len(parts) % 2 == 0:
        return escape(prose(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def _breakable(command: str) -> Markup:
    """A command that may be wrapped before an option, but not within one."""
    groups: list[list[str]] = [[]]
    for word in shlex.split(command):
        if word.startswith("-"):
            groups.append([])
        groups[-1].append(word)
    return Markup(" ").join(
        Markup('<span class="word">{}</span>').format(shlex.join(group))
        for group in groups
        if group
    )


def _markdown(text: str) -> Markup:
    """What the author wrote, as HTML; HTML in it is shown as text, and images stay links."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return Markup(reader.render(text))


def _hash(text: str) -> str:
    """Base64 of the SHA-256, by which a policy identifies a script or style sheet."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

"""Texts, one after the other: generated tokens, or texts and JSON values of a recipe."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from rich.text import Text as Line

from remote_mi.common.text import line
from remote_mi.recipes.figures import Text
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.report.kinds.kind import Kind, Layout
from remote_mi.report.kinds.sentences import MOST, coords_only, shorten
from remote_mi.report.markup import PagePlace, render_figure
from remote_mi.report.slices import ShownExample, select_example
from remote_mi.report.values import value_text
from remote_mi.report.wording import Slice, place_text
from remote_mi.store.result import Result

_EMPTY = "∅"


@dataclass(frozen=True)
class TextLayout(Layout):
    """The texts of one prompt.

    Attributes:
        shown: the texts, or token ids whose last dimension is that of a text.
    """

    figure: Text
    shown: ShownExample

    @functools.cached_property
    def texts(self) -> list[tuple[str, str]]:
        """(name, text) of each text, safe to show; the name is "" for a single one."""
        array, output = self.shown.array, self.result.outputs[self.figure.output]
        kind = kind_of_output(output).name
        dims = array.dims if kind in ("text", "json") else array.dims[:-1]
        lead, found = coords_only(array, dims), []
        for index in np.ndindex(*array.shape[: len(dims)]):
            if len(dims) == len(array.dims):
                text = value_text(self.result, kind, array.values[index])
            else:
                text = line(self.result.passage(array.values[index])) or _EMPTY
            found.append((place_text(lead, index), text))
        return found


class TextKind(Kind[Text, TextLayout]):
    """Texts, one line for each index of the leading dimensions."""

    prompts_shown = "one"
    joined = True
    captioned = False

    def layout(self, figure: Text, result: Result, slice_: Slice) -> TextLayout:
        return TextLayout(figure, result, slice_, select_example(figure.output, result, slice_))

    def text(self, layout: TextLayout, width: int) -> Iterator[Line]:
        if layout.shown.label:
            yield Line(f" {layout.shown.label}")
        for name, text in layout.texts:
            yield Line(f" {name + ': ' if name else ''}{text}")

    def sentences(self, layout: TextLayout) -> Iterator[str]:
        shown = layout.shown
        if shown.count > 1:
            yield f"Prompt {shown.index + 1} of {shown.count}: “{shorten(shown.clean)}”."
        for name, text in layout.texts[:MOST]:
            yield f"{name + ': ' if name else ''}{'nothing' if text == _EMPTY else shorten(text)}"
        if len(layout.texts) > MOST:
            yield f"And {len(layout.texts) - MOST} more texts."

    def html(self, layout: TextLayout, place: PagePlace) -> Markup:
        rows = [{"label": name, "text": text} for name, text in layout.texts]
        return render_figure(
            "texts.html.j2", layout.figure, place, prompt=layout.shown.title, rows=rows
        )

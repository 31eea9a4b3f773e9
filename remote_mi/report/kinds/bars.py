"""Bars: the cells of largest absolute value, ranked, with their intervals."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from remote_mi.common.errors import NotFound
from remote_mi.common.text import line, pad_or_cut
from remote_mi.recipes.figures import Bars
from remote_mi.report.drawing import note_marks, value_label
from remote_mi.report.kinds.kind import Kind, Layout
from remote_mi.report.kinds.sentences import map_sentences
from remote_mi.report.listing import Item, Listing, make_listing
from remote_mi.report.markup import PagePlace, read_asset, render_figure
from remote_mi.report.readings.columns import ranked_places
from remote_mi.report.readings.reading import map_reading
from remote_mi.report.readings.told import Told
from remote_mi.report.slices import FigurePart, select_part
from remote_mi.report.wording import EXPLAINED, Slice, format_amount
from remote_mi.store.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from remote_mi.report.text_fitting import Pen

_BAR, _LONGEST_BAR = 16, 48
#: Maximum number of bars in the viewer.
_MOST_LISTED = 500
_NOTHING = "no values to rank"


@dataclass(frozen=True)
class Bar:
    """One ranked cell.

    Attributes:
        at: its index. name: its place.
        value, ends: the number, and the ends of its interval, None without one.
        marked: whether it is not distinguishable from its control. grey: whether it has no colour.
        value_text: the number with interval and control. cell_text: the same after its place.
    """

    at: tuple[int, ...]
    name: str
    value: float
    ends: tuple[float, float] | None
    marked: bool
    grey: bool
    value_text: str
    cell_text: str


@dataclass(frozen=True)
class BarsLayout(Layout):
    """The values to rank.

    Attributes:
        part: what is shown.
    """

    figure: Bars
    part: FigurePart

    @functools.cached_property
    def bars(self) -> list[Bar]:
        """The cells of largest absolute value, largest first; the layers of a reading once."""
        array, found = self.part.array, []
        for at, name in ranked_places(self.told, self.figure.most):
            ends = None
            if array.low is not None and array.high is not None:
                ends = float(array.low[at]), float(array.high[at])
            found.append(
                Bar(
                    at,
                    name or line(self.figure.output),
                    float(array.values[at]),
                    ends,
                    bool(self.part.marked[at]),
                    bool(self.part.grey[at]),
                    self.part.describe_value(at),
                    self.part.describe_cell(at),
                )
            )
        return found

    @property
    def told(self) -> Told:
        """What may be said of them."""
        return Told(self.part, self.result, self.slice_)

    @property
    def marked(self) -> bool:
        """Whether any bar is explained by its control."""
        return any(bar.marked for bar in self.bars)


class BarsKind(Kind[Bars, BarsLayout]):
    """Ranked bars."""

    numeric = True

    def layout(self, figure: Bars, result: Result, slice_: Slice) -> BarsLayout:
        return BarsLayout(figure, result, slice_, select_part(figure, result, slice_))

    def text(self, layout: BarsLayout, width: int) -> Iterator[Text]:
        bars = layout.bars
        if not bars:
            yield Text(f" {_NOTHING}", style="dim")
            return
        reach = max(abs(x) for x in layout.slice_.limits or [bar.value for bar in bars]) or 1.0
        left = min(max(cell_len(bar.name) for bar in bars), width // 2)
        ends = any(bar.ends for bar in bars)
        long = max(_BAR, min(_LONGEST_BAR, width - left - 11 - (18 if ends else 0)))
        for bar in bars:
            sign = EXPLAINED if bar.marked else " "
            text = Text(f"{sign}{pad_or_cut(bar.name, left)} {bar.value:+7.2f} ")
            text.append(
                pad_or_cut("█" * min(long, round(abs(bar.value) / reach * long)), long),
                _bar_style(bar),
            )
            if bar.ends:
                text.append(f" [{bar.ends[0]:+.2f}, {bar.ends[1]:+.2f}]", "dim")
            yield text
        if layout.part.mark_note:
            yield Text(f"   {layout.part.mark_note}", style="dim")

    def sentences(self, layout: BarsLayout) -> Iterator[str]:
        yield from map_sentences(layout.told, 0.0)

    def readings(self, layout: BarsLayout) -> Iterator[str]:
        return map_reading(layout.told)

    def html(self, layout: BarsLayout, place: PagePlace) -> Markup:
        figure = layout.figure
        if not layout.bars:  # the page's other figures can still be shown
            rows = [{"label": line(figure.output), "text": _NOTHING}]
            return render_figure("texts.html.j2", figure, place, rows=rows)
        ends = [x for bar in layout.bars for x in (bar.value, *(bar.ends or ()))]
        low, high = min(0.0, *ends), max(0.0, *ends)
        span = (high - low) or 1.0

        def share(value: float) -> float:
            return round(100 * (value - low) / span, 2)

        return render_figure(
            "bars.html.j2",
            figure,
            place,
            rows=[_row(bar, share) for bar in layout.bars],
            zero=share(0.0),
            output=line(figure.output),
            intervals=layout.part.array.low is not None,
            marked=layout.marked,
            mark_legend=layout.part.mark_legend,
        )

    def style(self) -> str:
        return read_asset("bars.css")

    def size(self, layout: BarsLayout) -> tuple[float, float]:
        return 5.2, 0.9 + 0.24 * len(layout.bars)

    def draw(self, layout: BarsLayout, axes: Axes, pen: Pen) -> None:
        if not layout.bars:
            raise NotFound(f"{layout.figure.output!r} has {_NOTHING}")
        for place, bar in enumerate(layout.bars):
            colour = "#c8c8ce" if bar.grey else "#c25e00" if bar.value > 0 else "#145ac8"
            drawn = axes.barh(
                place,
                bar.value,
                0.7,
                color=colour,
                hatch="////" if bar.marked else None,
                edgecolor="white",
                linewidth=0,
            )
            drawn.patches[0].set_gid(f"bar:{place}:{bar.value:.6g}")
            if bar.ends:
                low, high = bar.ends
                whisker: Any = axes.errorbar(
                    bar.value,
                    place,
                    xerr=[[max(0.0, bar.value - low)], [max(0.0, high - bar.value)]],
                    color="black",
                    linewidth=0.8,
                    capsize=2,
                )
                whisker[2][0].set_gid(f"interval:{place}:{low:.6g}:{high:.6g}")
        names = [pen.fit(bar.name, 190, 7) for bar in layout.bars]
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_xlabel(value_label(layout.figure, pen))
        if layout.marked:
            note_marks(axes, "hatched:", layout.part)

    def listing(
        self, layout: BarsLayout, width: int, height: int, at: tuple[int, int] | None = None
    ) -> Listing:
        most = min(layout.part.array.values.size, _MOST_LISTED)
        layout = replace(layout, figure=replace(layout.figure, most=most))
        drawn = list(self.text(layout, width))
        # The legend of the marks is below the last bar, which may be far down.
        foot = tuple(text.plain.strip() for text in drawn[len(layout.bars) :])
        items = [Item((bar.cell_text, *foot), search_text=bar.name) for bar in layout.bars] or [
            Item()
        ]
        return make_listing(list(zip(drawn, items, strict=False)))


def _bar_style(bar: Bar) -> Style:
    if bar.grey:
        return Style(dim=True)
    return Style(color="orange1" if bar.value > 0 else "dodger_blue1")


def _row(bar: Bar, share: Any) -> dict[str, Any]:
    """The template's data of a bar; positions are percentages of the width."""
    zero, end = share(0.0), share(bar.value)
    row = {
        "label": bar.name,
        "value": format_amount(bar.value),
        "x": min(zero, end),
        "width": round(abs(end - zero), 2),
        "css": "x" if bar.grey else "up" if bar.value > 0 else "down",
        "mark": EXPLAINED if bar.marked else "",
        "title": bar.value_text,
    }
    if bar.ends:
        low, high = bar.ends
        row.update(
            low=share(low),
            high=share(high),
            interval=f"[{format_amount(low)}, {format_amount(high)}]",
        )
    return row

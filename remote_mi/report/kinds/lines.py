"""Lines: values along one dimension, with intervals and the band of their control."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from rich.cells import cell_len
from rich.text import Text

from remote_mi.common.text import line, pad_or_cut
from remote_mi.recipes.figures import Lines
from remote_mi.report.drawing import LABEL, note_marks, value_label
from remote_mi.report.kinds.curves import LETTERS, Curves, curves
from remote_mi.report.kinds.kind import Kind
from remote_mi.report.kinds.plot import HEIGHT, plot
from remote_mi.report.kinds.sentences import MOST, control_sentence, coords_only
from remote_mi.report.listing import Item, Listing
from remote_mi.report.markup import PagePlace, read_asset, render_figure
from remote_mi.report.readings.courses import course_reading
from remote_mi.report.wording import EXPLAINED, Slice, format_amount, place_text
from remote_mi.store.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from remote_mi.report.text_fitting import Pen

#: Okabe & Ito's colour-blind-safe colours; each line also has its own dash pattern.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7a6a00")
_DASHES: tuple[Any, ...] = (
    *("-", "--", ":", "-."),
    *((0, (8, 3)), (0, (4, 1)), (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2))),
)
#: Width, height and margins of the drawing in a page.
_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 10, 34
#: The viewer's lines of text around the field of values: axis, tick labels, band, which lines are
#: shown, heading; and the minimum number of lines of the field.
_BESIDE, _LEAST = 5, 4


class LinesKind(Kind[Lines, Curves]):
    """Values along one dimension."""

    numeric = True

    def layout(self, figure: Lines, result: Result, slice_: Slice) -> Curves:
        return curves(figure, result, slice_)

    def text(self, layout: Curves, width: int) -> Iterator[Text]:
        if layout.part.cut_text:
            yield Text(f" at {layout.part.cut_text} (`view --at`)", style="dim")
        yield from plot(layout, width)
        for letter, number in zip(LETTERS, layout.drawn, strict=False):
            row = layout.rows[number]
            if np.isfinite(row).any():
                point = int(np.nanargmax(np.abs(row)))
                sign = EXPLAINED if layout.marked[number, point] else " "
                yield Text(f" {letter}{sign} largest: {layout.describe_point(number, point)}")
        if layout.part.mark_note:
            yield Text(f"   {layout.part.mark_note}", style="dim")

    def sentences(self, layout: Curves) -> Iterator[str]:
        if layout.part.cut_text:
            yield f"Shown at {layout.part.cut_text}."
        described = _most_prominent(layout)
        if layout.part.untested:
            yield f"Nothing is claimed of {layout.told.name}: {layout.part.untested}."
        for at in described:
            yield from _describe_line(layout, at)
        more = len(layout.rows) - len(described)
        if more:
            yield (
                f"The other {more} lines stand out less."
                if more > 1
                else "The other stands out less."
            )
        yield from control_sentence(layout.part)

    def readings(self, layout: Curves) -> Iterator[str]:
        for at in _most_prominent(layout):
            yield from course_reading(layout.told, at, layout.name(at))

    def html(self, layout: Curves, place: PagePlace) -> Markup:
        finite = layout.finite
        if not finite.size:  # the page's other figures can still be shown
            rows = [{"label": line(layout.figure.output), "text": "no values to draw"}]
            return render_figure("texts.html.j2", layout.figure, place, rows=rows)
        x = layout.x
        frame = _Frame(x, min(0.0, float(finite.min())), max(0.0, float(finite.max())))
        return render_figure(
            "lines.html.j2",
            layout.figure,
            place,
            lines=[
                _page_line(layout, frame, place, number)
                for place, number in enumerate(layout.drawn)
            ],
            width=_WIDTH,
            height=_HEIGHT,
            cut_text=layout.part.cut_text,
            left=_LEFT,
            bottom=_HEIGHT - _BOTTOM,
            zero=frame.y_pixel(0.0),
            x_name=layout.x_name,
            y_ticks=[{"y": frame.y_pixel(t), "text": f"{t:g}"} for t in frame.ticks],
            x_ticks=[
                {"x": frame.x_pixel(x[j]), "text": layout.labels[j]} for j in _thin_out(len(x))
            ],
            control=frame.outline(x, *layout.reach) if layout.reach else "",
            left_out=layout.left_out,
            marked=bool(layout.marked[layout.drawn].any()),
            mark_legend=layout.part.mark_legend,
        )

    def style(self) -> str:
        return read_asset("lines.css")

    def draw(self, layout: Curves, axes: Axes, pen: Pen) -> None:
        x, part = layout.x, layout.part
        if layout.reach is not None:
            axes.fill_between(
                x,
                *layout.reach,
                color="#9a9aa2",
                alpha=0.3,
                linewidth=0,
                label="range of the control",
            ).set_gid("control:")
        for index, number in enumerate(layout.drawn):
            _draw_line(layout, axes, pen, index, number)
        step = max(1, -(-len(x) // 16))
        names = [pen.label(label, LABEL, 7) for label in layout.labels[::step]]
        turned = any(len(text) > 4 for text in names)
        axes.set_xticks(x[::step], names, rotation=90 if turned else 0)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_xlabel(pen.label(layout.x_name, 200, 8))
        axes.set_ylabel(value_label(layout.figure, pen))
        if layout.marked[layout.drawn].any():
            note_marks(axes, "hollow:", layout.part)
        notes = [f"at {part.cut_text}" if part.cut_text else "", layout.left_out]
        if any(notes):
            axes.set_title(pen.fit("; ".join(filter(None, notes)), 300, 8))
        if (
            len(layout.drawn) > 1 or layout.reach is not None
        ):  # next to the axes, where it covers nothing
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))

    def points(self, layout: Curves) -> Curves:
        return layout

    def listing(
        self, layout: Curves, width: int, height: int, at: tuple[int, int] | None = None
    ) -> Listing:
        """The plot as a fixed heading, and a line of text for each of its lines."""
        if not layout.rows.size:
            return Listing(0, lambda index: Text(), empty="no values to draw")
        line, point = at or layout.ranked[0]
        many = len(layout.rows)
        listed = min(many, len(LETTERS), max(_LEAST, height // 4))
        room = max(_LEAST, min(2 * HEIGHT, height - listed - _BESIDE))
        names = [layout.name(i) or layout.figure.output for i in range(many)]
        left = min(max(map(cell_len, names)), width // 3)
        foot = layout.part.mark_note
        letters = dict(zip(layout.around(line), LETTERS, strict=False))

        def shown(i: int) -> Text:
            sign = EXPLAINED if layout.marked[i, point] else " "
            name = pad_or_cut(names[i], left)
            value = layout.describe_value(i, point)
            return Text(f" {letters.get(i, ' ')}{sign}{name}  {value}", no_wrap=True)

        def item(i: int) -> Item:
            description = layout.describe_point(i, point)
            return Item((description, foot) if foot else (description,), search_text=names[i])

        head = list(plot(layout, width, room, (line, point)))
        choose = f" at {layout.x_name} {layout.labels[point]} (← → choose another):"
        head.append(Text(choose, "bold", no_wrap=True))
        return Listing(many, shown, item, head, line)


def _most_prominent(layout: Curves) -> list[int]:
    """The lines to describe."""
    return list(dict.fromkeys([*(at for at, _ in layout.ranked), *layout.drawn]))[:MOST]


def _describe_line(layout: Curves, line: int) -> Iterator[str]:
    """The course of one line: its ends, and what is told of it, or its largest value."""
    array, row = layout.array, layout.rows[line]
    head = f"{layout.name(line)}: " if layout.name(line) else ""
    known = np.flatnonzero(np.isfinite(row))
    if not known.size:
        yield f"{head}no values."
        return
    points = coords_only(array, array.dims[-1:])
    first, last = int(known[0]), int(known[-1])
    unit = f" {layout.part.unit}" if layout.part.unit else ""
    yield (
        f"{head}{array.name} goes from {format_amount(row[first])} ({place_text(points, (first,))})"
        f" to {format_amount(row[last])}{unit} ({place_text(points, (last,))})."
    )
    told = layout.told
    reading = list(course_reading(told, line, layout.name(line)))
    if not np.atleast_2d(told.sized)[line].any():
        reading = [f"{head}It is 0 up to rounding."]
    elif not reading and not told.controlled and array.low is None:
        best = int(np.abs(np.nan_to_num(row)).argmax())
        place = place_text(points, (best,))
        reading = [f"{head}Largest at {place}: {layout.describe_value(line, best)}."]
    elif not reading and not layout.part.untested:
        why = "is told from its control" if told.controlled else "has an interval without 0"
        reading = [f"{head}No {told.name} {why}."]
    yield from reading
    sure = np.flatnonzero(layout.cells[line])  # others have random signs
    turns = np.flatnonzero(np.sign(row[sure[:-1]]) * np.sign(row[sure[1:]]) < 0)
    if turns.size:
        at = [
            f"{place_text(points, (sure[i],))} and {place_text(points, (sure[i + 1],))}"
            for i in turns
        ]
        more = f", and {len(at) - MOST} times more" if len(at) > MOST else ""
        yield f"{head}It changes sign between {', '.join(at[:MOST])}{more}."


def _draw_line(layout: Curves, axes: Axes, pen: Pen, index: int, number: int) -> None:
    """Draw a line with its interval and points, hollow if the control explains them."""
    x, values, free = layout.x, layout.rows[number], ~layout.marked[number]
    name, colour = layout.name(number), _COLOURS[index]
    shown = f"{LETTERS[index]} {name}" if name else line(layout.figure.output)
    (drawn,) = axes.plot(
        x,
        values,
        color=colour,
        linestyle=_DASHES[index],
        linewidth=1.4,
        label=pen.fit(shown, 150, 7),
    )
    drawn.set_gid(f"line:{index}:" + ",".join(f"{v:.6g}" for v in values))
    for filled, chosen in ((True, free), (False, ~free)):
        axes.plot(
            x[chosen],
            values[chosen],
            "o",
            markersize=3,
            color=colour,
            markerfacecolor=colour if filled else "white",
        )
    ends = layout.interval(number)
    if ends is not None:
        faint = 0.18 if len(layout.drawn) <= 3 else 0.07  # overlapping bands
        axes.fill_between(x, *ends, color=colour, alpha=faint, linewidth=0).set_gid(
            f"band:{index}:"
        )


class _Frame:
    """Maps values to positions in the drawing of a page."""

    def __init__(self, x: np.ndarray, low: float, high: float) -> None:
        self.x_ends = float(x.min()), float(x.max())
        self.ticks = _ticks(low, high)
        self.y_ends = min(low, self.ticks[0]), max(high, self.ticks[-1])

    def x_pixel(self, x: float) -> float:
        low, high = self.x_ends
        share = (x - low) / (high - low) if high > low else 0.5
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y_pixel(self, y: float) -> float:
        low, high = self.y_ends
        return round(_TOP + (high - y) / ((high - low) or 1.0) * (_HEIGHT - _TOP - _BOTTOM), 1)

    def outline(self, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
        """The outline of a band along the lines, where it is known."""
        known = [j for j in range(len(x)) if np.isfinite(low[j]) and np.isfinite(high[j])]
        top = [f"{self.x_pixel(x[j])},{self.y_pixel(float(high[j]))}" for j in known]
        bottom = [f"{self.x_pixel(x[j])},{self.y_pixel(float(low[j]))}" for j in reversed(known)]
        return " ".join(top + bottom)


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that cover a range."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    step = 10.0 ** np.floor(np.log10((high - low) / about))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= about)
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    return [round(float(i * step), 12) for i in range(first, last + 1)]


def _page_line(layout: Curves, frame: _Frame, place: int, number: int) -> dict[str, Any]:
    """The template's data of a line: its paths, points, and the band of its interval."""
    points = [
        {
            "at": j,
            "x": frame.x_pixel(layout.x[j]),
            "y": frame.y_pixel(float(layout.rows[number, j])),
            "marked": bool(layout.marked[number, j]),
            "title": f"{place_text(layout.array, layout.index(number, j))}: "
            f"{layout.describe_value(number, j)}",
        }
        for j in range(len(layout.x))
        if np.isfinite(layout.rows[number, j])
    ]
    ends = layout.interval(number)
    return {
        "letter": LETTERS[place],
        "css": f"l{place}",
        "points": points,
        "name": layout.name(number),
        "paths": _paths(points),
        "band": "" if ends is None else frame.outline(layout.x, *ends),
    }


def _paths(points: list[dict[str, Any]]) -> list[str]:
    """Polylines through the points, interrupted where a point is missing."""
    joined: list[list[str]] = []
    for before, point in zip([None, *points], points, strict=False):
        if before is None or point["at"] != before["at"] + 1:
            joined.append([])
        joined[-1].append(f"{point['x']},{point['y']}")
    return [" ".join(places) for places in joined]


def _thin_out(count: int, most: int = 10) -> list[int]:
    step = max(1, -(-count // most))
    return list(range(0, count, step))

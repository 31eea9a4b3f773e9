"""Every figure in words: for reports, for screen readers, and for those in a hurry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from remote_mi.common.errors import NotFound
from remote_mi.common.text import line, visible
from remote_mi.recipes import figures
from remote_mi.recipes.figures import Figure
from remote_mi.report.kinds.lines import Curves, curves
from remote_mi.report.slices import Shown, shown
from remote_mi.report.wording import EXPLAINED, Slice, amount, where
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result

ALL = Slice()
_MOST = 3
#: Lines that are told, those that stand out most.
_MOST_LINES = 3
_MOST_TEXTS = 3
_LONGEST_TEXT = 120


def summary(figure: Figure, result: Result, slice_: Slice = ALL) -> list[str]:
    """What a figure shows, as plain sentences; text of the model in them is made harmless.

    Args:
        slice_: which part of the arrays is shown.

    Raises:
        NotFound, UsageError: as the renderers, if the figure does not fit what it is to show.
    """
    writers: dict[type[Figure], Callable[..., Iterator[str]]] = {
        figures.Heatmap: _heatmap,
        figures.TokenGrid: _token_grid,
        figures.Bars: _bars,
        figures.Table: _table,
        figures.Lines: _lines,
        figures.Text: _text,
    }
    return list(writers[type(figure)](figure, result, slice_))


def headline(result: Result) -> str:
    """The largest value of the first figure of numbers, in a few words; "" if there is none."""
    for figure in result.figures:
        if figure.output not in result.arrays or isinstance(figure, figures.TokenGrid):
            continue
        array = result[figure.output]
        output = result.outputs.get(figure.output)
        if (output and output.kind == "token") or not np.isfinite(array.values).any():
            continue
        center = getattr(figure, "center", None) or 0.0
        size = np.where(np.isfinite(array.values), np.abs(array.values - center), -1.0)
        explained = result.explained(array.name)
        free = size if explained is None else np.where(explained, -1.0, size)
        best = (free if (free > 0).any() else size).argmax()
        at = np.unravel_index(int(best), array.shape)
        place = where(array, at)
        return f"{figure.output} {amount(array.values[at])}{' at ' + place if place else ''}"
    return ""


def _heatmap(figure: figures.Heatmap, result: Result, slice_: Slice) -> Iterator[str]:
    part = shown(figure, result, slice_)
    full, center = part.full, figure.center or 0.0
    if part.taken and np.isfinite(full.values).any():
        at = np.unravel_index(int(np.nanargmax(np.abs(full.values - center))), full.shape)
        yield (
            f"Shown at {part.taken}; the largest of all is at {where(full, at)}: "
            f"{amount(full.values[at])}."
        )
    yield from _largest(part, center)


def _bars(figure: figures.Bars, result: Result, slice_: Slice) -> Iterator[str]:
    yield from _largest(shown(figure, result, slice_), 0.0)


def _largest(part: Shown, center: float) -> Iterator[str]:
    """Where the largest values are, those first that no control explains; then the range."""
    array, marked = part.array, part.marked
    values = array.values
    finite = np.isfinite(values)
    if not finite.any():
        yield f"{array.name} has no values."
        return
    if not values.ndim:
        yield f"{part.said(())}{', no larger than its control or not told from 0' if marked else ''}."
        return
    distance = np.where(finite, np.abs(values - center), -1.0)
    order = np.lexsort((-distance.reshape(-1), marked.reshape(-1)))  # unmarked first, by size
    best = [np.unravel_index(int(i), values.shape) for i in order[:_MOST]]
    best = [at for at in best if distance[at] > 0]
    if not best:
        yield f"Every {array.name} is {amount(center)}."
        return
    count = f" (n={part.count})" if part.count else ""
    parts = [part.value(at) + (" (explained by its control)" if marked[at] else "") for at in best]
    yield f"Largest {array.name}{count}: {'; '.join(parts)}."
    low, high = float(values[finite].min()), float(values[finite].max())
    missing = values.size - int(finite.sum())
    known = f"The other {finite.sum()}" if missing else f"All {values.size}"
    yield (
        (f"{missing} of {values.size} cells have no value. " if missing else "")
        + f"{known} cells lie between {amount(low)} and {amount(high)}."
    )
    yield from _explained(part)


def _explained(part: Shown) -> Iterator[str]:
    """How many cells are marked, and as what; nothing where there is no control."""
    if part.control is not None:
        many = int(part.marked.sum())
        yield (
            f"Control: {many} of {part.marked.size} (marked {EXPLAINED}) "
            f"{'is' if many == 1 else 'are'} no larger than {part.controlled_by}, "
            "or not told from 0."
        )


def _lines(figure: figures.Lines, result: Result, slice_: Slice) -> Iterator[str]:
    found = curves(figure, result, slice_)
    if found.part.taken:
        yield f"Shown at {found.part.taken}."
    told = list(dict.fromkeys([*(at for at, _ in found.ranked), *found.drawn]))[:_MOST_LINES]
    for at in told:
        yield from _course(found, at)
    more = len(found.rows) - len(told)
    if more:
        yield (
            f"The other {more} lines stand out less." if more > 1 else "The other stands out less."
        )
    yield from _explained(found.part)


def _course(found: Curves, line: int) -> Iterator[str]:
    """How one line goes: from where to where, its largest value, where it changes sign."""
    array, row, marked = found.array, found.rows[line], found.marked[line]
    head = f"{found.name(line)}: " if found.name(line) else ""
    known = np.flatnonzero(np.isfinite(row))
    if not known.size:
        yield f"{head}no values."
        return
    points = _part(array, array.dims[-1:])
    first, last = int(known[0]), int(known[-1])
    change = row[last] - row[first]
    verb = "rises" if change > 0 else "falls" if change < 0 else "goes"
    unit = f" {found.part.unit}" if found.part.unit else ""
    free = np.where(marked, -1.0, np.abs(np.nan_to_num(row)))
    best = int((free if (free > 0).any() else np.abs(np.nan_to_num(row))).argmax())
    said = (
        f"{head}{array.name} {verb} from {amount(row[first])} ({where(points, (first,))}) "
        f"to {amount(row[last])}{unit} ({where(points, (last,))}); "
        f"largest at {where(points, (best,))}: {found.said(line, best)}"
    )
    sure = np.flatnonzero(np.isfinite(row) & ~marked)  # a sign that chance gives changes by chance
    turns = np.flatnonzero(np.sign(row[sure[:-1]]) * np.sign(row[sure[1:]]) < 0)
    if turns.size:
        at = [f"{where(points, (sure[i],))} and {where(points, (sure[i + 1],))}" for i in turns]
        more = f", and {len(at) - _MOST} times more" if len(at) > _MOST else ""
        said += f"; changes sign between {', '.join(at[:_MOST])}{more}"
    yield f"{said}."


def _part(array: NamedArray, dims: tuple[str, ...]) -> NamedArray:
    """Some dimensions of an array, to name their coordinates; without values."""
    return NamedArray(np.zeros(()), dims, array.coords, name=array.name)


def _token_grid(figure: figures.TokenGrid, result: Result, slice_: Slice) -> Iterator[str]:
    tokens, shown = _example(figure.output, result, slice_)
    if shown:
        yield shown
    top = tokens.values[..., 0]
    shade = result.each(figure.shade)[slice_.item].values[..., 0] if figure.shade else None
    final, rows = top[-1, -1], tokens.dims[0]
    if final < 0:
        yield f"The last {rows} gives no token at the last position: its scores are no numbers."
        return
    others = np.flatnonzero(top[:, -1] != final)
    since = int(others[-1]) + 1 if others.size else 0
    strength = f" ({figure.shade} {amount(shade[-1, -1])})" if shade is not None else ""
    place = where(_part(tokens, tokens.dims[1:2]), (top.shape[1] - 1,))
    yield (
        f"At the last position ({place}) the last {rows} gives {_quoted(result, final)}{strength}."
    )
    names = tokens.coords[rows]
    if since == 0:
        yield f"It is on top from the first {rows} on."
        return
    before = _quoted(result, top[since - 1, -1])
    begins = f" ({figure.shade} {amount(shade[since, -1])} there)" if shade is not None else ""
    yield (
        f"It is on top from {rows} {names[since]} on{begins}; at {rows} {names[since - 1]} "
        f"it is {before}."
    )


def _quoted(result: Result, token: int) -> str:
    return f"“{visible(result.text(token))}”" if token >= 0 else "nothing"


def _example(name: str, result: Result, slice_: Slice) -> tuple[NamedArray, str]:
    """An output of the one prompt that is shown, and a sentence that says which, of several."""
    every = result.each(name)
    if not 0 <= slice_.item < len(every):
        raise NotFound(f"there is no prompt {slice_.item + 1}", f"there are {len(every)}")
    if len(every) == 1:
        return every[0], ""
    clean = _short(line(result.prompts[slice_.item]["clean"]))
    return every[slice_.item], f"Of prompt {slice_.item + 1} of {len(every)}, “{clean}”."


def _table(figure: figures.Table, result: Result, slice_: Slice) -> Iterator[str]:
    count = len(result.each(figure.output))
    yield f"{count} row{'s' if count != 1 else ''}, one a prompt."
    for name in (figure.output, *figure.columns):
        every = result.each(name)
        if result.outputs[name].kind == "token":
            tops = Counter(int(np.reshape(a.values, -1)[0]) for a in every if a.values.size)
            said = [
                f"{_quoted(result, token)} {'once' if times == 1 else f'{times} times'}"
                for token, times in tops.most_common(_MOST)
            ]
            more = f", and {len(tops) - _MOST} others" if len(tops) > _MOST else ""
            yield f"{name}, the first of each row: {', '.join(said)}{more}."
            continue
        numbers = np.array([float(a) if not a.values.ndim else np.nan for a in every])
        if not np.isfinite(numbers).any():
            yield f"{name}: no values."
            continue
        unit = f" {figure.unit}" if figure.unit and name == figure.output else ""
        text = f"{name}: mean {amount(float(np.nanmean(numbers)))}{unit}"
        over = result[name] if name in result.arrays else None
        if over is not None and over.low is not None and over.high is not None:
            text += f", 95% CI [{amount(over.low)}, {amount(over.high)}]"
        if len(numbers) > 1:
            low, high = int(np.nanargmin(numbers)), int(np.nanargmax(numbers))
            text += (
                f", from {amount(numbers[low])} (prompt {low + 1}) "
                f"to {amount(numbers[high])} (prompt {high + 1})"
            )
        yield text + "."


def _text(figure: figures.Text, result: Result, slice_: Slice) -> Iterator[str]:
    tokens, shown = _example(figure.output, result, slice_)
    if shown:
        yield shown
    lead = list(np.ndindex(*tokens.shape[:-1]))
    for index in lead[:_MOST_TEXTS]:
        name = where(_part(tokens, tokens.dims[:-1]), index)
        said = result.passage(tokens.values[index])
        yield f"{name + ': ' if name else ''}{_short(line(said)) or 'nothing'}"
    if len(lead) > _MOST_TEXTS:
        yield f"And {len(lead) - _MOST_TEXTS} more texts."


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"

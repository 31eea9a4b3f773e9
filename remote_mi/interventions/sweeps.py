"""The sweep: replace an activation, and measure the end of the run.

All techniques that replace an activation are sweeps: patching, ablation, causal tracing, steering,
reading a state in another prompt. A sweep is exact: every cell of the grid is a forward pass of its
own, many of them at once. Each row of a pass runs only the layers that its replacement can change
(`growing_batch`), and only the tokens: a replacement at position p leaves earlier ones as they are
in the base run, whose keys and values are shared if the attention allows it (`reuses_prefix`). This
affects numbers only by rounding. The cells are distributed over passes by estimating the cost of a
pass and the available memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from remote_mi.interventions.dealing import PASS_TOKENS, Cell, Load, deal, rows_of_a_pass
from remote_mi.interventions.forward import Run, at_base, counterparts, first_difference, run
from remote_mi.interventions.growing_batch import GrowingBatch
from remote_mi.interventions.model_info import reuses_prefix
from remote_mi.interventions.ports import Stream
from remote_mi.interventions.prompts import Prompt
from remote_mi.interventions.random_directions import as_far, unit_directions
from remote_mi.interventions.sites import chosen_layers, part_count

#: The replacement: see `sweep`.
Put = Run | float | Sequence[torch.Tensor] | Callable[[int], torch.Tensor]


class Sweep:
    """The result of a sweep; each of its rows is a forward pass of its own.

    The cells are [layer, position], [layer], [layer, head] or [layer, head, position]. They are
    preceded by the dimensions
    variant (if the replacement has one) and row (for a base with several), and followed by metric
    (if several are measured).

    Attributes:
        effect: measure of the changed run − of the base run; exactly 0 where nothing can change.
            NaN, like `scores` and `control`, where nothing corresponds in the donor: a position
            without a counterpart in the other prompt of its pair.
        scores: measure of the changed run.
        control: like `effect`, for the control's replacement; for random directions, with the
            dimension draw before all others.
        base: measure of the base run. donor: of the run that provides the replacement, if there is
            one; both from one call, so that rounding is the same in both.
    """

    def __init__(self) -> None:
        self.effect = self.scores = self.control = self.base = torch.empty(0)
        self.donor = torch.empty(0)


def sweep(
    lm: Any,
    base: Run | Prompt,
    site: str | Stream,
    put: Put,
    measure: Callable[[torch.Tensor], torch.Tensor],
    *,
    by: Literal["position", "layer", "head", "head_position"] = "position",
    at: Sequence[int | Sequence[int]] | None = None,
    layers: Sequence[int] | None = None,
    window: int = 1,
    control: int | Put = 0,
    seed: int = 0,
) -> Sweep:
    """Replace an activation, one cell at a time, and measure the end of the run.

    Args:
        base: the run of one prompt to change, or the prompt.
        site: where in a layer: one of `SITES`, or a `Port`.
        put: the replacement: the same activations of another run, of the same length or of the
            other prompt of a pair (positions correspond by `Prompt.matches`, and those that do are
            replaced); a number; a tensor per layer, or a function from a layer to one, that
            broadcasts to the shapes of `read`, or has the dimension variant before them.
        measure: made by `measure`; or a function from the final norm's output, [row, position,
            d_model], whose last position is the prompt's last (early ones may be left out), to
            numbers for each row.
        by: "position": one position at a time; "layer": all positions at once; "head": all
            positions of one head at once, at a site that has heads; "head_position": one position
            of one head.
        at: the positions to replace, a list of some for those that are one cell; None for all.
        layers: layers whose activation is replaced, ascending; None for all that have the site,
            and the cells of the others are NaN.
        window: how many layers are replaced at once, around each; those without the site are left
            out.
        control: the number of random directions: an activation x, to be replaced by v, becomes
            x + ‖v − x‖·u instead, with u a random unit vector, one for each prompt, draw, layer
            and position (and head, at a site that has heads). Or another replacement, like `put`.
        seed: of the random directions.

    Raises:
        ValueError: for heads at a site that has none, a site, layer or position that does not
            exist, a site that some of the layers lack, a run with another site, or of another
            length whose positions do not correspond, or a base with several prompts.
    """
    chosen = chosen_layers(lm, site, layers, "measured")
    if chosen != sorted(set(chosen)):
        raise ValueError(f"the layers {chosen} are not in ascending order, each once")
    if by not in ("position", "layer", "head", "head_position"):
        raise ValueError(f'by={by!r} is not one of "position", "layer", "head", "head_position"')
    sweeper = _Sweeper(lm, base, site, by, window)
    sweeper.layers = chosen
    if layers is None and not sweeper.batch.row.once:
        sweeper.shown = len(lm.layers)
    sweeper.refuse_another_site(put, control)
    sweeper.put_in(put, control, seed)
    return sweeper.swept(measure, at)


class _Values:
    """The replacement: for each layer a tensor [variant, row, position, width].

    Attributes:
        variants: how many; None if it has no such dimension.
    """

    def __init__(self, put: Any, row: Any, layer: int) -> None:
        self.put, self.row = put, row
        first = self._given(layer)  # all layers have the same form
        self.variants = first.shape[0] if first.dim() == 4 else None

    def _given(self, layer: int) -> torch.Tensor:
        """[row, position, width], or with variants first; a vector applies to all positions."""
        if isinstance(self.put, (int, float)):
            return torch.full((1, 1, 1), float(self.put))
        values: Any = self.put.values if isinstance(self.put, Run) else self.put
        given: Any = values(layer) if callable(values) else values[layer]
        if given.dim() > self.row.dims:
            return torch.stack([self.row.by_position(variant) for variant in given])
        return self.row.by_position(given[(None,) * (self.row.dims - given.dim())])

    def of(self, layer: int, like: torch.Tensor, start: int) -> torch.Tensor:
        """The values of a layer from token `start` on, with shape, device and dtype of `like`."""
        given = self._given(layer).to(like.device, like.dtype)
        given = given if given.dim() == 4 else given[None]
        length = start + like.shape[1]
        return given.expand(-1, -1, length, -1)[:, :, start:].expand(-1, *like.shape)


class _Sweeper:
    """A sweep in progress.

    Attributes:
        layers: whose cells are run. shown: the number of layers of the result, of which those that
            are not run are NaN; 0 for those that are run.
    """

    def __init__(
        self, lm: Any, base: Run | Prompt, site: str | Stream, by: str, window: int
    ) -> None:
        self.lm, self.by, self.given = lm, by, base
        plain = isinstance(base, Prompt)
        self.base = Run([list(base.ids)], None, torch.empty(0), base.matches) if plain else base
        if any(ids != self.base.ids[0] for ids in self.base.ids):
            raise ValueError("a sweep changes the run of one prompt, not of several")
        self.length = len(self.base.ids[0])
        self.batch = GrowingBatch(lm, self.base, site, window)
        self.heads = part_count(lm, site)
        self.layers = list(range(len(lm.layers)))
        self.shown = 0
        if by.startswith("head") and self.heads == 1:
            raise ValueError(f'{site} has no heads; by="{by}" needs a site that has them')

    def refuse_another_site(self, *puts: Any) -> None:
        """Refuse runs whose activations are of another site than the one being replaced."""
        for put in puts:
            if not isinstance(put, Run):
                continue
            if put.site != self.batch.site:
                raise ValueError(f"the run that is put in keeps {put.site}, not {self.batch.site}")
            if len(put.ids) not in (1, len(self.base.ids)):
                raise ValueError(f"the run that is put in has {len(put.ids)} rows")

    def put_in(self, put: Any, control: Any, seed: int) -> None:
        """Set the replacement, and that of the control."""
        put, control = (at_base(self.base, x) if isinstance(x, Run) else x for x in (put, control))
        self.donor = put if isinstance(put, Run) else None
        row, first = self.batch.row, self.layers[0]
        self.own = _Values(put, row, first)
        draws = control if isinstance(control, int) else 0
        self.other = None if isinstance(control, int) else _Values(control, row, first)
        if draws and self.own.variants is not None:
            raise ValueError("random directions are a control of one replacement, not of several")
        # The size of the control's first dimension, None if it has no such dimension.
        self.control_variants = draws if self.other is None else self.other.variants
        ids, heads = self.base.ids[0], self.heads

        def replace(layer: int, x: torch.Tensor, start: int) -> torch.Tensor:
            values = self.own.of(layer, x, start)
            if self.other is not None:
                return torch.cat([values, self.other.of(layer, x, start)])
            if not draws:
                return values
            unit = unit_directions([*ids, layer], len(ids), x.shape[-1], heads, draws, seed)
            return torch.cat([values, as_far(x, values[0], unit[:, None, start:], heads)])

        self.replace = replace
        rest = draws if self.other is None else self.other.variants or 1
        self.variants = self.batch.variants = (self.own.variants or 1) + rest

    def swept(self, measure: Any, at: Sequence[int | Sequence[int]] | None) -> Sweep:
        """Run the sweep; arguments as for `sweep`."""
        first = 0
        if self.donor is not None:
            first = first_difference(self.lm, self.base, self.donor)
        groups = [
            [one] if isinstance(one, int) else list(one)
            for one in (range(self.length) if at is None else at)
        ]
        if any(not 0 <= place < self.length for group in groups for place in group):
            raise ValueError(f"positions {at} do not lie in a prompt of {self.length} tokens")
        matches = None if self.donor is None else counterparts(self.base, self.donor)
        if matches is not None:
            groups = [[place for place in group if matches[place] is not None] for group in groups]
        empty = [not group for group in groups]
        cells, places, count = self._cells([[p for p in group if p >= first] for group in groups])
        if self.by in ("layer", "head"):  # a cell has all positions
            self.empty = slice(None) if all(empty) and empty else []
        else:
            self.empty = torch.tensor(empty * (count // max(1, len(empty))), dtype=torch.bool)
        self._share_prefix(first, cells)
        self.batch.measure = self._measured(measure)
        scores, effects, plain = self._run(cells)
        beside = 0 if self.donor is None else len(self.donor.ids)
        found, own = Sweep(), self.own.variants or 1
        fill = plain[beside:]
        zero = torch.zeros_like(fill)
        found.scores = self._arranged(scores[:, :, :own], self.own.variants, fill, places, count)
        found.effect = self._arranged(effects[:, :, :own], self.own.variants, zero, places, count)
        rest, kinds = effects[:, :, own:], self.control_variants
        found.control = self._arranged(rest, kinds, zero, places, count)
        found.base = fill[0] if self.base.one else fill
        if self.donor is not None:
            found.donor = plain[0] if self.donor.one else plain[:beside]
        return found

    def _cells(self, groups: list[list[int]]) -> tuple[list[Cell], list[int] | None, int]:
        """The cells to run, by their first position; the place of each among all; their number.

        Places are None if they are in order and none is missing.

        Args:
            groups: positions that are one cell; empty where nothing can change.
        """
        if self.by in ("layer", "head"):
            every = sorted({place for group in groups for place in group})
            heads = range(self.heads) if self.by == "head" else [None]
            return [Cell(every, head) for head in heads] if every else [], None, len(heads)
        heads = range(self.heads) if self.by == "head_position" else [None]
        every = [
            (Cell(group, head), index + len(groups) * (head or 0))
            for head in heads
            for index, group in enumerate(groups)
            if group
        ]
        every.sort(key=lambda cell: cell[0].first)
        cells, places = [cell for cell, _ in every], [place for _, place in every]
        return cells, places, len(heads) * len(groups)

    def _measured(self, measure: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function that applies `measure` to the donor's rows and a pass's in one call."""
        donor, last = self.donor, getattr(measure, "last", 0)
        if donor is None:
            return measure

        def beside(hidden: torch.Tensor) -> torch.Tensor:
            seen = last or hidden.shape[1]
            rows = donor.hidden[:, -seen:].to(hidden.device)
            return measure(torch.cat([rows, hidden[:, -seen:]]))

        return beside

    def _share_prefix(self, first: int, cells: list[Cell]) -> None:
        """Decide from which run the passes take keys and values of early tokens, and how many.

        The base run's own can be used up to the last token, which is always run: a causal model's
        measure reads its final state. Without a base run, the donor's are used, up to the first
        difference; or a base run is made, if that is cheaper.
        """
        batch, lm = self.batch, self.lm
        if not batch.row.prefix or not reuses_prefix(lm):
            return
        if self.base.keys is not None:
            batch.keys, batch.shared = self.base.keys, self.length - 1
            return
        if isinstance(self.given, Run):
            return
        if self.donor is not None and self.donor.keys is not None:
            batch.keys, batch.shared = self.donor.keys, min(first, self.length - 1)
        price = self._dealt(cells, batch.shared)[0]
        finer = self._dealt(cells, self.length - 1)[0]
        if finer + len(lm.layers) * (self.length + PASS_TOKENS) < price:
            batch.keys, batch.shared = run(lm, self.given).keys, self.length - 1

    def _dealt(self, cells: list[Cell], shared: int) -> tuple[float, list[Any]]:
        """The cost of the passes, and the passes, if that many initial tokens are shared."""
        batch, n_layers = self.batch, len(self.lm.layers)
        joining = batch.variants * batch.rows
        fits = {}  # computed once for each length: a GPU's free memory changes

        def fit(tokens: int) -> int:
            if tokens not in fits:
                fits[tokens] = rows_of_a_pass(self.lm, tokens, self.length)
            return fits[tokens]

        load = Load(self.layers, n_layers, self.length, batch.rows, joining, fit)
        return deal(load, cells, shared)

    def _run(self, cells: list[Cell]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run all passes: [layer, cell, variant, base row, …] scores and effects, and the base's.

        The base's scores begin with those of the donor's rows. An effect is the difference from the
        base row of the same pass, so that rounding is the same in both.
        """
        scores, effects, plain = [], [], torch.empty(0)
        for start, dealt, group in self._dealt(cells, self.batch.shared)[1]:
            blocks = [
                self._pass(start, dealt, self.layers[low : low + group])
                for low in range(0, len(self.layers), group)
            ]
            plain = blocks[-1][2]
            scores.append(torch.cat([block[0] for block in blocks]))
            effects.append(torch.cat([block[1] for block in blocks]))
        return torch.cat(scores, 1), torch.cat(effects, 1), plain

    def _pass(
        self, start: int, cells: list[Cell], layers: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Like `_run`, for the cells of some layers; variants that do not fit get extra passes."""
        batch, total = self.batch, self.variants
        beside = 0 if self.donor is None else len(self.donor.ids)
        most = total
        if len(cells) * len(layers) == 1:
            fit = rows_of_a_pass(self.lm, self.length - start, self.length) - batch.rows
            most = max(1, fit // batch.rows)
        scores, effects, plain = [], [], torch.empty(0)
        for low in range(0, max(1, total), max(1, most)):
            batch.variants = min(most, total - low)
            batch.replace = self._some(low, low + batch.variants)
            numbers = batch.run(start, cells, layers)
            plain, changed = numbers[: beside + batch.rows], numbers[beside + batch.rows :]
            shape = (len(layers), len(cells), batch.variants, batch.rows)
            scores.append(changed.reshape(*shape, *numbers.shape[1:]))
            effects.append(scores[-1] - plain[beside:])
        batch.variants = total
        return torch.cat(scores, 2), torch.cat(effects, 2), plain

    def _some(self, low: int, high: int) -> Callable[[int, torch.Tensor, int], torch.Tensor]:
        return lambda layer, x, start: self.replace(layer, x, start)[low:high]

    def _arranged(
        self,
        found: torch.Tensor,
        variants: int | None,
        fill: torch.Tensor,
        places: list[int] | None,
        count: int,
    ) -> torch.Tensor:
        """[layer, cell, variant, row, …] rearranged to the dimensions of `Sweep`.

        Args:
            variants: None for no such dimension. fill: for cells that were not run, [row, …].
            places: which cells were run; None for all. count: the number of cells.
        """
        whole = fill.expand(found.shape[0], count, found.shape[2], *fill.shape).clone()
        if places is None:
            if found.shape[1]:
                whole = found
        else:
            whole[:, places] = found
        whole[:, self.empty] = torch.nan
        if self.shown > len(self.layers):
            spread = whole.new_full((self.shown, *whole.shape[1:]), float("nan"))
            spread[self.layers] = whole
            whole = spread
        whole = whole.movedim((2, 3), (0, 1))  # [variant, row, layer, cell, …]
        if self.by == "layer":
            whole = whole[:, :, :, 0]
        if self.by == "head_position":
            whole = whole.unflatten(3, (self.heads, -1))
        whole = whole[:, 0] if self.base.one else whole
        return whole[0] if variants is None else whole

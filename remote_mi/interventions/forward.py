"""A single forward pass: its inputs, and what is kept from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from remote_mi.interventions.encoder_decoder import model_inputs
from remote_mi.interventions.memory import rows_that_fit
from remote_mi.interventions.model_info import fact, has_unembedding, is_causal, reuses_prefix
from remote_mi.interventions.model_sites import Logits, Once
from remote_mi.interventions.ports import Stream, read_stream
from remote_mi.interventions.prompts import Prompt, first_unlike
from remote_mi.interventions.readout import LOGITS_SHARE, logits, skip_unembedding
from remote_mi.interventions.shared_passes import shared_by
from remote_mi.interventions.sites import chosen_layers, row_of


class Run:
    """What is kept from a forward pass.

    Attributes:
        ids: token ids of each row.
        site: the site whose activations are kept; None for none.
        values: the activation at the site in each layer, in the shapes of `read`.
        hidden: the final norm's output, [row, position, d_model].
        gradients: of a metric at the site in each layer, like `values`; only from `gradients`.
        one: whether it is an unmodified run of one prompt, whose results have no row dimension.
        keys: keys and values of every layer, if rows of a sweep can share them; else None.
        stream: the stream before the first layer, if it differs from that of the ids; else None.
        changed: the first position at which a row differs from that of its ids; None for none.
        matches: of its prompt, if that is a single one; see `Prompt`.
        ends: of each row, where its prompt's answer is read.
        whole: the run of more prompts that this one is rows of, and the first of them; None for none.
    """

    def __init__(
        self,
        ids: list[list[int]],
        site: str | Stream | None,
        hidden: torch.Tensor,
        matches: list[int | None] | None = None,
    ) -> None:
        self.ids, self.site, self.hidden, self.matches = ids, site, hidden, matches
        self.values: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []
        self.one = len(ids) == 1
        self.keys: Any = None
        self.stream: torch.Tensor | None = None
        self.changed: int | None = None
        self.ends: list[int] = []
        self.whole: tuple[Run, int] | None = None
        self._read_out = (0, torch.empty(0))

    def rows(self, start: int, count: int) -> Run:
        """Some rows of an unmodified run of several prompts, as a run of their own."""
        part = slice(start, start + count)
        found = Run(self.ids[part], self.site, self.hidden[part])
        found.values = [values[part] if values.numel() else values for values in self.values]
        found.keys = None if self.keys is None else KeysOfRow(self.keys, start)
        found.ends, found.whole = self.ends[part], (self, start)
        return found

    def size(self) -> int:
        """Bytes of what is kept."""
        layers = [] if self.keys is None else self.keys.layers
        kept = [self.hidden, *self.values, *(x for kv in layers for x in (kv.keys, kv.values))]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def read_out(self, lm: Any, start: int, count: int) -> torch.Tensor:
        """Logits of some rows where the answer is read, [row, vocabulary].

        They are computed for as many of the next rows, too, as fit into memory.
        """
        first, known = self._read_out
        if not first <= start <= first + len(known) - count:
            size = 4 * int(lm.lm_head.weight.shape[0]) * LOGITS_SHARE
            stop = start + max(count, rows_that_fit(self.hidden.device, size))
            ends = torch.tensor(self.ends[start:stop], device=self.hidden.device)
            states = self.hidden[start:stop]
            first, known = start, logits(lm, states[torch.arange(len(ends)), ends])
            self._read_out = (first, known)
        return known[start - first :][:count]


class KeysOfRow:
    """Keys and values of one row of a run of several prompts, as `Run.keys` has them."""

    def __init__(self, keys: Any, row: int) -> None:
        self.keys, self.row = keys, row

    @property
    def layers(self) -> list[Any]:
        return [LayerOfRow(layer, self.row) for layer in self.keys.layers]


class LayerOfRow:
    """Keys and values of one row in one layer, [1, head, position, d_head]."""

    def __init__(self, layer: Any, row: int) -> None:
        self.keys, self.values = layer.keys[row : row + 1], layer.values[row : row + 1]


def run(
    lm: Any,
    prompts: Prompt | Sequence[Prompt],
    site: str | Stream | None = None,
    *,
    noise: torch.Tensor | None = None,
    noised: tuple[int, int] = (0, 0),
    inputs: torch.Tensor | None = None,
    layers: Sequence[int] | None = None,
) -> Run:
    """One forward pass of a prompt, or of several prompts of equal length as rows.

    Args:
        site: the site whose activations are kept: one of `SITES`, or a `Port`.
        noise: added to token embeddings of one prompt, [row, token, d_model]; one row is run for
            each row of noise.
        noised: first and last position that it is added to, both included.
        inputs: replaces the token embeddings of one prompt, [row, position, d_model]. It may
            require a gradient.
        layers: whose activations are kept; None for all that have the site. `values` of the others
            are empty.

    Raises:
        ValueError: for an unknown site, or one that does not exist in the chosen layers.
    """
    of_each = [prompts] if isinstance(prompts, Prompt) else list(prompts)
    one = len(of_each) == 1
    passes = shared_by(of_each)
    if passes is None or noise is not None or inputs is not None or isinstance(site, Stream):
        return _run(lm, of_each, site, layers, one, noise=noise, noised=noised, inputs=inputs)

    def make(rows: Sequence[Prompt]) -> Run:
        return _run(lm, rows, site, layers, one)

    found = passes.take(lm, of_each, (site, None if layers is None else tuple(layers)), make)
    found.matches = of_each[0].matches if one else None
    return found


def _run(
    lm: Any,
    of_each: Sequence[Prompt],
    site: str | Stream | None,
    layers: Sequence[int] | None,
    each_alone: bool,
    *,
    noise: torch.Tensor | None = None,
    noised: tuple[int, int] = (0, 0),
    inputs: torch.Tensor | None = None,
) -> Run:
    """Like `run`; `each_alone`: every row is a run of its own, of which keys are kept."""
    chosen = [] if site is None else chosen_layers(lm, site, layers)
    given = inputs
    if noise is not None:
        after = len(of_each[0].ids) - 1 - noised[1]
        given = torch.nn.functional.pad(noise, (0, 0, noised[0], after))
    ids = [list(prompt.ids) for prompt in of_each] * (1 if given is None else len(given))
    keep = each_alone and inputs is None and reuses_prefix(lm)
    keep = keep and (site is None or row_of(site).prefix)
    # A layer's own input is never read while keys and values are kept: they are among its
    # arguments, and a sandboxed job would get, and the layer continue with, a copy.
    states = keep and (site == "resid_pre" or noise is not None)
    row = None if site is None or (states and site == "resid_pre") else row_of(site)
    with lm.trace(**model_inputs(lm, ids), use_cache=keep, output_hidden_states=states):
        if given is not None:
            own = lm.embed_tokens.output
            there = given.to(own.device, own.dtype)
            given = there if noise is None else own + there
            lm.embed_tokens.output = given
        before = read_stream(lm, 0) if noise is not None and not keep else None
        if given is not None and site == "embed":  # each value can be accessed once
            read, hidden = {0: given}, lm.ln_final.output
        elif before is not None and site == "resid_pre":
            read, hidden = _read_all(lm, row, [index for index in chosen if index])
            read |= {0: before} if 0 in chosen else {}
        else:
            read, hidden = _read_all(lm, row, chosen)
        if site != "logits":
            skip_unembedding(lm)
        whole: Any = lm.output if keep else None
    found = Run(ids, site, hidden, of_each[0].matches if len(of_each) == 1 else None)
    found.one = len(of_each) == 1 and given is None
    found.ends = [prompt.end for prompt in of_each]
    if states and site == "resid_pre":
        read = {index: whole.hidden_states[index] for index in chosen}
    if read:
        count = 1 if row is not None and row.once else len(lm.layers)
        found.values = [read.get(index, torch.empty(0)) for index in range(count)]
    if keep:
        found.keys = whole.past_key_values
    if noise is not None:
        found.stream = whole.hidden_states[0] if before is None else before
        found.changed = noised[0]
    return found


def end_logits(lm: Any, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Logits where the answer of each prompt is read, [prompt, vocabulary], float32.

    One forward pass for prompts of equal length, else one each.

    Raises:
        ValueError: for a model without an unembedding.
    """
    if len({len(prompt.ids) for prompt in prompts}) > 1:
        return torch.cat([end_logits(lm, [prompt]) for prompt in prompts])
    found = run(lm, prompts)
    whole, start = found.whole or (found, 0)
    return whole.read_out(lm, start, len(found.ids))


def _read_all(
    lm: Any, row: Stream | None, layers: Sequence[int]
) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """A site in each chosen layer, and the final norm's output, inside a trace.

    Each value can be accessed once, in the order in which the model computes them.
    """
    if isinstance(row, Logits):
        hidden = lm.ln_final.output
        return {0: row.read(lm, 0)}, hidden
    read = {} if row is None else {index: row.read(lm, index) for index in sorted(layers)}
    if isinstance(row, Once) and row.late:
        return read, read[0]
    # Without an unembedding the last norm is the last layer's own, and runs before its end.
    last = len(lm.layers) - 1
    inside = not has_unembedding(lm) and fact(lm, "final_in_layer", True)
    if row is not None and row.after == 1 and inside and last in read:
        return read, read[last]
    return read, lm.ln_final.output


def counterparts(base: Run, other: Run) -> list[int | None] | None:
    """For each position of a base run the one of another run that corresponds to it, or None.

    Returns:
        None for runs of equal length, whose positions correspond by number.

    Raises:
        ValueError: for runs of different lengths that are not those of one pair's two prompts.
    """
    length, there = len(base.ids[0]), len(other.ids[0])
    if length == there:
        return None
    back = {} if other.matches is None else dict(enumerate(other.matches))
    known = [] if base.matches is None else base.matches
    both = [(place, match) for place, match in enumerate(known) if match is not None]
    if len(known) != length or not both or any(back.get(m, -1) != p for p, m in both):
        raise ValueError(f"runs of {length} and of {there} tokens have no positions in common")
    return known


def at_base(base: Run, other: Run) -> Run:
    """Another run, read at the positions of a base run: NaN at those without a counterpart.

    Its `ids` stay its own. It is the run itself if both have the same length.

    Raises:
        ValueError: as `counterparts`, and for a site whose activations have a number for each
            position of their prompt (the pattern of attention).
    """
    matches = counterparts(base, other)
    if matches is None:
        return other
    if other.values and other.site is not None and row_of(other.site).dims != 3:
        raise ValueError(
            f"{other.site} has a number for every token of its prompt, and so cannot be put into a "
            "prompt of another length"
        )
    found = Run(other.ids, other.site, _read_at(other.hidden, matches), other.matches)
    found.values = [
        values if is_empty(values) else _read_at(values, matches) for values in other.values
    ]
    found.one, found.keys, found.changed = other.one, other.keys, other.changed
    return found


def _read_at(activation: torch.Tensor, matches: Sequence[int | None]) -> torch.Tensor:
    """An activation, [row, position, width], at some positions in turn; NaN for None."""
    read = activation[:, [match or 0 for match in matches]]
    read[:, [place for place, match in enumerate(matches) if match is None]] = torch.nan
    return read


def first_difference(lm: Any, one: Run, other: Run) -> int:
    """The first position of a run at which another's activations can differ; its length if none.

    With bidirectional attention, every position sees the first difference.

    Raises:
        ValueError: as `counterparts`.
    """
    length = len(one.ids[0])
    found = first_unlike(one.ids[0], other.ids[0], counterparts(one, other))
    starts = [] if found is None else [found]
    starts += [run.changed for run in (one, other) if run.changed is not None]
    first = min(starts, default=length)
    return first if first == length or is_causal(lm) else 0


def changes(lm: Any, base: Run, other: Run) -> list[torch.Tensor]:
    """The differences between the activations of another run and of a base run: other − base.

    Returns:
        for each layer [row, position, width], float32, or empty if it lacks the site; exactly 0
        before the first position that the difference between the prompts can reach, NaN at those
        without a counterpart.

    Raises:
        ValueError: for runs of different sites, and as `at_base`.
    """
    if base.site != other.site:
        raise ValueError(f"one run keeps {base.site}, the other {other.site}")
    first, other = first_difference(lm, base, other), at_base(base, other)
    found = []
    for own, there in zip(base.values, other.values, strict=True):
        if is_empty(own):
            found.append(own)
            continue
        change = there.float() - own.float()
        change[:, :first] = 0
        found.append(change)
    return found


def stack(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """Stack tensors, usually one per layer, in float32 on the device of the first.

    The layers of a large model may be on several devices.
    """
    first = tensors[0]
    return torch.stack([tensor.to(first.device, torch.float32) for tensor in tensors], dim)


def is_empty(value: torch.Tensor) -> bool:
    """Whether an activation stands for a layer that has no such site, or was not asked for."""
    return value.shape == (0,)


def by_layer(
    of_layer: Callable[..., torch.Tensor], *values: Sequence[torch.Tensor], dim: int = 0
) -> torch.Tensor:
    """A function of each layer's activations, stacked as `stack` does.

    Args:
        of_layer: from the activations of one layer, one of each list, to a tensor; called in the
            order of the layers, and only for layers that have the site.
        values: for each layer an activation, as `run`, `gradients` and `changes` give them.
        dim: where the dimension of layers is inserted.

    Returns:
        the tensors; NaN for layers without the site.
    """
    found = [
        None if any(map(is_empty, given)) else of_layer(*given)
        for given in zip(*values, strict=True)
    ]
    like = next(one for one in found if one is not None)
    lacking = torch.full_like(like, float("nan"), dtype=torch.float32)
    return stack([lacking if one is None else one for one in found], dim)

"""Paths: what a head's output changes at another component, along the routes that are left open.

`send` replaces the output of one head at a time while other sites are held at their values in the
base run, and reads what arrives: at the inputs of receivers, or at the end of the run. `receive`
puts what arrived at the receivers into the base run, in which everything else is free. Both are
exact: every sender is a row of a pass, which joins the base run's row where its change begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from remote_mi.interventions.attention_sites import edit_projections, read_projections
from remote_mi.interventions.dealing import rows_of_a_pass
from remote_mi.interventions.encoder_decoder import model_inputs
from remote_mi.interventions.forward import Run
from remote_mi.interventions.model_info import fact
from remote_mi.interventions.ports import edit_stream, require
from remote_mi.interventions.readout import skip_unembedding
from remote_mi.interventions.sites import edit, part_count, read, row_of

#: A receiver's last part → the site where it reads the stream.
INPUTS = {"q": "q", "k": "k", "v": "v", "mlp": "mlp_in"}
Measured = Callable[[torch.Tensor], torch.Tensor]


class Receiver:
    """An input of a head, "layer.head.q" (k, v), or of an MLP, "layer.mlp".

    Keys and values of grouped heads are those of a key head, and are counted so.

    Attributes:
        layer: its layer. site: where it is read. head: of that site; None for an MLP.
    """

    def __init__(self, lm: Any, name: str) -> None:
        parts = name.split(".")
        numbers, self.name = parts[:-1], name
        wanted = 1 if parts[-1] == "mlp" else 2
        whole = all(number.isascii() and number.isdecimal() for number in numbers)
        if parts[-1] not in INPUTS or len(numbers) != wanted or not whole:
            raise ValueError(
                f"the receiver {name!r} is not of the form 9.6.q (layer.head.q, k or v) or 9.mlp"
            )
        self.layer, self.site = int(numbers[0]), INPUTS[parts[-1]]
        self.head = int(numbers[1]) if wanted == 2 else None
        if self.layer >= len(lm.layers):
            raise ValueError(f"the receiver {name}: layers are 0 to {len(lm.layers) - 1}")
        row = row_of(self.site)
        require(lm, self.site, row, [self.layer])
        self.heads = part_count(lm, self.site)
        if self.head is not None and self.head >= self.heads:
            kind = "key heads" if row.parts == "key" else "heads"
            raise ValueError(f"the receiver {name}: {kind} are 0 to {self.heads - 1}")

    def columns(self, width: int) -> slice:
        """Its part of the width of its site's activation."""
        if self.head is None:
            return slice(0, width)
        size = width // self.heads
        return slice(self.head * size, (self.head + 1) * size)


def receivers(lm: Any, names: Sequence[str]) -> list[Receiver]:
    """The receivers of that name, in the order in which a model computes them; [] for the logits.

    Args:
        names: "logits" alone, or one or more of "layer.head.q" (k, v) and "layer.mlp".

    Raises:
        ValueError: for a name of another form, an unknown layer or head, one that is there twice,
            or logits beside others.
    """
    if list(names) == ["logits"]:
        return []
    if not names or "logits" in names or len(set(names)) < len(names):
        raise ValueError(
            f"receivers {', '.join(names) or '[]'}: give logits alone, or inputs of heads and "
            "MLPs, each once"
        )
    found = [Receiver(lm, name) for name in names]
    return sorted(found, key=lambda one: (one.layer, one.site == "mlp_in"))


def send(
    lm: Any,
    base: Run,
    put: Sequence[torch.Tensor],
    held: Sequence[str],
    to: list[Receiver],
    measure: Measured,
) -> list[torch.Tensor]:
    """Replace one head's output at a time, with other sites held, and read what arrives.

    Args:
        base: the run of one prompt that is changed.
        put: for each layer what replaces head_z, [variant, position, width].
        held: the sites that keep the base run's values: "head_z", and perhaps "mlp_out". They are
            held in all layers from the sender's on, but for the sender itself.
        to: the receivers; [] for the end of the run.
        measure: of the final norm's output, for the end of the run.

    Returns:
        for each receiver what it reads, [row, position, width]; or one tensor, [row], the change of
        the measure. Rows are [layer, variant, head], flattened, of all layers but those from the
        last receiver's on, which cannot reach it (for an MLP: but those after it).
    """
    heads = part_count(lm, "head_z")
    joining = put[0].shape[0] * heads
    count = reached(lm, to)
    length = len(base.ids[0])
    fit = max(1, (rows_of_a_pass(lm, length, length) - 1) // joining)
    parts: list[list[torch.Tensor]] = []
    for low in range(0, count, fit):
        one = _Sending(lm, base, put, held, to, list(range(low, min(low + fit, count))))
        parts.append(one.run(measure))
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def reached(lm: Any, to: list[Receiver]) -> int:
    """How many of the first layers have heads whose output can reach a receiver."""
    return max((one.layer + (one.site == "mlp_in") for one in to), default=len(lm.layers))


class _Sending:
    """A pass in which the heads of some layers join as rows of their own."""

    def __init__(
        self, lm: Any, base: Run, put: Any, held: Sequence[str], to: Any, layers: list[int]
    ) -> None:
        self.lm, self.ids, self.put, self.held, self.to = lm, base.ids[0], put, held, to
        self.layers, self.heads = layers, part_count(lm, "head_z")
        self.joining = put[0].shape[0] * self.heads
        self.rows = 1  # how many there are now
        # Some layers get more than the stream that belongs to rows: then all are there at once.
        self.grows = fact(lm, "grows", True)

    def run(self, measure: Measured) -> list[torch.Tensor]:
        lm, arrived = self.lm, {}
        begin = 1 if self.grows else 1 + len(self.layers) * self.joining
        self.rows = begin
        with lm.trace(**model_inputs(lm, [self.ids] * begin), use_cache=False):
            for index in range(self.layers[0], len(lm.layers)):
                if self.grows and index in self.layers:
                    self.rows += self.joining
                    edit_stream(lm, index, self._grown)
                arrived.update(self._read(index, ("q", "k", "v")))
                edit(lm, index, "head_z", lambda z, at=index: self._sent(z, at))
                arrived.update(self._read(index, ("mlp_in",)))
                if "mlp_out" in self.held:
                    edit(lm, index, "mlp_out", lambda x: x[:1].expand_as(x).clone())
            scores = measure(lm.ln_final.output)
            skip_unembedding(lm)
            lm.output = None
        if self.to:
            return [arrived[one.name] for one in self.to]
        return [scores[1:] - scores[:1]]

    def _grown(self, stream: torch.Tensor) -> torch.Tensor:
        return torch.cat([stream, stream[:1].expand(self.joining, -1, -1)])

    def _sent(self, z: torch.Tensor, layer: int) -> torch.Tensor:
        """The heads' outputs: the base run's in all rows, but one head's in each row of a sender."""
        new = z[:1].expand_as(z).clone()
        if layer not in self.layers:
            return new
        values = self.put[layer].to(z.device, z.dtype)  # [variant, position, width]
        own = torch.arange(z.shape[-1], device=z.device) // (z.shape[-1] // self.heads)
        mine = own == torch.arange(self.heads, device=z.device)[:, None]  # [head, width]
        begin = 1 + self.layers.index(layer) * self.joining
        new[begin : begin + self.joining] = torch.where(
            mine[None, :, None], values[:, None], z[0]
        ).flatten(0, 1)
        return new

    def _read(self, layer: int, sites: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """What the receivers of a layer read, of all rows of senders; the base's before they join."""
        mine = [one for one in self.to if one.layer == layer and one.site in sites]
        if not mine:
            return {}
        if sites == ("mlp_in",):
            read_here = {"mlp_in": read(self.lm, layer, "mlp_in")}
        else:
            read_here = read_projections(self.lm, layer, {one.site for one in mine})
        found = {}
        for one in mine:
            x = read_here[one.site]
            rows = len(self.layers) * self.joining
            late = x[:1].expand(1 + rows - (len(x) - 1), -1, -1)[1:]
            found[one.name] = torch.cat([x[1:], late])[..., one.columns(x.shape[-1])].clone()
        return found


def receive(
    lm: Any, base: Run, to: list[Receiver], arrived: list[torch.Tensor], measure: Measured
) -> torch.Tensor:
    """Put what arrived at receivers into the base run, and measure the end of the run.

    Args:
        to: the receivers, as `receivers` orders them. arrived: of each what it reads instead, [row,
            position, width].

    Returns:
        the change of the measure, [row].
    """
    length = len(base.ids[0])
    fit = max(1, rows_of_a_pass(lm, length, length) - 1)
    changes = [
        _received(lm, base.ids[0], to, [x[low : low + fit] for x in arrived], measure)
        for low in range(0, len(arrived[0]), fit)
    ]
    return torch.cat(changes)


def _received(lm: Any, ids: list[int], to: Any, arrived: Any, measure: Measured) -> torch.Tensor:
    rows, grows = len(arrived[0]), fact(lm, "grows", True)

    def put_in(x: torch.Tensor, layer: int, site: str) -> torch.Tensor:
        new = x.clone()
        for one, values in zip(to, arrived, strict=True):
            if (one.layer, one.site) == (layer, site):
                new[1:, :, one.columns(x.shape[-1])] = values.to(x.device, x.dtype)
        return new

    layers = sorted({one.layer for one in to})
    with lm.trace(**model_inputs(lm, [ids] * (1 if grows else 1 + rows)), use_cache=False):
        if grows:
            edit_stream(lm, layers[0], lambda stream: stream.expand(1 + rows, -1, -1).clone())
        for layer in layers:
            sites = {one.site for one in to if one.layer == layer}
            edit_projections(
                lm,
                layer,
                {
                    site: lambda x, at=layer, site=site: put_in(x, at, site)
                    for site in sorted(sites - {"mlp_in"})
                },
            )
            if "mlp_in" in sites:
                edit(lm, layer, "mlp_in", lambda x, at=layer: put_in(x, at, "mlp_in"))
        scores = measure(lm.ln_final.output)
        skip_unembedding(lm)
        lm.output = None
    return scores[1:] - scores[:1]

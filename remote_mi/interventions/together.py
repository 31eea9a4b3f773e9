"""Replacing several parts of a run at once: sets of heads or neurons, each set a row of a pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from remote_mi.interventions.dealing import rows_of_a_pass
from remote_mi.interventions.encoder_decoder import model_inputs
from remote_mi.interventions.forward import Run, first_difference, run
from remote_mi.interventions.part_sets import (
    PART_SITES,
    PartSet,
    check_parts,
    grouped_parts,
    parse_parts,
    random_sets,
    rest_of,
)
from remote_mi.interventions.prompts import Prompt
from remote_mi.interventions.readout import skip_unembedding
from remote_mi.interventions.sites import SITES, chosen_layers, edit, part_count, row_of


class SetRuns:
    """What replacing each of several sets does to a run.

    Attributes:
        effect: measure of the run with the set replaced − of the plain run, [set], followed by
            metric if several are measured.
        base: measure of the plain run.
    """

    def __init__(self, effect: torch.Tensor, base: torch.Tensor) -> None:
        self.effect, self.base = effect, base


def sets_of_parts(
    lm: Any,
    prompt: Prompt,
    heads: Sequence[str] | None,
    neurons: Sequence[str] | None,
    *,
    draws: int,
    seed: int,
    replaced: Literal["set", "rest"] = "set",
) -> list[PartSet]:
    """A set of heads and neurons, and random sets with as many of each in the same layers.

    Args:
        prompt: any, to learn from how many neurons there are.
        heads, neurons: as layer.number, e.g. "9.6".
        draws: the number of random sets; fewer if there are not so many.
        replaced: "rest" gives, for each set, all other heads (or neurons) of the model instead.

    Raises:
        ValueError: for no parts at all, a part that does not exist or is given twice, or a set
            without another of its layers.
    """
    named = {"head": parse_parts("head", heads), "neuron": parse_parts("neuron", neurons)}
    if not any(named.values()):
        raise ValueError("there is no set: give heads (or neurons) as layer.number, e.g. 9.6")
    counts: dict[str, int] = {}
    for what, parts in named.items():
        if not parts:
            continue
        site = PART_SITES[what]
        check_parts(what, parts, len(lm.layers), None)
        layers = chosen_layers(lm, site, sorted({layer for layer, _ in parts}))
        counts[site] = _count(lm, prompt, site, layers[0])
        check_parts(what, parts, len(lm.layers), counts[site])
    own = PartSet(grouped_parts(named["head"], named["neuron"]))
    found = [own, *random_sets(own, counts, draws, seed)]
    if replaced == "set":
        return found
    having = {
        site: [i for i in range(len(lm.layers)) if not row_of(site).why_not(lm, i)]
        for site in counts
    }
    return [rest_of(one, counts, having) for one in found]


def _count(lm: Any, prompt: Prompt, site: str, layer: int) -> int:
    """How many heads or neurons a layer has at a site."""
    if row_of(site).parts:
        return part_count(lm, site)
    return int(run(lm, prompt, site, layers=[layer]).values[layer].shape[-1])


def replace_sets(
    lm: Any,
    base: Prompt,
    put: Mapping[str, Any],
    sets: Sequence[PartSet],
    measure: Callable[[torch.Tensor], torch.Tensor],
) -> SetRuns:
    """Run a prompt once for each set, with all of its parts replaced at all positions.

    Each set is a row of a pass, beside a row of the plain run; as many at a time as memory allows.

    Args:
        put: site → what replaces the activation there: another run of as many tokens, a number, or
            a tensor for each layer that broadcasts to the shapes of `read`.
        measure: made by `measure`.

    Raises:
        ValueError: for a run of another site or another length.
    """
    length = len(base.ids)
    for site, values in put.items():
        if isinstance(values, Run):
            first_difference(lm, Run([list(base.ids)], site, torch.empty(0)), values)
            if values.site != site:
                raise ValueError(f"the run that is put in keeps {values.site}, not {site}")
    most = max(1, rows_of_a_pass(lm, length, length) - 1)
    effects, plain = [], torch.empty(0)
    for low in range(0, len(sets), most):
        numbers = _pass(lm, base, put, sets[low : low + most], measure)
        plain = numbers[0]
        effects.append(numbers[1:] - plain)
    return SetRuns(torch.cat(effects), plain)


def _pass(
    lm: Any,
    base: Prompt,
    put: Mapping[str, Any],
    sets: Sequence[PartSet],
    measure: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The measure of the plain run and of the run of each set, [1 + set, …]."""
    order = list(SITES)
    used = {key for one in sets for key in one.parts}
    ids = torch.tensor([list(base.ids)] * (1 + len(sets)))
    with lm.trace(**model_inputs(lm, ids), use_cache=False):
        for site, layer in sorted(used, key=lambda key: (key[1], order.index(key[0]))):
            numbers = [one.parts.get((site, layer), []) for one in sets]
            value = _value(put[site], layer)
            edit(lm, layer, site, lambda x, v=value, n=numbers, s=site: _mixed(lm, x, v, n, s))
        scores = measure(lm.ln_final.output)
        skip_unembedding(lm)
    return scores


def _value(put: Any, layer: int) -> Any:
    """What is put in at one layer: a number or a tensor."""
    if isinstance(put, (int, float)):
        return float(put)
    return (put.values if isinstance(put, Run) else put)[layer]


def _mixed(
    lm: Any, x: torch.Tensor, value: Any, numbers: Sequence[Sequence[int]], site: str
) -> torch.Tensor:
    """The activation of all rows, [row, position, width], with each set's parts replaced.

    Args:
        numbers: for each row but the first, the heads or neurons that are replaced.
    """
    width = x.shape[-1]
    count = part_count(lm, site) if row_of(site).parts else width
    inside = torch.zeros(x.shape[0], 1, count, dtype=torch.bool)
    for row, of in enumerate(numbers):
        inside[row + 1, 0, list(of)] = True
    inside = inside.repeat_interleave(width // count, -1).to(x.device)
    given = torch.as_tensor(value).to(x.device, x.dtype)
    return torch.where(inside, given, x)

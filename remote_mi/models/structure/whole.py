"""The parts of a whole model: its layers, what reads the stream after them, and its read-out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from remote_mi.models.structure.final import Step, find_final, is_step
from remote_mi.models.structure.observation import Call, factor_between, is_norm, same


class Unfit(Exception):
    """The model's parts are not what interventions need; the message says which, and why."""


@dataclass
class Whole:
    """The parts of a whole model.

    Attributes:
        layers: path of the blocks. blocks: the call of each. backbone: path of what runs without
            the unembedding; "" for the whole model. embed_tokens, lm_head: paths; lm_head is None
            if the model gives no logits.
        final: what reads the stream after the last layer; [] if that is a part of the last layer.
        final_norm: whether that is one norm.
        hidden_scale: what the final norm's output is multiplied by before the unembedding.
        logit_scale: what its logits are multiplied by. logit_cap: the bound that they are then
            squeezed into, cap · tanh(logit / cap); None for none.
    """

    layers: str
    blocks: list[Call]
    backbone: str
    embed_tokens: str
    lm_head: str | None = None
    final: list[Step] = field(default_factory=list)
    final_norm: bool = True
    hidden_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float | None = None


def find_whole(model: Any, inputs: Mapping[str, Any], calls: Sequence[Call], output: Any) -> Whole:
    """Find the parts of a model from its calls.

    Args:
        inputs: of the run that was observed. calls, output: what was observed.

    Raises:
        Unfit: if there is no chain of layers, or nothing reads the stream after them.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    layers, blocks = find_layers(model, calls)
    stream = blocks[-1].output
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    if embedding is None or id(embedding) not in paths:
        raise Unfit("it has no token embedding of its own")
    found = Whole(layers, blocks, "", paths[id(embedding)])
    if head is None or not any(call.module is head for call in calls):
        after = [c for c in calls if c.began > blocks[-1].ended and same(c.input, stream)]
        norm = next((c for c in after if is_norm(c) and is_step(c)), None)
        found.final = [] if norm is None else [("", norm.path)]
        return found
    found.lm_head = paths[id(head)]
    reads = next(call for call in calls if call.module is head)
    final = find_final(calls, blocks[-1], reads)
    if final is None:
        raise Unfit("nothing between its last layer and its unembedding reads the stream")
    found.final, steps, found.hidden_scale = final
    found.final_norm = len(steps) == 1 and is_norm(steps[0])
    if any(sum(call.path == path for call in calls) > 1 for _, path in found.final):
        raise Unfit(
            "its final norm is used elsewhere, too, so that it cannot be told which use is meant"
        )
    inner = [layers, *(path for _, path in found.final)]
    found.backbone = outermost_around(calls, inner, paths[id(head)])
    measure_logits(model, inputs, found)
    return found


def find_layers(model: Any, calls: Sequence[Call]) -> tuple[str, list[Call]]:
    """The longest list of modules each of which takes what the one before gives."""
    by_module = {id(call.module): call for call in reversed(calls)}
    best: tuple[str, list[Call]] | None = None
    for path, listed in model.named_modules():
        if not isinstance(listed, torch.nn.ModuleList) or not len(listed):
            continue
        chain = [by_module.get(id(block)) for block in listed]
        if any(call is None for call in chain):
            continue
        blocks = [call for call in chain if call is not None]
        links = itertools.pairwise(blocks)
        chained = all(same(one.output, other.input) for one, other in links)
        if not chained or not _is_stream(blocks[0]):
            continue
        if best is None or len(blocks) > len(best[1]):
            best = (path, blocks)
    if best is None:
        raise Unfit(_why_no_layers(model, calls))
    if len([call for call in calls if call.module is best[1][0].module]) > 1:
        raise Unfit("its layers run more than once")
    return best


def _why_no_layers(model: Any, calls: Sequence[Call]) -> str:
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
    listed = {id(block) for blocks in lists for block in blocks}
    for call in calls:
        if id(call.module) in listed and call.output is not None and call.output.dim() == 4:
            return "its layers hand on several streams side by side, not one"
    return "it has no list of layers each of which takes what the one before gives"


def _is_stream(block: Call) -> bool:
    return (
        block.input is not None
        and block.output is not None
        and block.input.shape == block.output.shape
        and block.input.dim() == 3
    )


def outermost_around(calls: Sequence[Call], inner: Sequence[str], head: str) -> str:
    """The outermost module that runs the modules at some paths, without the unembedding."""
    for call in sorted(calls, key=lambda c: len(c.path)):
        inside = all(path.startswith(f"{call.path}.") for path in inner)
        if call.path and inside and not head.startswith(f"{call.path}."):
            return call.path
    return ""


def measure_logits(model: Any, inputs: Mapping[str, Any], found: Whole) -> None:
    """What becomes of the unembedding's output: a factor, then perhaps a cap.

    Measured with the output replaced by tiny and by huge numbers.
    """
    small, of_small = _with_logits(model, inputs, found, 1e-2)
    huge, of_huge = _with_logits(model, inputs, found, 1e6)
    scale = factor_between(small, of_small)
    if scale is None:
        raise Unfit("its logits are not its unembedding's output times a number")
    found.logit_scale = scale
    if same(huge * scale, of_huge):
        return
    found.logit_cap = bound = float(of_huge.abs().max())
    for raw, logits in ((small, of_small), (huge, of_huge)):
        if not same(bound * torch.tanh(raw * scale / bound), logits):
            raise Unfit("its logits are bounded in a way that is not known")


def _with_logits(
    model: Any, inputs: Mapping[str, Any], found: Whole, size: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's logits if its unembedding gives numbers from −size to size, and these."""
    given: list[torch.Tensor] = []

    def replace(_m: Any, _a: Any, output: torch.Tensor) -> torch.Tensor:
        given.append(size * torch.linspace(-1, 1, output.shape[-1]).expand(output.shape))
        return given[-1]

    hook = model.get_submodule(str(found.lm_head)).register_forward_hook(replace)
    try:
        with torch.no_grad():
            logits = model(**inputs).logits
    finally:
        hook.remove()
    return given[-1], logits

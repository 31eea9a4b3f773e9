"""A model's structure as data: which module has which portable name, and what is measured.

    {"names": {portable name: path},         of the model
     "facts": {"hidden_scale": …, "logit_scale": …, "logit_cap": …, "causal": …,
               "final_norm": False},    if what reads the final stream is more than a norm
     "final_steps": [[function before it or "", path], …],    ln_final, if it is several modules
     "layers": [{"names": {portable name: path below the layer},
                 "facts": {"adds": [portable name, …], "attn_add_factor": …, "heads": …, …}}]}

It holds texts and numbers only, so that it can be kept in a file and go with a job to a server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from remote_mi.models.structure.attention import Attention, find_attention
from remote_mi.models.structure.block import Block, Part, find_block
from remote_mi.models.structure.observation import Call, factor_between, observe, same
from remote_mi.models.structure.two_sides import begin_answers, find_sides, has_two_sides
from remote_mi.models.structure.whole import Unfit, Whole, find_whole

Structure = dict[str, Any]

#: Tokens of the run that is observed, taken modulo the size of the vocabulary.
_IDS = (17, 5, 11, 7, 3, 13)


def describe(model: Any) -> Structure:
    """Find the structure of a model that can be run, such as a twin.

    Raises:
        Unfit: if its stream cannot be followed, naming the part and the reason.
    """
    size = int(model.get_input_embeddings().weight.shape[0])
    inputs = {"input_ids": torch.tensor([[i % size for i in _IDS]]), "use_cache": False}
    two_sides = has_two_sides(model)
    if two_sides:
        inputs = begin_answers(inputs, size)
    calls, output = observe(model, inputs)
    if two_sides:
        whole, sides = find_sides(model, inputs, calls)
    else:
        whole, sides = find_whole(model, inputs, calls, output), {}
    layers = []
    for index, call in enumerate(whole.blocks):
        try:
            layers.append(_describe_layer(call, calls))
        except Unfit as why:
            raise Unfit(f"layer {index}: {why}") from None
    names = {"layers": whole.layers, "embed_tokens": whole.embed_tokens, "backbone": whole.backbone}
    names |= sides
    if len(whole.final) == 1:
        names["ln_final"] = whole.final[0][1]
    elif not whole.final and not sides:  # the norm at the end of the last layer, or that layer
        own = layers[-1]["names"].get("ln_after_mlp", "")
        names["ln_final"] = f"{whole.blocks[-1].path}.{own}".rstrip(".")
    if whole.lm_head is not None:
        names["lm_head"] = whole.lm_head
    facts: dict[str, Any] = {"causal": _is_causal(model, inputs, whole)}
    facts["d_model"] = int(whole.blocks[0].input.shape[-1])  # type: ignore[union-attr]
    for name in ("hidden_scale", "logit_scale", "logit_cap"):
        if getattr(whole, name) not in (1.0, None):
            facts[name] = getattr(whole, name)
    if not whole.final_norm:
        facts["final_norm"] = False
    if whole.lm_head is None and whole.final:
        facts["final_in_layer"] = False
    steps = [list(step) for step in whole.final] if len(whole.final) > 1 else []
    return {"names": names, "facts": facts, "final_steps": steps, "layers": layers}


def _is_causal(model: Any, inputs: Mapping[str, Any], whole: Whole) -> bool:
    """Whether early positions are unaffected by another last token."""
    ids = inputs["input_ids"].clone()
    ids[0, -1] = ids[0, 0]
    calls, _ = observe(model.get_submodule(whole.backbone), {**inputs, "input_ids": ids})
    prefix = f"{whole.backbone}." if whole.backbone else ""
    last = whole.blocks[-1]
    again = next(call for call in calls if f"{prefix}{call.path}" == last.path)
    assert last.output is not None and again.output is not None
    return same(again.output[:, :-1], last.output[:, :-1])


def _describe_layer(call: Call, calls: Sequence[Call]) -> dict[str, Any]:
    block = find_block(call, calls)
    names: dict[str, str] = {}
    facts: dict[str, Any] = {}
    inside = [c for c in calls if call.began < c.began and c.ended < call.ended]
    for part in block.parts:
        attention = find_attention(block, part, calls) if part.mixes else Attention()
        kind = _kind(part, attention, names)
        names[f"{kind}_add"] = block.relative(part.adds.path)
        facts["adds"] = [*facts.get("adds", []), f"{kind}_add"]
        if part.factor != 1.0:
            facts[f"{kind}_add_factor"] = part.factor
        if kind == "attn":
            _name_attention(attention, part, names, facts)
        elif kind == "mixer":
            names["mixer"] = part.root
        elif kind == "mlp":
            _name_mlp(block, part, inside, names)
    if "mixer_add" not in names and "attn_add" in names:
        names["mixer_add"] = names["attn_add"]
        if "attn_add_factor" in facts:
            facts["mixer_add_factor"] = facts["attn_add_factor"]
    if block.norms:
        names["ln_after_attn"], names["ln_after_mlp"] = (
            block.relative(n.path) for n in block.norms
        )
    middle = block.middle
    if middle is not None and block.parts[0].mixes and not block.parts[1].mixes:
        names["ln_mlp"] = block.relative(middle.path)
    return {"names": names, "facts": facts}


def _kind(part: Part, attention: Attention, names: Mapping[str, str]) -> str:
    """What a part is called: attention if it has a pattern; further parts after the second."""
    kind = "mlp" if not part.mixes else "attn" if attention.attends else "mixer"
    return kind if f"{kind}_add" not in names else "other"


def _name_attention(
    attention: Attention, part: Part, names: dict[str, str], facts: dict[str, Any]
) -> None:
    root = part.root  # or what is in it: T5 has the norm and the addition in the sub-layer, too
    if attention.attends and attention.o_proj.startswith(f"{attention.attends}."):
        root = attention.attends
    names["self_attn"] = root
    for name in ("o_proj", "q_proj", "k_proj", "v_proj", "qkv_proj"):
        if getattr(attention, name):
            names[f"self_attn.{name}"] = getattr(attention, name)
    if attention.attends != root:
        names[f"self_attn.{attention.pattern_name}"] = attention.attends
    facts["heads"], facts["key_heads"] = attention.heads, attention.key_heads
    if attention.pattern_at != 1:
        facts["pattern_at"] = attention.pattern_at
    if attention.packing not in ("", "thirds"):
        facts["qkv_packing"] = attention.packing


def _name_mlp(block: Block, part: Part, inside: Sequence[Call], names: dict[str, str]) -> None:
    root = f"{block.call.path}.{part.root}"
    of_root = [c for c in inside if c.path == root or c.path.startswith(f"{root}.")]
    norms = {norm.path for norm in block.norms}
    if len(of_root) > 1 and not any(c.path in norms for c in of_root):
        # T5 has the norm and the addition in the sub-layer, too.
        names["mlp"] = part.root if part.source.is_leaf else block.relative(part.source.path)
    output = part.adds.output
    if output is not None and output.dim() == 2:
        names["mlp_flat"] = names["mlp_add"]
    for call in of_root:
        matrix = any(p.dim() == 2 for p in call.module.parameters())
        if call.is_leaf and matrix and factor_between(call.output, part.source.output):
            names["down_proj"] = block.relative(call.path)
            return

"""A model's structure as data: which module has which portable name, and what is measured.

    {"names": {portable name: path},         of the model
     "facts": {"hidden_scale": …, "logit_scale": …, "logit_cap": …, "causal": …,
               "final_norm": False},    if what reads the final stream is more than a norm
     "final_steps": [[function before it or "", path], …],    ln_final, if it is several modules
     "layers": [{"names": {portable name: path below the layer},
                 "facts": {"adds": [portable name, …], "attn_add_factor": …, "heads": …,
                           "lacks": {site: why}, "operations": {site: place}, …}}]}

It holds texts and numbers only, so that it can be kept in a file and go with a job to a server.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from remote_mi.models.structure.attention import Attention, find_attention
from remote_mi.models.structure.block import LayerParts, SubLayer, find_block, single_numbers
from remote_mi.models.structure.mlp import name_entrance, name_mlp
from remote_mi.models.structure.observation import Call, factor_between, observe, same
from remote_mi.models.structure.points import name_points
from remote_mi.models.structure.reasons import reasons, refuse
from remote_mi.models.structure.two_sides import begin_answers, find_sides, has_two_sides
from remote_mi.models.structure.whole import Unfit, Whole, find_whole
from remote_mi.models.structure.widths import widths

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
    layers = _describe_layers(whole, calls)
    _refuse_uneven(layers)
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
    if not _is_all_of_a_token(model, inputs, whole):
        facts["tokens_enter_once"] = False
    if not _grows(model, inputs, whole):
        facts["grows"] = False
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


def _is_all_of_a_token(model: Any, inputs: Mapping[str, Any], whole: Whole) -> bool:
    """Whether tokens reach the layers through the first one's input alone (not so in Gemma 4)."""
    ids = inputs["input_ids"].clone()
    ids[0, 0] = ids[0, 1]
    first, last = whole.blocks[0], whole.blocks[-1]
    assert first.input is not None
    stream = first.input

    def put(_m: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (stream, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": stream}

    hook = first.module.register_forward_pre_hook(put, with_kwargs=True)
    try:
        calls, _ = observe(model, {**inputs, "input_ids": ids})
    finally:
        hook.remove()
    return same(next(c for c in calls if c.path == last.path).output, last.output)


def _grows(model: Any, inputs: Mapping[str, Any], whole: Whole) -> bool:
    """Whether a layer takes more rows than the model was given, and treats each as its own."""
    last = whole.blocks[-1]

    def twice(_m: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (torch.cat([args[0], args[0]]), *args[1:]), kwargs
        stream = kwargs["hidden_states"]
        return args, {**kwargs, "hidden_states": torch.cat([stream, stream])}

    hook = last.module.register_forward_pre_hook(twice, with_kwargs=True)
    try:
        calls, _ = observe(model, inputs)
    except Exception:  # the model's own code, which may fail in any way
        return False
    finally:
        hook.remove()
    output = next(call for call in calls if call.path == last.path).output
    return output is not None and len(output) == 2 and all(same(row, last.output) for row in output)


def _describe_layers(whole: Whole, calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Describe every layer; of those that run the same code in the same shapes the first in full.

    In the others what the first adds to the stream is checked to add up, too.
    """
    kinds: dict[Any, dict[str, Any]] = {}
    layers = []
    for index, call in enumerate(whole.blocks):
        inside = [c for c in calls if call.began < c.began and c.ended < call.ended]
        kind = _kind_of(call, inside)
        described = kinds.get(kind)
        if described is None or not _adds_up(call, inside, described):
            try:
                described = kinds[kind] = _describe_layer(call, inside)
            except Unfit as why:
                raise Unfit(f"layer {index}: {why}") from None
        layers.append(copy.deepcopy(described))
    return layers


def _kind_of(call: Call, inside: Sequence[Call]) -> Any:
    """What layers of the same code have in common: their modules, in order, and all shapes."""
    parts = []
    for one in (call, *inside):
        shapes = tuple(tuple(tensor.shape) for tensor in (*one.taken, *one.given))
        path = one.path.removeprefix(call.path)
        parts.append((path, type(one.module), one.changed_later, shapes))
    return tuple(parts)


def _adds_up(call: Call, inside: Sequence[Call], described: Mapping[str, Any]) -> bool:
    """Whether the modules of an equal layer add up to this one's stream, with the same factors."""
    names, facts = described["names"], described["facts"]
    by_path = {one.path.removeprefix(f"{call.path}."): one for one in reversed(inside)}
    stream, after = call.input, call.output
    for place, name in enumerate(facts["adds"]):
        added = by_path[names[name]].output
        if stream is None or added is None:
            return False
        stream = stream + facts.get(f"{name}_factor", 1.0) * added.reshape(stream.shape)
        norm = names.get(("ln_after_attn", "ln_after_mlp")[place]) if place < 2 else None
        if norm is not None:
            if not same(by_path[norm].input, stream):
                return False
            stream = by_path[norm].output
            stream = None if stream is None or after is None else stream.reshape(after.shape)
        if place == 0 and "ln_mlp" in names and not same(by_path[names["ln_mlp"]].input, stream):
            return False
    if stream is not None:
        stream = stream * single_numbers(call.module).get(facts.get("stream_times", ""), 1.0)
    return same(after, stream)


def _describe_layer(call: Call, inside: Sequence[Call]) -> dict[str, Any]:
    """Describe a layer; `inside`: the calls within it."""
    if call.changed_later:
        raise Unfit("the stream after it is changed in place by later code")
    block = find_block(call, inside)
    names: dict[str, str] = {}
    facts: dict[str, Any] = {"lacks": {}}
    for part in block.parts:
        attention = find_attention(block, part, inside) if part.mixes else Attention()
        kind = _kind(part, attention, names)
        names[f"{kind}_add"] = block.relative(part.adds.path)
        facts["adds"] = [*facts.get("adds", []), f"{kind}_add"]
        if part.factor != 1.0:
            facts[f"{kind}_add_factor"] = part.factor
        if kind == "attn":
            _name_attention(attention, names, facts)
            name_points(block, part, inside, attention, names, facts)
            _note_what_it_gives("o_proj", attention.o_proj, block, part, inside, facts)
        elif kind == "mixer":
            names["mixer"] = part.root
            name_entrance("mixer_in", block, part, inside, [], names)
        elif kind == "mlp":
            name_mlp(block, part, inside, names, facts)
            _note_what_it_gives("down_proj", names.get("down_proj", ""), block, part, inside, facts)
    if "mixer_add" not in names and "attn_add" in names:
        names["mixer_add"] = names["attn_add"]
        if "attn_in" in names:
            names["mixer_in"] = names["attn_in"]
        if "attn_add_factor" in facts:
            facts["mixer_add_factor"] = facts["attn_add_factor"]
    if block.norms:
        names["ln_after_attn"], names["ln_after_mlp"] = (
            block.relative(n.path) for n in block.norms
        )
    middle, mixing = block.middle, [part.mixes for part in block.parts]
    if middle is not None and mixing[0] and not mixing[1]:
        names["ln_mlp"] = block.relative(middle.path)
    elif sum(mixing) > 1:
        why = "several modules of this layer add to the stream before its MLP"
        facts["lacks"]["resid_mid"] = why
    changed = {block.relative(c.path) for c in inside if c.changed_later}
    facts["changed_later"] = [name for name, path in names.items() if path in changed]
    if "self_attn.qkv_proj" in facts["changed_later"]:
        facts["changed_later"] += [f"self_attn.{which}_proj" for which in "qkv"]
    if block.times:
        facts["stream_times"] = block.times
    facts["lacks"] = reasons(names, facts)
    facts["widths"] = widths(f"{call.path}.", inside, names, facts)
    return {"names": names, "facts": facts}


def _refuse_uneven(layers: Sequence[dict[str, Any]]) -> None:
    """Take the sites of heads away where layers differ in their number: heads have no index then."""
    of_heads = ("q_proj", "o_proj", "attends", "pattern", "qkv_proj")
    for fact, what, named in (
        ("heads", "heads", of_heads),
        ("key_heads", "key heads", ("k_proj", "v_proj", "qkv_proj")),
    ):
        counts = sorted({layer["facts"].get(fact, 0) for layer in layers} - {0})
        if len(counts) < 2:
            continue
        why = f"the layers of this model have different numbers of {what} ({counts})"
        for layer in layers:
            for name in [f"self_attn.{part}" for part in named]:
                layer["names"].pop(name, None)
                refuse(name, why, layer["facts"])
            layer["facts"].pop(fact, None)
            if fact == "heads":
                layer["names"].pop("self_attn", None)
                refuse("self_attn", why, layer["facts"])


def _kind(part: SubLayer, attention: Attention, names: Mapping[str, str]) -> str:
    """What a part is called: attention if it has a pattern; further parts after the second."""
    kind = "mlp" if not part.mixes else "attn" if attention.attends else "mixer"
    others = ("other", *(f"other{number}" for number in range(2, 9)))
    return next(name for name in (kind, *others) if f"{name}_add" not in names)


def _name_attention(attention: Attention, names: dict[str, str], facts: dict[str, Any]) -> None:
    names["self_attn"] = attention.root
    for name in ("o_proj", "q_proj", "k_proj", "v_proj", "qkv_proj"):
        if getattr(attention, name):
            names[f"self_attn.{name}"] = getattr(attention, name)
    if attention.attends != attention.root:
        names[f"self_attn.{attention.pattern_name}"] = attention.attends
    facts["heads"], facts["key_heads"] = attention.heads, attention.key_heads
    if attention.first_is_value:
        facts["first_is_value"] = True
    if attention.pattern_at != 1:
        facts["pattern_at"] = attention.pattern_at
    if attention.blocks != 1:
        facts["qkv_blocks"] = attention.blocks
    if attention.order != "qkv":
        facts["qkv_order"] = attention.order
    for name, why in attention.refused.items():
        refuse(f"self_attn.{name}", why, facts)


def _note_what_it_gives(
    name: str,
    path: str,
    block: LayerParts,
    part: SubLayer,
    inside: Sequence[Call],
    facts: dict[str, Any],
) -> None:
    """Note what a projection's output is to be multiplied by to be what is added, if a number."""
    call = next((c for c in inside if path and block.relative(c.path) == path), None)
    factor = None if call is None else factor_between(call.output, part.adds.output)
    if factor is not None:
        facts[f"{name}_gives"] = factor * part.factor

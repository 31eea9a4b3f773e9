"""Plain hooks at the points of a model that `Reference.hook` does not reach by one module.

The modules are named by hand, family by family; nothing here asks remote_mi.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

Change = Callable[[torch.Tensor], torch.Tensor | None]


class Handle:
    """Something that is undone by `remove`."""

    def __init__(self, undo: Callable[[], None]) -> None:
        self.remove = undo


def hook_point(reference: Any, site: str, layer: int, change: Change) -> Any:
    """Apply `change(activation)` at a site; None as its return value leaves it as it is."""
    model, family = reference.model, reference.family
    if site in ("embed", "final_norm", "logits"):
        return _hook_of_model(model, family, site, change)
    block, attention = reference.blocks[layer], reference.attention_modules[layer]
    if site in ("attn_in", "mixer_in"):
        return _on_input(attention.self if family.startswith("bert") else attention, change)
    if site == "mlp_in":
        names = {"bert": "intermediate", "opt": "fc1"}
        return _on_input(block.get_submodule(names.get(family.split("-")[0], "mlp")), change)
    if site in ("mlp_gate", "mlp_up") and hasattr(getattr(block, "mlp", None), "gate_up_proj"):
        return _hook_half(block.mlp.gate_up_proj, 0 if site == "mlp_gate" else 1, change)
    if site in ("mlp_gate", "mlp_up"):
        name = _first_matrix(family, site)
        return block.get_submodule(name).register_forward_hook(
            lambda _m, _a, output: _shaped(output, change)
        )
    if site in ("q_normed", "k_normed"):
        norm = attention.q_norm if site[0] == "q" else attention.k_norm
        heads_first = family == "gemma3"
        return norm.register_forward_hook(
            lambda _m, _a, output: _by_head(output, change, heads_first)
        )
    if site in ("q_rotated", "k_rotated"):
        return _hook_rotated(attention, 1 if site[0] == "q" else 2, layer, change)
    if site == "attn_scores" and hasattr(attention, "sinks"):
        return _hook_scores_beside_sinks(attention, change)
    if site == "attn_scores":
        return ScoresHook(layer, change)
    if site == "head_out":
        heads = model.config.num_attention_heads
        return _hook_heads(reference.projection[layer], heads, change)
    if site == "router_logits":
        return _hook_router(getattr(block.mlp, "gate", None) or block.mlp.router, change)
    if site == "expert_weights":
        return _hook_experts(block.mlp.experts, change)
    raise KeyError(site)


def _hook_half(matrix: Any, half: int, change: Change) -> Any:
    """The first half of a matrix for both is the gate, the second what it is multiplied by."""

    def hook(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor | None:
        halves = list(output.chunk(2, -1))
        new = change(halves[half])
        if new is None:
            return None
        halves[half] = new
        return torch.cat(halves, -1)

    return matrix.register_forward_hook(hook)


def _hook_of_model(model: Any, family: str, site: str, change: Change) -> Any:
    if site == "embed":
        return model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: change(out))
    if site == "final_norm":
        paths = {
            "gpt2": "transformer.ln_f",
            "neox": "gpt_neox.final_layer_norm",
            "opt": "model.decoder.final_layer_norm",
            "bert": "cls.predictions.transform",
            "phi": "model.final_layernorm",
        }
        norm = model.get_submodule(paths.get(family.split("-")[0], "model.norm"))
        return norm.register_forward_hook(lambda _m, _a, output: change(output))

    def on_output(_module: Any, _args: Any, output: Any) -> Any:
        new = change(output.logits)
        if new is not None:
            output.logits = new
        return output

    return model.register_forward_hook(on_output)


def _first_matrix(family: str, site: str) -> str:
    if site == "mlp_gate":
        return "mlp.gate_proj"
    names = {
        "gpt2": "mlp.c_fc",
        "neox": "mlp.dense_h_to_4h",
        "opt": "fc1",
        "bert": "intermediate.dense",
        "phi": "mlp.fc1",
    }
    return names.get(family.split("-")[0], "mlp.up_proj")


def _shaped(value: torch.Tensor, change: Change) -> torch.Tensor | None:
    """A change of one row, which may have its positions as rows."""
    new = change(value.reshape(-1, *value.shape[-2:]))
    return None if new is None else new.reshape(value.shape)


def _on_input(module: Any, change: Change) -> Any:
    def hook(_module: Any, args: Any, kwargs: Any) -> Any:
        new = _shaped(args[0] if args else kwargs["hidden_states"], change)
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _by_head(value: torch.Tensor, change: Change, heads_first: bool) -> torch.Tensor | None:
    by_position = value.transpose(1, 2) if heads_first else value
    new = change(by_position.flatten(2))
    if new is None:
        return None
    new = new.reshape(by_position.shape)
    return new.transpose(1, 2) if heads_first else new


def _hook_rotated(attention: Any, place: int, layer: int, change: Change) -> Handle:
    """Change what the function that attends gets as queries (1) or keys (2), in eager attention."""
    code: Any = sys.modules[type(attention).__module__]
    plain = code.eager_attention_forward

    def attend(module: Any, *args: Any, **kwargs: Any) -> Any:
        args = (module, *args)
        if module is attention:
            new = _by_head(args[place], change, heads_first=True)
            if new is not None:
                args = (*args[:place], new, *args[place + 1 :])
        return plain(*args, **kwargs)

    code.eager_attention_forward = attend

    def undo() -> None:
        code.eager_attention_forward = plain

    return Handle(undo)


def _hook_scores_beside_sinks(attention: Any, change: Change) -> Handle:
    """Attention step by step, its scores changed before one more column joins their softmax."""
    code: Any = sys.modules[type(attention).__module__]
    plain = code.eager_attention_forward

    def attend(
        module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **kwargs: Any
    ) -> Any:
        if module is not attention:
            return plain(module, q, k, v, mask, scaling, **kwargs)
        groups = q.shape[1] // k.shape[1]
        scores = q @ k.repeat_interleave(groups, 1).transpose(2, 3) * scaling + mask
        new = change(scores)
        scores = scores if new is None else new
        sinks = module.sinks.reshape(1, -1, 1, 1).expand(len(q), -1, q.shape[2], 1)
        pattern = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
        return (pattern @ v.repeat_interleave(groups, 1)).transpose(1, 2), pattern

    code.eager_attention_forward = attend

    def undo() -> None:
        code.eager_attention_forward = plain

    return Handle(undo)


class ScoresHook:
    """Changes what the softmax of one layer's attention takes, [row, head, query, key]."""

    def __init__(self, layer: int, change: Change) -> None:
        self.layer, self.change, self.calls = layer, change, 0
        self.plain = torch.nn.functional.softmax
        torch.nn.functional.softmax = self

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if x.dim() == 4:
            self.calls += 1
            new = self.change(x) if self.calls == self.layer + 1 else None
            x = x if new is None else new
        return self.plain(x, *args, **kwargs)

    def remove(self) -> None:
        torch.nn.functional.softmax = self.plain


def _hook_heads(projection: Any, heads: int, change: Change) -> Any:
    """Each head's columns of the projection's matrix times its part of the input."""
    weight = projection.weight
    matrix = weight if isinstance(projection, torch.nn.Linear) else weight.T  # [d_model, head × d]

    def hook(_module: Any, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        z, by_head = args[0].unflatten(-1, (heads, -1)), matrix.unflatten(-1, (heads, -1))
        own = torch.einsum("...hd,mhd->...hm", z, by_head)
        new = change(own.flatten(-2))
        return None if new is None else output + (new.unflatten(-1, (heads, -1)) - own).sum(-2)

    return projection.register_forward_hook(hook)


def _hook_router(router: Any, change: Change) -> Any:
    """The router's own steps again, from changed logits: softmax, top k, a sum of 1 if so asked."""

    def hook(_module: Any, args: Any, _output: Any) -> Any:
        logits = args[0].reshape(-1, router.weight.shape[1]) @ router.weight.T
        biased = getattr(router, "bias", None) is not None
        new = change((logits + router.bias if biased else logits)[None])
        if new is None:
            return None
        if biased:  # gpt-oss: the softmax is over the chosen ones
            top, index = new[0].topk(router.top_k, -1)
            return new[0], top.softmax(-1), index
        top, index = new[0].softmax(-1).topk(router.top_k, -1)
        if getattr(router, "norm_topk_prob", True):
            top = top / top.sum(-1, keepdim=True)
        return new[0], top, index

    return router.register_forward_hook(hook)


def _hook_experts(experts: Any, change: Change) -> Any:
    """Σ weight · expert output, over all experts, from changed weights."""
    count = experts.down_proj.shape[0]

    def hook(_module: Any, args: Any, _output: Any) -> torch.Tensor | None:
        x, index, weight = args
        dense = torch.zeros(len(x), count).scatter(1, index, weight)
        new = change(dense[None])
        if new is None:
            return None
        one = torch.ones(len(x), 1)
        forward = type(experts).forward
        each = [forward(experts, x, torch.full((len(x), 1), e), one) for e in range(count)]
        return torch.einsum("te,etm->tm", new[0], torch.stack(each))

    return experts.register_forward_hook(hook)

"""An independent patching loop: plain hooks on the transformers model, one cell at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from .reference_points import hook_point


class Reference:
    """A model with its modules found by hand, family by family.

    `middle` is empty where the stream between attention and MLP does not exist as a tensor that
    the MLP and the stream share.
    """

    def __init__(self, folder: Path, family: str) -> None:
        self.family = family
        auto = {"bert": AutoModelForMaskedLM, "bert-headless": AutoModel}
        self.model = auto.get(family, AutoModelForCausalLM).from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model: Any = self.model
        self.middle: list[Any] = []
        if family == "gpt2":
            self.blocks = model.transformer.h
            self.attention = [b.attn for b in self.blocks]
            self.projection = [b.attn.c_proj for b in self.blocks]
            self.mlp = [b.mlp for b in self.blocks]
            self.middle = [b.ln_2 for b in self.blocks]
        elif family.startswith("neox"):
            self.blocks = model.gpt_neox.layers
            self.attention = [b.attention for b in self.blocks]
            self.projection = [b.attention.dense for b in self.blocks]
            self.mlp = [b.mlp for b in self.blocks]
            self.middle = [b.post_attention_layernorm for b in self.blocks]
        elif family.startswith("bert"):
            self.blocks = (model.bert if family == "bert" else model).encoder.layer
            self.attention = [b.attention.output.dense for b in self.blocks]
            self.projection = [b.attention.output.dense for b in self.blocks]
            self.mlp = [b.output.dense for b in self.blocks]
        elif family.startswith("opt"):
            self.blocks = model.model.decoder.layers
            self.attention = [b.self_attn for b in self.blocks]
            self.projection = [b.self_attn.out_proj for b in self.blocks]
            self.mlp = [b.fc2 for b in self.blocks]
            self.middle = [b.final_layer_norm for b in self.blocks] if family == "opt" else []
        elif family == "phi":
            self.blocks = model.model.layers
            self.attention = [b.self_attn for b in self.blocks]
            self.projection = [b.self_attn.dense for b in self.blocks]
            self.mlp = [b.mlp for b in self.blocks]
        else:
            self.blocks = model.model.layers
            gemma = family in ("gemma2", "gemma3")
            self.attention = [
                b.post_attention_layernorm if gemma else b.self_attn for b in self.blocks
            ]
            self.projection = [b.self_attn.o_proj for b in self.blocks]
            self.mlp = [b.post_feedforward_layernorm if gemma else b.mlp for b in self.blocks]
            self.middle = [
                b.pre_feedforward_layernorm if gemma else b.post_attention_layernorm
                for b in self.blocks
            ]

        names = ("self_attn", "attn", "attention")
        self.attention_modules = [
            next(getattr(block, name) for name in names if hasattr(block, name))
            for block in self.blocks
        ]
        self.down = [_down_projection(block, family) for block in self.blocks]

    def ids(self, text: str) -> torch.Tensor:
        return self.tokenizer(text, return_tensors="pt").input_ids

    def score(self, ids: torch.Tensor, answer: int, wrong: int, end: int = -1) -> float:
        with torch.no_grad():
            logits = self.model(ids).logits[0, end].double()
        return float(logits[answer] - logits[wrong])

    def hook(self, site: str, layer: int, change) -> Any:
        """Apply `change(activation)`; None as its return value leaves it as it is.

        The activation has rows and positions of its own: a model that has them in one dimension
        is run on one row only.
        """
        given = change

        def change(value):
            if value.dim() == 4:  # attention weights
                return given(value)
            new = given(value.reshape(-1, *value.shape[-2:]))
            return None if new is None else new.reshape(value.shape)

        def on_input(_module, args, kwargs):
            if args:
                new = change(args[0])
                return None if new is None else ((new, *args[1:]), kwargs)
            new = change(kwargs["hidden_states"])
            return None if new is None else (args, {**kwargs, "hidden_states": new})

        def on_output(_module, _args, output):
            first = output[0] if isinstance(output, tuple) else output
            new = change(first)
            if new is None:
                return None
            return (new, *output[1:]) if isinstance(output, tuple) else new

        inputs = {"resid_pre": self.blocks, "head_z": self.projection, "mlp_hidden": self.down}
        if site in inputs:
            return inputs[site][layer].register_forward_pre_hook(on_input, with_kwargs=True)
        if site in ("q", "k", "v"):
            return self._hook_projection(site, layer, change)
        if site == "attn_pattern":
            return _SoftmaxHook(layer, change)
        outputs = {"attn_out": self.attention, "mlp_out": self.mlp, "resid_post": self.blocks}
        outputs["mixer_out"] = self.attention
        if site not in outputs:
            return hook_point(self, site, layer, given)
        return outputs[site][layer].register_forward_hook(on_output)

    def _hook_projection(self, which: str, layer: int, change) -> Any:
        """The queries, keys or values: a module of their own, or their columns of one for all."""
        words = {"q": "query", "k": "key", "v": "value"}
        names = {"bert": f"self.{words[which]}"}
        attention = self.attention_modules[layer]
        fused = next((n for n in ("c_attn", "query_key_value") if hasattr(attention, n)), None)
        if fused is None:
            name = names.get(self.family.split("-")[0], f"{which}_proj")
            module = attention.get_submodule(name)
            return module.register_forward_hook(lambda _m, _a, output: change(output))
        heads = self.model.config.num_attention_heads

        def on_fused(_module, _args, output):
            size = output.shape[-1] // 3
            index = "qkv".index(which)
            columns = torch.arange(index * size, (index + 1) * size)
            if fused == "query_key_value":  # head by head: its queries, its keys, its values
                d = size // heads
                columns = torch.cat(
                    [torch.arange(d) + 3 * d * head + index * d for head in range(heads)]
                )
            new = change(output[..., columns])
            if new is None:
                return None
            output = output.clone()
            output[..., columns] = new
            return output

        return getattr(attention, fused).register_forward_hook(on_fused)

    def capture(
        self, ids: torch.Tensor, site: str, layers: Sequence[int] | None = None
    ) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        hooks = []
        chosen = range(len(self.blocks)) if layers is None else layers
        for layer in chosen:

            def keep(value, layer=layer):
                found[layer] = value.clone()

            hooks.append(self.hook(site, layer, keep))
        with torch.no_grad():
            self.model(ids)
        for hook in reversed(hooks):
            hook.remove()
        return [found[layer] for layer in chosen]

    def stream(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """The stream before each layer and after the last."""
        after: list[torch.Tensor] = []
        hook = self.blocks[-1].register_forward_hook(
            lambda _m, _a, output: after.append(output[0] if isinstance(output, tuple) else output)
        )
        before = self.capture(ids, "resid_pre")
        hook.remove()
        return [*before, *after]

    def stream_with(self, ids: torch.Tensor, site: str, layer: int, change) -> list[torch.Tensor]:
        """The stream of a run in which one activation is changed."""
        hook = self.hook(site, layer, change)
        try:
            return self.stream(ids)
        finally:
            hook.remove()

    def attention_weights(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """[row, head, query, key] of each layer."""
        implementation = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")
        with torch.no_grad():
            weights = self.model(ids, output_attentions=True).attentions
        self.model.set_attn_implementation(implementation)
        return list(weights)

    def middle_stream(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """resid_mid of every layer, taken where the norm before the MLP reads it."""
        found: list[torch.Tensor] = []
        hooks = [
            m.register_forward_pre_hook(
                lambda _m, a: found.append(a[0].reshape(-1, *a[0].shape[-2:]).clone())
            )
            for m in self.middle
        ]
        with torch.no_grad():
            self.model(ids)
        for hook in hooks:
            hook.remove()
        return found

    def patch(
        self, base, site: str, layer: int, change, answer: int, wrong: int, end: int = -1
    ) -> float:
        hook = self.hook(site, layer, change)
        try:
            return self.score(base, answer, wrong, end)
        finally:
            hook.remove()


def _down_projection(block: Any, family: str) -> Any:
    """The module that takes the MLP's neurons; None in a mixture of experts."""
    if family.startswith("bert"):
        return block.output.dense
    if family.startswith("opt"):
        return block.fc2
    names = ("down_proj", "c_proj", "dense_4h_to_h", "fc2")
    return next((getattr(block.mlp, n) for n in names if hasattr(block.mlp, n)), None)


class _SoftmaxHook:
    """Changes what the attention of one layer gets from its softmax, [row, head, query, key].

    It is the softmax itself that is changed, before anything is multiplied with it: the other
    softmaxes of a model (a router's) have fewer dimensions. To be used with eager attention.
    """

    def __init__(self, layer: int, change: Any) -> None:
        self.layer, self.change, self.calls = layer, change, 0
        self.plain = torch.nn.functional.softmax
        torch.nn.functional.softmax = self

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        weights = self.plain(x, *args, **kwargs)
        if weights.dim() != 4:
            return weights
        self.calls += 1
        new = self.change(weights) if self.calls == self.layer + 1 else None
        return weights if new is None else new.to(weights.dtype)

    def remove(self) -> None:
        torch.nn.functional.softmax = self.plain

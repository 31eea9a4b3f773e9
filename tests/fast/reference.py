"""An independent patching loop: plain hooks on the transformers model, one cell at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer


class Reference:
    """A model with its modules found by hand, family by family.

    `middle` is empty where the stream between attention and MLP does not exist as a tensor that
    the MLP and the stream share.
    """

    def __init__(self, folder: Path, family: str) -> None:
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

        if site == "resid_pre":
            return self.blocks[layer].register_forward_pre_hook(on_input, with_kwargs=True)
        if site == "head_z":
            return self.projection[layer].register_forward_pre_hook(on_input, with_kwargs=True)
        module = self.attention[layer] if site == "attn_out" else self.mlp[layer]
        return module.register_forward_hook(on_output)

    def capture(self, ids: torch.Tensor, site: str) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        hooks = []
        for layer in range(len(self.blocks)):

            def keep(value, layer=layer):
                found[layer] = value.clone()

            hooks.append(self.hook(site, layer, keep))
        with torch.no_grad():
            self.model(ids)
        for hook in hooks:
            hook.remove()
        return [found[layer] for layer in range(len(self.blocks))]

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

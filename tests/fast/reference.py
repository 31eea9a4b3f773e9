"""An independent patching loop: plain hooks on the transformers model, one cell at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Reference:
    """A model with its modules found by hand, family by family."""

    def __init__(self, folder: Path, family: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model: Any = self.model
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
        else:
            self.blocks = model.model.layers
            gemma = family == "gemma2"
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

    def score(self, ids: torch.Tensor, answer: int, wrong: int) -> float:
        with torch.no_grad():
            logits = self.model(ids).logits[0, -1].double()
        return float(logits[answer] - logits[wrong])

    def hook(self, site: str, layer: int, change) -> Any:
        """Apply `change(activation)`; None as its return value leaves it as it is."""

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

    def middle_stream(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """resid_mid of every layer, taken where the norm before the MLP reads it."""
        found: list[torch.Tensor] = []
        hooks = [
            m.register_forward_pre_hook(lambda _m, a: found.append(a[0].clone()))
            for m in self.middle
        ]
        with torch.no_grad():
            self.model(ids)
        for hook in hooks:
            hook.remove()
        return found

    def patch(self, base, site: str, layer: int, change, answer: int, wrong: int) -> float:
        hook = self.hook(site, layer, change)
        try:
            return self.score(base, answer, wrong)
        finally:
            hook.remove()

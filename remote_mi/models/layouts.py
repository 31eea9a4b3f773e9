"""One vocabulary of module names for all architectures: the portable names, by layout.

A layout maps a family's own module paths to the portable names that recipes use:

    lm.backbone      the model without its unembedding
    lm.layers[i]     the blocks            lm.ln_final   the last module before the unembedding
    lm.embed_tokens  the token embedding   lm.lm_head    the unembedding
    layer.self_attn, layer.self_attn.o_proj, layer.mlp
    layer.ln_mlp     the norm whose input is resid_mid; absent in parallel blocks
    layer.attn_add, layer.mlp_add   the modules whose outputs are added to the stream
    layer.ln_after_attn, layer.ln_after_mlp   the norms of the stream after each addition (BERT)
    layer.mlp_flat   mlp_add again, if it sees rows and positions in one dimension (OPT)

Names that a model may lack, and with them the sites that need them:

    layer.down_proj  the MLP's last matrix, whose input is mlp_hidden
    self_attn.q_proj, k_proj, v_proj   the projections; or self_attn.qkv_proj for all three, with
                     self_attn.qkv_by_head too if it outputs them head by head
    self_attn.attends   the module that outputs head_z and the attention weights, if not self_attn

The layout is chosen by which modules exist, never by a model's name; `proof` verifies it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from remote_mi.common.errors import UsageError

Names = dict[str, str | list[str]]

_LLAMA: Names = {
    "model": "backbone",
    "model.layers": "layers",
    "model.norm": "ln_final",
    "model.embed_tokens": "embed_tokens",
}

_NEOX: Names = {
    "gpt_neox": "backbone",
    "gpt_neox.layers": "layers",
    "gpt_neox.final_layer_norm": "ln_final",
    "gpt_neox.embed_in": "embed_tokens",
    "attention": ["self_attn", "attn_add"],
    "attention.dense": "attention.o_proj",
    "mlp": "mlp_add",
}

_OPT: Names = {
    "model.decoder": "backbone",  # `model` itself is not run by the language model
    "model.decoder.layers": "layers",
    "model.decoder.embed_tokens": "embed_tokens",
    "self_attn": "attn_add",
    "self_attn.out_proj": "self_attn.o_proj",
    "fc2": ["mlp_add", "mlp_flat", "down_proj"],
}

# A submodule called `output` has the name `E_output` in nnsight's tree.
_BERT_LAYER: Names = {
    "attention": "self_attn",
    "attention.E_output.dense": ["attention.o_proj", "attn_add"],
    "attention.E_output.LayerNorm": "ln_after_attn",
    "E_output.dense": ["mlp_add", "down_proj"],
    "E_output.LayerNorm": "ln_after_mlp",
}


#: Layout name → module path (relative, as nnsight's `rename` takes it) → portable name(s).
#: Order matters: the first layout whose paths all exist is used. If it names no backbone, the
#: whole model is `lm.backbone`.
LAYOUTS: dict[str, Names] = {
    "gemma": {
        **_LLAMA,
        "post_attention_layernorm": "attn_add",
        "pre_feedforward_layernorm": "ln_mlp",
        "post_feedforward_layernorm": "mlp_add",
    },
    "llama": {
        **_LLAMA,
        "self_attn": "attn_add",
        "post_attention_layernorm": "ln_mlp",
        "mlp": "mlp_add",
    },
    "gpt2": {
        "transformer": "backbone",
        "transformer.h": "layers",
        "transformer.ln_f": "ln_final",
        "transformer.wte": "embed_tokens",
        "attn": ["self_attn", "attn_add"],
        "attn.c_proj": "attn.o_proj",
        "ln_2": "ln_mlp",
        "mlp": "mlp_add",
    },
    "neox": {**_NEOX, "post_attention_layernorm": "ln_mlp"},
    "neox-parallel": _NEOX,
    "phi": {
        "model": "backbone",
        "model.layers": "layers",
        "model.final_layernorm": "ln_final",
        "model.embed_tokens": "embed_tokens",
        "self_attn": "attn_add",
        "self_attn.dense": "self_attn.o_proj",
        "mlp": "mlp_add",
    },
    "opt": {
        **_OPT,
        "model.decoder.final_layer_norm": "ln_final",
        "final_layer_norm": "ln_mlp",
    },
    "opt-post-norm": {  # opt-350m
        **_OPT,
        "model.decoder.project_out": "ln_final",
        "self_attn_layer_norm": "ln_after_attn",
        "final_layer_norm": "ln_after_mlp",
    },
    "bert": {
        **_BERT_LAYER,
        "bert.encoder.layer": "layers",
        "bert.embeddings.word_embeddings": "embed_tokens",
        "cls.predictions.transform": "ln_final",
        "cls.predictions.decoder": "lm_head",
    },
    "bert-headless": {
        **_BERT_LAYER,
        "encoder.layer": "layers",
        "embeddings.word_embeddings": "embed_tokens",
        "encoder.layer.{last}.E_output.LayerNorm": "ln_final",
    },
}

#: Module path → portable name(s) added to a layout if the model has the module.
PARTS: Names = {
    "attn.c_attn": "attn.qkv_proj",
    "attention.query_key_value": ["attention.qkv_proj", "attention.qkv_by_head"],
    "attention.self": "attention.attends",
    "attention.self.query": "attention.q_proj",
    "attention.self.key": "attention.k_proj",
    "attention.self.value": "attention.v_proj",
    "mlp.c_proj": "down_proj",
    "mlp.dense_4h_to_h": "down_proj",
    "mlp.down_proj": "down_proj",
    "mlp.fc2": "down_proj",
}

#: What to do about an architecture that matches no layout.
NAMES_HINT = "map its modules with --names FILE (docs/models.md shows a mapping)"


def names_for(module: torch.nn.Module, given: Mapping[str, str] | None = None) -> Names:
    """The `rename` mapping of a model, from its module tree.

    Args:
        module: the transformers model, with or without weights.
        given: the user's own mapping, module path → portable name; used unchanged.

    Raises:
        UsageError: if no layout fits, or the user's mapping names a module that does not exist.
    """
    paths = [name for name, _ in module.named_modules()]
    if given:
        missing = [path for path in given if not _exists(path, paths)]
        if missing:
            raise UsageError(
                f"the names mapping names {missing[0]!r}, which is not a module of "
                f"{type(module).__name__}",
                NAMES_HINT,
            )
        return {path: name.split(",") if "," in name else name for path, name in given.items()}
    parallel = bool(getattr(module.config, "use_parallel_residual", False))
    last = getattr(module.config, "num_hidden_layers", 0) - 1
    for layout, names in LAYOUTS.items():
        if layout == "neox" and parallel:
            continue
        names = {path.format(last=last): name for path, name in names.items()}
        if all(_exists(path, paths) for path in names):
            parts = {path: name for path, name in PARTS.items() if _exists(path, paths)}
            return {**names, **{path: name for path, name in parts.items() if path not in names}}
    raise UsageError(
        f"the architecture {type(module).__name__} is not known: its modules match none of "
        f"{', '.join(LAYOUTS)}",
        NAMES_HINT,
    )


def _exists(key: str, paths: list[str]) -> bool:
    key = key.replace("E_output", "output")
    return any(path == key or path.endswith("." + key) for path in paths)

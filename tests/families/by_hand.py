"""Where each class's code adds what to its stream, written down by hand from that code.

It knows nothing of `remote_mi`: paths of modules below a layer, factors from the configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Number = Callable[[Any], float]


class Hand:
    """The parts of a class.

    Each is a path below the layer, or several with "|" between, of which a layer has one; "" for
    none. A site is missing from a layer that has none of its paths.

    Attributes:
        layers, norm, head: below the model: its blocks, the norm after them, the unembedding.
        attn, mlp, mixer, others: whose outputs are added to the stream, times `factor` or
            a factor of their own; `mixer`: of
            layers without a pattern, or, if `beside`, of the same layers.
        o: takes head_z. q, k, v: projections; fused: one for all three, in the order `packing`.
        down: takes the neurons. middle: takes the stream between the two additions. `mlp`,
            `mixer` and `middle` may be functions from the configuration and the layer to a path.
        factor, mixer_factor: of what is added. hidden_scale, scale, cap: of the read-out.
        end: what a layer multiplies its stream by at its end.
        attends: whether a layer has a pattern. edits: whether pattern · v is head_z.
    """

    layers, norm, head = "model.layers", "model.norm", "lm_head"
    attn, others, beside = "self_attn", (), False
    mlp: Any = "mlp"
    mixer: Any = ""
    o, down = "self_attn.o_proj", "mlp.down_proj"
    middle: Any = "post_attention_layernorm"
    q, k, v = "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"
    fused, packing = "", "thirds"
    factor: Number = staticmethod(lambda c: 1.0)
    mixer_factor: Number | None = None
    mlp_factor: Number | None = None
    hidden_scale: Number = staticmethod(lambda c: 1.0)
    scale: Number = staticmethod(lambda c: 1.0)
    cap: Callable[[Any], float | None] = staticmethod(lambda c: None)
    end: Number = staticmethod(lambda layer: 1.0)
    attends: Callable[[Any, int], bool] = staticmethod(lambda c, i: True)
    edits = True

    def __init__(self, *bases: dict[str, Any], **parts: Any) -> None:
        for given in (*bases, parts):
            for name, value in given.items():
                if not hasattr(type(self), name):
                    raise TypeError(f"a Hand has no part {name}")
                setattr(self, name, value)

    def edits_patterns(self) -> bool:
        """Whether pattern · v is head_z, with v a projection's output."""
        return self.edits and bool(self.v or self.fused)


def _full(config: Any, layer: int) -> bool:
    return "full" in config.layer_types[layer]


def _layer_scalar(layer: Any) -> float:
    return float(layer.layer_scalar)


def _final_cap(config: Any) -> float:
    return config.final_logit_softcapping


FEED: dict[str, Any] = {"mlp": "feed_forward", "down": "feed_forward.down_proj"}
NO_KEYS = {"k": "", "v": ""}
LATENT = {"q": "self_attn.q_b_proj", **NO_KEYS}
#: Norms after the sub-layers, before their outputs are added.
NORMED = {"attn": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}
GEMMA = {**NORMED, "middle": "pre_feedforward_layernorm"}
OLMO = {**NORMED, "middle": "mlp"}
GLM = {"attn": "post_self_attn_layernorm", "mlp": "post_mlp_layernorm"}
PARALLEL = {"middle": ""}
GRANITE: dict[str, Any] = {
    "factor": lambda c: c.residual_multiplier,
    "scale": lambda c: 1 / c.logits_scaling,
}
EXPERTS = {**GRANITE, "mlp": "block_sparse_moe", "down": ""}
COHERE: dict[str, Any] = {**PARALLEL, "scale": lambda c: c.logit_scale}
GATED = {"edits": False}
MAMBA = {
    "layers": "backbone.layers",
    "norm": "backbone.norm_f",
    "mixer": "mixer",
    **dict.fromkeys(("attn", "mlp", "o", "q", "k", "v", "down", "middle"), ""),
}
GPT = {
    "layers": "transformer.h",
    "norm": "transformer.ln_f",
    "attn": "attn",
    "o": "attn.c_proj",
    **dict.fromkeys("qkv", ""),
    "fused": "attn.c_attn",
    "down": "mlp.c_proj",
    "middle": "ln_2",
}
NEOX = {
    "o": "self_attention.dense",
    **dict.fromkeys("qkv", ""),
    "fused": "self_attention.query_key_value",
    "down": "mlp.dense_4h_to_h",
}
FALCON = {**NEOX, "attn": "self_attention", "layers": "transformer.h", "norm": "transformer.ln_f"}
LINEAR: dict[str, Any] = {"mixer": "linear_attn", "q": "", **GATED}

HANDS: dict[str, Hand] = {
    "afmoe": Hand(
        attn="post_attention_layernorm",
        mlp="post_mlp_layernorm",
        middle="pre_mlp_layernorm",
        **GATED,
    ),
    "apertus": Hand(middle="feedforward_layernorm"),
    "axk1": Hand(LATENT),
    "bailing_hybrid": Hand(LATENT, mixer="self_attn", q="self_attn.q_proj", attends=_full),
    "bamba": Hand(FEED, mixer="mamba", middle="pre_ff_layernorm", norm="model.final_layernorm"),
    "biogpt": Hand(
        layers="biogpt.layers",
        norm="biogpt.layer_norm",
        head="output_projection",
        o="self_attn.out_proj",
        mlp="fc2",
        down="fc2",
        middle="final_layer_norm",
    ),
    "bitnet": Hand(NO_KEYS),
    "bloom": Hand(FALCON, attn="self_attention.dense", mlp="mlp.dense_4h_to_h", packing="by_group"),
    "codegen": Hand(
        GPT,
        PARALLEL,
        o="attn.out_proj",
        fused="attn.qkv_proj",
        packing="four_cores",
        down="mlp.fc_out",
    ),
    "cohere": Hand(COHERE),
    "cohere2": Hand(COHERE),
    "cohere2_moe": Hand(COHERE),
    "cohere_compass_text": Hand(COHERE),
    "ctrl": Hand(
        layers="transformer.h",
        norm="transformer.layernorm",
        attn="multi_head_attention",
        o="multi_head_attention.dense",
        q="multi_head_attention.Wq",
        k="multi_head_attention.Wk",
        v="multi_head_attention.Wv",
        mlp="ffn",
        down="ffn.2",
        middle="layernorm2",
    ),
    "dbrx": Hand(
        layers="transformer.blocks",
        norm="transformer.norm_f",
        attn="norm_attn_norm.attn",
        o="norm_attn_norm.attn.out_proj",
        **dict.fromkeys("qkv", ""),
        fused="norm_attn_norm.attn.Wqkv",
        mlp="ffn",
        middle="norm_attn_norm.norm_2",
        **GATED,
    ),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32"), Hand(LATENT)),
    "diffllama": Hand(NO_KEYS),
    "exaone4": Hand(OLMO),
    "falcon": Hand(FALCON, PARALLEL, packing="by_group"),
    "falcon multi-query": Hand(FALCON, PARALLEL),
    "falcon alibi": Hand(FALCON, packing="by_group"),
    "falcon_h1": Hand(
        FEED,
        norm="model.final_layernorm",
        mixer="mamba",
        beside=True,
        middle="",
        mixer_factor=lambda c: c.ssm_out_multiplier,
        mlp_factor=lambda c: 1.0,
        factor=lambda c: c.attention_out_multiplier,
        scale=lambda c: c.lm_head_multiplier,
    ),
    "falcon_mamba": Hand(MAMBA),
    "flex_olmo": Hand(OLMO, down=""),
    "gemma2": Hand(GEMMA, cap=_final_cap),
    "gemma3_text": Hand(GEMMA),
    "gemma4_text": Hand(
        GEMMA,
        others=("post_per_layer_input_norm",),
        cap=_final_cap,
        end=_layer_scalar,
        **GATED,
    ),
    "gemma4_text wide": Hand(GEMMA, down="", end=_layer_scalar, **GATED),
    "glm4": Hand(GLM),
    "glm4_moe_lite": Hand(LATENT),
    "glm_moe_dsa": Hand(LATENT),
    "gpt-sw3": Hand(GPT),
    "gpt2": Hand(GPT),
    "gpt_bigcode": Hand(GPT),
    "gpt_bigcode multi-head": Hand(GPT, packing="by_group"),
    "gpt_neo": Hand(
        GPT,
        o="attn.attention.out_proj",
        q="attn.attention.q_proj",
        k="attn.attention.k_proj",
        v="attn.attention.v_proj",
        fused="",
    ),
    "gpt_neox": Hand(
        NEOX,
        PARALLEL,
        layers="gpt_neox.layers",
        norm="gpt_neox.final_layer_norm",
        head="lm_head|embed_out",
        attn="attention",
        o="attention.dense",
        fused="attention.query_key_value",
        packing="by_group",
    ),
    "gptj": Hand(
        GPT,
        PARALLEL,
        o="attn.out_proj",
        q="attn.q_proj",
        k="attn.k_proj",
        v="attn.v_proj",
        fused="",
        down="mlp.fc_out",
    ),
    "granite": Hand(GRANITE),
    "granite_swa": Hand(GRANITE, GATED),
    "granitemoe": Hand(EXPERTS),
    **dict.fromkeys(("granitemoeshared",), Hand(EXPERTS, others=("shared_mlp",))),
    "granitemoe_swa": Hand(EXPERTS, GATED, others=("shared_mlp",)),
    "granitemoehybrid": Hand(EXPERTS, others=("shared_mlp",), mixer="mamba"),
    "hyperclovax": Hand(
        GRANITE, attn="post_norm1", mlp="post_norm2", scale=lambda c: c.logits_scaling
    ),
    "inkling_text": Hand(
        MAMBA,
        layers="model.layers",
        norm="model.norm",
        mixer="attn_sconv",
        others=("mlp_sconv",),
        hidden_scale=lambda c: 1 / c.logits_mup_width_multiplier,
    ),
    "jamba": Hand(FEED, mixer="mamba", middle="pre_ff_layernorm", norm="model.final_layernorm"),
    "jetmoe": Hand(attn="self_attention", o="", q="", **NO_KEYS),
    "kimi_linear": Hand(NO_KEYS, mixer="self_attn", attends=_full),
    "kolibri1": Hand(GLM),
    "laguna": Hand(GATED),
    "lfm2": Hand(
        norm="model.embedding_norm",
        mixer="conv",
        o="self_attn.out_proj",
        mlp="feed_forward",
        down="feed_forward.w2",
        middle="ffn_norm",
    ),
    "llama4_text": Hand(FEED),
    "mamba": Hand(MAMBA),
    "mamba2": Hand(MAMBA),
    "mimo_v2_flash": Hand(NO_KEYS),
    "minicpm3": Hand(
        LATENT,
        factor=lambda c: c.scale_depth / c.num_hidden_layers**0.5,
        hidden_scale=lambda c: c.dim_model_base / c.hidden_size,
    ),
    "mpt": Hand(
        layers="transformer.blocks",
        norm="transformer.norm_f",
        attn="attn",
        o="attn.out_proj",
        **dict.fromkeys("qkv", ""),
        fused="attn.Wqkv",
        mlp="ffn.down_proj",
        down="ffn.down_proj",
        middle="norm_2",
    ),
    "nemotron_h": Hand(
        MAMBA,
        layers="model.layers",
        norm="model.norm_f",
        attn="mixer",
        o="mixer.o_proj",
        q="mixer.q_proj",
        k="mixer.k_proj",
        v="mixer.v_proj",
        attends=lambda c, i: c.layers_block_type[i] == "full_attention",
        mixer=lambda c, i: "mixer" if "linear" in c.layers_block_type[i] else "",
        mlp=lambda c, i: "mixer" if c.layers_block_type[i] in ("mlp", "moe") else "",
        down="mixer.down_proj",
    ),
    "olmo": Hand(GATED),
    "olmo2": Hand(OLMO),
    "olmo3": Hand(OLMO),
    "olmo_hybrid": Hand(
        attn="post_attention_layernorm",
        mixer="linear_attn",
        mlp="post_feedforward_layernorm|mlp",
        middle=lambda c, i: "mlp" if _full(c, i) else "post_attention_layernorm",
        attends=_full,
    ),
    "olmoe": Hand(GATED),
    "opt": Hand(
        layers="model.decoder.layers",
        norm="model.decoder.final_layer_norm",
        o="self_attn.out_proj",
        mlp="fc2",
        down="fc2",
        middle="final_layer_norm",
    ),
    "opt post-norm": Hand(
        layers="model.decoder.layers",
        norm="model.decoder.project_out",
        o="self_attn.out_proj",
        mlp="fc2",
        down="fc2",
        middle="",
    ),
    "persimmon": Hand(
        NEOX,
        norm="model.final_layernorm",
        o="self_attn.dense",
        fused="self_attn.query_key_value",
        packing="by_group",
    ),
    "phi": Hand(PARALLEL, norm="model.final_layernorm", o="self_attn.dense", down="mlp.fc2"),
    "phi3": Hand(**dict.fromkeys("qkv", ""), fused="self_attn.qkv_proj"),
    **dict.fromkeys(("qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"), Hand(LINEAR)),
    "recurrent_gemma": Hand(
        norm="model.final_norm",
        attn="temporal_block",
        mixer="temporal_block",
        attends=lambda c, i: c.layers_block_type[i] == "attention",
        o="temporal_block.o_proj",
        q="temporal_block.q_proj",
        k="temporal_block.k_proj",
        v="temporal_block.v_proj",
        mlp="mlp_block",
        down="mlp_block.down_proj",
        middle="channel_pre_norm",
        cap=lambda c: c.logits_soft_cap,
    ),
    "stablelm parallel": Hand(PARALLEL),
    "starcoder2": Hand(down="mlp.c_proj"),
    "vaultgemma": Hand(middle="pre_feedforward_layernorm", cap=_final_cap),
    "xglm": Hand(
        norm="model.layer_norm",
        o="self_attn.out_proj",
        mlp="fc2",
        down="fc2",
        middle="final_layer_norm",
    ),
    "xlstm": Hand(
        MAMBA,
        layers="backbone.blocks",
        mixer="mlstm_layer",
        norm="backbone.out_norm",
        mlp="ffn",
        down="ffn.proj_down",
        middle="norm_ffn",
        cap=lambda c: c.output_logit_soft_cap,
    ),
    "youtu": Hand(LATENT),
    "zamba": Hand(
        MAMBA,
        layers="model.layers",
        norm="model.final_layernorm",
        mixer="mamba_decoder.mamba|mamba",
    ),
}
HANDS["gpt_neox sequential"] = Hand(vars(HANDS["gpt_neox"]), middle="post_attention_layernorm")
HANDS["lfm2_moe"] = HANDS["lfm2"]
HANDS["zamba2"] = HANDS["zamba"]


def hand_of(name: str) -> Hand:
    """The parts of a class; those that are not in the table are laid out as Llama is."""
    return HANDS.get(name) or Hand()

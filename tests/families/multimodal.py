"""Tiny models of texts and pictures, class by class, of which the text is what runs."""

from __future__ import annotations

from typing import Any

from .encoders import PRE_NORM, Family, t

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: A vision tower of one layer, in the words of several families.
PICTURE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 8,
}
QWEN_PICTURE: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 32,
    "embed_dim": 16,
    "num_heads": 2,
    "intermediate_size": 16,
    "out_hidden_size": 32,
    "patch_size": 4,
    "spatial_merge_size": 1,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [],
}
ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
WINDOWS = {
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
GEMMA = {
    **PRE_NORM,
    "attn_out": "post_attention_layernorm",
    "mlp_out": "post_feedforward_layernorm",
}
LLAVA: dict[str, Any] = {"image_token_index": 5, "vision_config": PICTURE}


class Pictured(Family):
    """A model of texts and pictures; `blocks` are its language model's."""

    def __init__(
        self, config: str, text: dict[str, Any], modules: dict[str, str], **settings: Any
    ) -> None:
        self.inner = settings.pop("inner", "model.language_model")
        super().__init__(config, f"{self.inner}.layers", modules, self._read_out, **settings)
        self.text, self.causal = text, True

    def _read_out(self, model: Any, x: Any) -> Any:
        return model.get_output_embeddings()(model.get_submodule(f"{self.inner}.norm")(x))

    @property
    def auto(self) -> Any:
        return t.AutoModelForImageTextToText

    def configuration(self, vocabulary: int) -> Any:
        text = {**TEXT, **self.text, "vocab_size": vocabulary}
        return getattr(t, self.config)(text_config=text, **self.settings)


FAMILIES: dict[str, Family] = {
    "gemma3": Pictured(
        "Gemma3Config",
        {**WINDOWS, "query_pre_attn_scalar": 8},
        GEMMA,
        vision_config=PICTURE,
        mm_tokens_per_image=4,
    ),
    "gemma4": Pictured(
        "Gemma4Config",
        {
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "global_head_dim": 8,
        },
        {site: path for site, path in GEMMA.items() if site not in ("q", "k", "v")},
    ),
    "qwen2_vl": Pictured(
        "Qwen2VLConfig", {"rope_parameters": ROTARY}, PRE_NORM, vision_config=QWEN_PICTURE
    ),
    "qwen2_5_vl": Pictured(
        "Qwen2_5_VLConfig", {"rope_parameters": ROTARY}, PRE_NORM, vision_config=QWEN_PICTURE
    ),
    "qwen3_vl": Pictured(
        "Qwen3VLConfig", {"rope_parameters": ROTARY}, PRE_NORM, vision_config=QWEN_PICTURE
    ),
    "llava": Pictured(
        "LlavaConfig",
        {"model_type": "llama"},
        PRE_NORM,
        **{**LLAVA, "vision_config": {**PICTURE, "model_type": "clip_vision_model"}},
    ),
    "mistral3": Pictured(
        "Mistral3Config",
        {"model_type": "mistral", "sliding_window": 6},
        PRE_NORM,
        vision_config={**PICTURE, "model_type": "pixtral", "head_dim": 8},
    ),
    "idefics3": Pictured(
        "Idefics3Config",
        {"model_type": "llama"},
        PRE_NORM,
        inner="model.text_model",
        vision_config=PICTURE,
        pad_token_id=2,
        image_token_id=5,
    ),
    "paligemma": Pictured(
        "PaliGemmaConfig",
        {"model_type": "gemma"},
        PRE_NORM,
        **{**LLAVA, "vision_config": {**PICTURE, "model_type": "siglip_vision_model"}},
    ),
    "internvl": Pictured(
        "InternVLConfig",
        {"model_type": "qwen2"},
        PRE_NORM,
        vision_config={**PICTURE, "image_size": [16, 16], "patch_size": [8, 8]},
        image_token_id=5,
    ),
    "llama4": Pictured(
        "Llama4Config",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 48,
            "interleave_moe_layer_step": 2,
        },
        {
            site: path
            for site, path in {**PRE_NORM, "mlp_out": "feed_forward"}.items()
            if site != "mlp_hidden"
        },
        inner="language_model.model",
        vision_config={
            **PICTURE,
            "vision_output_dim": 16,
            "projector_input_dim": 16,
            "projector_output_dim": 16,
        },
    ),
}
#: Those whose tests run with the quick group.
QUICK = ("gemma3",)

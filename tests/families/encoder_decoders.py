"""Tiny encoder–decoders, class by class; the modules are the encoder's, found by hand."""

from __future__ import annotations

from typing import Any

import torch

from .encoders import Family, t

T5 = {
    "attn_out": "layer.0.SelfAttention",
    "mlp_out": "layer.1.DenseReluDense",
    "head_z": "layer.0.SelfAttention.o",
    "mlp_hidden": "layer.1.DenseReluDense.wo",
    "q": "layer.0.SelfAttention.q",
    "k": "layer.0.SelfAttention.k",
    "v": "layer.0.SelfAttention.v",
    "resid_mid": "layer.1",
}
BART = {
    "attn_out": "self_attn",
    "mlp_out": "fc2",
    "head_z": "self_attn.out_proj",
    "mlp_hidden": "fc2",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
}
T5_SIZES: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 12,  # heads are wider than the stream together
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "pad_token_id": 2,
    "eos_token_id": 2,
    "initializer_factor": 1.0,
    "decoder_start_token_id": 0,
}
BART_SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "init_std": 0.4,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}


class Paired(Family):
    """An encoder–decoder; `blocks` are the encoder's.

    Attributes:
        forced: whether a first token is forced upon its answers.
    """

    def __init__(
        self,
        config: str,
        blocks: str,
        modules: dict[str, str],
        prefix: tuple[int, ...],
        **sizes: Any,
    ) -> None:
        super().__init__(config, blocks, modules, None, **sizes)
        self.prefix = prefix

    @property
    def auto(self) -> Any:
        return t.AutoModelForSeq2SeqLM

    def configuration(self, vocabulary: int) -> Any:
        return getattr(t, self.config)(vocab_size=vocabulary, **self.settings)

    def alter(self, model: Any) -> None:
        model.generation_config.forced_eos_token_id = None
        if len(self.prefix) > 1:
            model.generation_config.forced_bos_token_id = self.prefix[1]
        with torch.no_grad():  # as far from 0 as trained ones
            for parameter in model.parameters():
                if parameter.dim() > 1 and parameter.std() < 0.1:
                    parameter.mul_(0.3 / parameter.std())


FAMILIES: dict[str, Family] = {
    "t5": Paired("T5Config", "encoder.block", T5, (0,), **T5_SIZES),
    "t5-gated": Paired(
        "T5Config",
        "encoder.block",
        T5,
        (0,),
        **T5_SIZES,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ),
    "mt5": Paired("MT5Config", "encoder.block", T5, (0,), **T5_SIZES),
    "umt5": Paired("UMT5Config", "encoder.block", T5, (0,), **T5_SIZES),
    "bart": Paired("BartConfig", "model.encoder.layers", BART, (2, 1), **BART_SIZES),
    "mbart": Paired(
        "MBartConfig", "model.encoder.layers", BART, (2,), **BART_SIZES, scale_embedding=True
    ),
    "plbart": Paired("PLBartConfig", "model.encoder.layers", BART, (2,), **BART_SIZES),
    "marian": Paired("MarianConfig", "model.encoder.layers", BART, (2,), **BART_SIZES),
    "pegasus": Paired("PegasusConfig", "model.encoder.layers", BART, (2,), **BART_SIZES),
    "m2m_100": Paired("M2M100Config", "model.encoder.layers", BART, (2,), **BART_SIZES),
    "blenderbot": Paired("BlenderbotConfig", "model.encoder.layers", BART, (2,), **BART_SIZES),
    "blenderbot-small": Paired(
        "BlenderbotSmallConfig", "model.encoder.layers", BART, (2,), **BART_SIZES
    ),
}
#: Those whose tests run with the quick group.
QUICK = ("t5", "bart")

"""Tiny random models of several families, with a tokenizer of one token per word.

They are made in seconds from configurations, without a network: to try code on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Causal language models. Where a family has sliding windows, they are shorter than the prompts.
FAMILIES = (
    "llama",
    "gpt2",
    "neox",
    "neox-parallel",
    "qwen3",
    "gemma2",
    "gemma3",
    "mistral",
    "opt",
    "phi",
    "mixtral",
    "qwen3-moe",
)
#: Attention and MLP run side by side: no resid_mid.
PARALLEL = ("neox-parallel", "phi")
#: Models that read a text in both directions and fill a mask.
ENCODERS = ("bert",)
#: Made by `tiny` too, but not among the families that every technique is tried on.
OTHERS = ("opt-post-norm", "bert-headless")


def words_of(texts: Iterable[str]) -> list[str]:
    """Every word of the texts, with the space before it if it has one."""
    return sorted({word for text in texts for word in re.findall(r" ?\w+| ?[^\w\s]+|\s+", text)})


def save_tokenizer(folder: Path, texts: Iterable[str], masked: bool = False) -> int:
    """Save a fast tokenizer with one token per word; returns the size of its vocabulary.

    Args:
        texts: which it knows every word of, with and without a space before it.
        masked: with a mask token, and texts put between [CLS] and [SEP], as BERT has it.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    level = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    words = [piece for word in words_of(texts) for piece, _ in level.pre_tokenize_str(word)]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = level
    tokenizer.decoder = decoders.ByteLevel()
    named: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    if masked:
        for special in ("[CLS]", "[SEP]", "[MASK]"):
            vocabulary[special] = len(vocabulary)
        tokenizer.model = models.WordLevel(vocabulary, unk_token="<unk>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
        )
        # The mask takes the space before it along, as a word does.
        mask = AddedToken("[MASK]", lstrip=True)
        named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": mask}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **named).save_pretrained(
        folder
    )
    return len(vocabulary)


def configuration(family: str, vocabulary: int) -> Any:
    """The configuration of a tiny model of a family; `vocabulary`: the number of its tokens."""
    import transformers

    t: Any = transformers  # its stubs do not know every field

    common = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": vocabulary,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "initializer_range": 0.4,
    }
    grouped = {**common, "num_key_value_heads": 2}
    gemma = {**grouped, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}
    alternating = ["sliding_attention", "full_attention", "sliding_attention"]
    opt = {k: v for k, v in common.items() if k not in ("intermediate_size", "initializer_range")}
    opt.update(ffn_dim=48, init_std=0.4)
    made = {
        "llama": lambda: t.LlamaConfig(**grouped),
        "qwen3": lambda: t.Qwen3Config(**grouped, head_dim=8),
        "qwen3-moe": lambda: t.Qwen3MoeConfig(
            **grouped,
            head_dim=8,
            moe_intermediate_size=24,
            num_experts=4,
            num_experts_per_tok=2,
            mlp_only_layers=[1],
        ),
        "mixtral": lambda: t.MixtralConfig(**grouped, num_local_experts=4, num_experts_per_tok=2),
        "mistral": lambda: t.MistralConfig(**grouped, head_dim=8, sliding_window=6),
        "gemma2": lambda: t.Gemma2Config(**gemma),
        "gemma3": lambda: t.Gemma3TextConfig(**gemma, layer_types=alternating),
        "phi": lambda: t.PhiConfig(**grouped),
        "opt": lambda: t.OPTConfig(**opt, word_embed_proj_dim=32),
        "opt-post-norm": lambda: t.OPTConfig(
            **opt, word_embed_proj_dim=16, do_layer_norm_before=False
        ),
        "bert": lambda: t.BertConfig(**common),
        "neox-parallel": lambda: t.GPTNeoXConfig(**common, use_parallel_residual=True),
        "neox": lambda: t.GPTNeoXConfig(**common, use_parallel_residual=False),
        "gpt2": lambda: t.GPT2Config(
            n_embd=32,
            n_layer=3,
            n_head=4,
            n_inner=48,
            n_positions=64,
            vocab_size=vocabulary,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.4,
        ),
    }
    return made[family]()


def set_biases(model: Any) -> None:
    """Change biases and norms from their 0 and 1, with which code that forgets them works, too."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))


def save_tiny_model(family: str, folder: Path, texts: Iterable[str]) -> None:
    """Save a tiny random model of a family, the same each time, with its tokenizer.

    Args:
        family: one of `FAMILIES`, `ENCODERS` or `OTHERS`. texts: as for `save_tokenizer`.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

    masked = family.startswith("bert")
    size = save_tokenizer(folder, texts, masked)
    auto: Any = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    if family == "bert-headless":
        auto = AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(configuration(family.removesuffix("-headless"), size))
        set_biases(model)
    model.eval().save_pretrained(folder)

"""Small tokenizers of every kind that language models have, trained on the words of the tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from .conftest import MARY

#: Texts that they are trained on, long enough for whole words; letters of several bytes among them.
TEXTS = [
    MARY["clean"],
    MARY["corrupt"],
    "Mary John",
    "Paris München",
    "a 1 the x . ,",
    "The system says Mary and Mary and John",
    "user assistant system turn",
]
SPECIAL = ["<unk>", "<s>", "</s>"]
#: Letters that none of them has as a token of its own: bytes, or unknown.
STRANGE = "é"


def _corpus() -> Iterator[str]:
    for _ in range(50):
        yield from TEXTS


def byte_level() -> Any:
    """As GPT-2, Llama 3, Qwen."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(_corpus(), trainer)
    return made


def sentencepiece_bpe() -> Any:
    """As Llama 2 and Gemma: a space is put before the text, and unknown letters are bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    made = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    from tokenizers import pre_tokenizers

    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL + bytes_, show_progress=False
    )
    made.train_from_iterator(_corpus(), trainer)
    return made


def unigram() -> Any:
    """As T5 and XLM-R."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(_corpus(), trainer)
    return made


def wordpiece() -> Any:
    """As BERT."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator(_corpus(), trainer)
    return made


KINDS: dict[str, Callable[[], Any]] = {
    "byte-level BPE": byte_level,
    "SentencePiece BPE": sentencepiece_bpe,
    "Unigram": unigram,
    "WordPiece": wordpiece,
}


@functools.cache
def _trained(kind: str) -> str:
    """Trained once: two trainings need not give the same ids."""
    return KINDS[kind]().to_str()


def wrapped(kind: str, template: str = "", chat: str = "") -> Any:
    """A tokenizer of transformers.

    Args:
        template: what it puts around a text, e.g. "$A </s>". chat: a chat template.
    """
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer.from_str(_trained(kind))
    if template:
        special = [(name, made.token_to_id(name)) for name in SPECIAL if name in template]
        made.post_processor = processors.TemplateProcessing(template, special_tokens=special)
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    if chat:
        found.chat_template = chat
    return found


def save_model(folder: Any, tokenizer: Any, made: Any = None) -> Any:
    """Save a tiny model with random weights and this tokenizer; returns the model.

    Args:
        made: from the size of the vocabulary to a configuration; a Llama's by default.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    size = len(tokenizer)
    config = (
        made(size)
        if made
        else LlamaConfig(
            vocab_size=size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            max_position_embeddings=128,
            initializer_range=0.4,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        )
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model

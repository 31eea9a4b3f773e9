"""Masks in the tokenizers of RoBERTa, XLM-R and their like, whose mask takes the space along."""

from __future__ import annotations

from typing import Any

import pytest

from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.errors import PromptErrors
from remote_mi.prompts.examples import Example, PromptSet
from remote_mi.prompts.tokens import Tokenized, tokenize

from ...tokenizers import KINDS, wrapped

INSIDE = "When Mary and John went to the store, John gave <mask> drink to"
AT_END = "When Mary and John went to the store, John gave"


def xlm_r() -> Any:
    """A SentencePiece tokenizer of whole words, with the space before them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [(f"▁{word}", -2.0) for word in INSIDE.replace(",", "").replace("<mask>", "a").split()]
    pieces = [(letter, -8.0) for letter in "▁abcdefghijklmnopqrstuvwxyzJMW"]
    special = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    made = Tokenizer(models.Unigram([*special, *words, (",", -2.0), *pieces], unk_id=3))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **named)


def masked(kind: str, lstrip: bool = True) -> Any:
    from tokenizers import AddedToken

    tokenizer = xlm_r() if kind == "Unigram" else wrapped(kind, "<s> $A </s>")
    mask = AddedToken("<mask>", lstrip=lstrip, special=True)
    tokenizer.add_special_tokens({"mask_token": mask})
    return tokenizer


def tokenized(tokenizer: Any, text: str, answer: str, **kind: bool) -> Tokenized:
    prompts = PromptSet((Example(text, answer=answer),), "a test")
    return tokenize(tokenizer, prompts, ModelSpec(), "prompt", 512, bidirectional=True, **kind)


#: But for the kind that puts a space of its own after every special token: it has no mask.
WITH_MASK = [kind for kind in KINDS if kind != "SentencePiece BPE"]


@pytest.mark.parametrize("kind", WITH_MASK)
@pytest.mark.parametrize("text", [INSIDE, AT_END])
@pytest.mark.parametrize("answer", [" a", "a"])
def test_the_answer_is_the_token_that_the_text_has_at_the_mask(kind, text, answer):
    tokenizer = masked(kind)
    prompt = tokenized(tokenizer, text, answer, masked=True).prompts[0]
    filled = tokenizer(INSIDE.replace("<mask>", "a") if text == INSIDE else f"{text} a")
    assert prompt.ids[prompt.end] == tokenizer.mask_token_id
    own = [*prompt.ids]
    own[prompt.end] = prompt.target
    assert own == filled["input_ids"]


def test_a_mask_that_leaves_the_space_behind_is_refused():
    for kind in ("byte-level BPE", "Unigram"):
        with pytest.raises(PromptErrors, match="merges with the text next to the mask"):
            tokenized(masked(kind, lstrip=False), INSIDE, " a", masked=True)


def test_a_decoders_answer_is_a_text_of_its_own():
    for kind in WITH_MASK:
        tokenizer = masked(kind)
        own = tokenizer("a", add_special_tokens=False)["input_ids"]
        for answer in ("a", " a"):
            found = tokenized(tokenizer, AT_END, answer, decoded=True)
            assert [found.prompts[0].target] == own, kind
            assert found.tokens[0][-1] == "</s>", "the encoder reads the end of the text, too"
            assert found.prompts[0].end == len(found.tokens[0]) - 2
            assert found.record["decoded"] is True
        with pytest.raises(PromptErrors, match=r"is \d+ tokens"):
            tokenized(tokenizer, AT_END, " a drink to", decoded=True)

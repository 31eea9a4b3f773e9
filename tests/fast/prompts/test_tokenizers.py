"""Prompts and generated text with every kind of tokenizer and template: nothing lost, nothing moved."""

from __future__ import annotations

from typing import Any

import pytest

import remote_mi as mi
from remote_mi.common.errors import RemoteMIError, UsageError
from remote_mi.common.text import line as visible_line
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.errors import PromptErrors
from remote_mi.prompts.examples import Example, PromptSet
from remote_mi.prompts.token_text import TokenTexts
from remote_mi.prompts.tokens import Tokenized, tokenize

from ...conftest import MARY
from ...tokenizers import KINDS, save_model, wrapped

SPACED = ("byte-level BPE", "SentencePiece BPE", "Unigram")


def tokenized(
    tokenizer: Any,
    text: str,
    spec: ModelSpec | None = None,
    over: str = "prompt",
    bidirectional: bool = False,
    **more: Any,
) -> Tokenized:
    prompts = PromptSet((Example(text, **more),), "a test")
    return tokenize(tokenizer, prompts, spec or ModelSpec(), over, 512, bidirectional=bidirectional)


# --- tokens as text -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [MARY["clean"], "Mary Mary", "Paris München", "the é store"])
def test_passages_are_what_was_tokenized(kind, text):
    tokenizer = wrapped(kind)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    expected = text.replace("é", "<unk>") if kind in ("Unigram", "WordPiece") else text
    found = TokenTexts(tokenizer).text(ids)
    assert found.lstrip() == expected
    assert TokenTexts(tokenizer).text(ids[1:]) == found.removeprefix(
        TokenTexts(tokenizer).text(ids[:1])
    ), "a passage goes on after another text"


@pytest.mark.parametrize("kind", SPACED)
def test_a_word_with_a_space_before_it_is_not_the_word_without(kind):
    tokenizer = wrapped(kind)
    texts = TokenTexts(tokenizer)
    labels = tokenized(tokenizer, MARY["clean"]).tokens[0]
    assert "".join(labels).lstrip() == MARY["clean"], "labels put together are the text"
    assert all(labels), "no label is empty"
    vocabulary = [texts.token(token) for token in range(len(tokenizer))]
    whole = [text for text in vocabulary if not text.startswith("<0x") and len(text) > 1]
    assert len(set(whole)) == len(whole), "two tokens, two texts"


def test_what_is_no_whole_character_keeps_its_bytes():
    for kind in ("byte-level BPE", "SentencePiece BPE"):
        tokenizer = wrapped(kind)
        labels = tokenized(tokenizer, "the é").tokens[0]
        assert labels[-2:] == ["<0xC3>", "<0xA9>"], kind
    assert TokenTexts(tokenizer).token(len(tokenizer) + 7) == f"<{len(tokenizer) + 7}>"


def test_wordpieces_are_written_as_its_vocabulary_writes_them():
    labels = tokenized(wrapped("WordPiece"), "Marys").tokens[0]
    assert labels[0] == "Mary" and labels[1] == "##s"


@pytest.mark.parametrize("kind", SPACED)
def test_generated_text_is_decoded_as_a_whole(project, tmp_path, kind):
    tokenizer = wrapped(kind)
    save_model(tmp_path, tokenizer)
    found = mi.run(
        "patchscopes", model=tmp_path, prompt="the store", steps=6, inspection="to the store, John"
    )
    (tokens,) = found.each("unpatched_text")
    front = tokenizer("a", add_special_tokens=False).input_ids[-1:]
    expected = tokenizer.decode([*front, *[t for t in tokens.values if t >= 0]])
    assert "a" + found.passage(tokens.values) == expected
    assert visible_line(expected[1:]) in repr(found)


# --- what a tokenizer closes a text with ----------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", ["$A </s>", "<s> $A </s>", "<s> $A", "$A"])
def test_the_answer_is_read_after_the_last_token_of_the_text(kind, template):
    tokenizer = wrapped(kind, template)
    plain = wrapped(kind)(MARY["clean"], add_special_tokens=False).input_ids
    begins = [1] if template.startswith("<s>") else []
    found = tokenized(tokenizer, MARY["clean"], answer=" Mary" if kind != "Unigram" else None)
    (prompt,) = found.prompts
    assert prompt.ids == [*begins, *plain] and prompt.end == len(prompt.ids) - 1
    closed = "</s>" in template
    assert bool(found.record.get("closing_left_out")) == closed
    assert any("ends every text with </s>" in note for note in found.warnings) == closed


def test_a_model_that_reads_both_ways_keeps_what_closes_a_text():
    found = tokenized(wrapped("WordPiece", "<s> $A </s>"), MARY["clean"], bidirectional=True)
    (prompt,) = found.prompts
    assert prompt.ids[-1] == 2 and prompt.end == len(prompt.ids) - 2
    assert "closing_left_out" not in found.record


def test_numbers_do_not_depend_on_what_a_tokenizer_appends(project, tmp_path):
    results = []
    for name, template in (("plain", "$A"), ("closing", "$A </s>")):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, wrapped("byte-level BPE", template))
        results.append(mi.run("baseline", model=tmp_path / name, pairs=[MARY]))
    assert float(results[0]["logit_diff"]) == float(results[1]["logit_diff"])
    assert not results[0].notes and "ends every text with </s>" in results[1].notes[0]


def test_a_text_that_itself_ends_with_an_end_token_keeps_it():
    tokenizer = wrapped("byte-level BPE", "$A </s>")
    (prompt,) = tokenized(tokenizer, "Mary John</s>").prompts
    assert prompt.ids[-1] == 2 and prompt.ids.count(2) == 1
    (never,) = tokenized(tokenizer, "Mary John", ModelSpec(bos="never")).prompts
    assert 2 not in never.ids


# --- conversations --------------------------------------------------------------------------------

SYSTEM = "The system says Mary and Mary and John"
TEMPLATES = {
    "plain": "{{ '<s>" + SYSTEM + " user ' + messages[0]['content'] + ' assistant' }}",
    "trims": "{{ '<s>" + SYSTEM + " user ' + messages[0]['content'] | trim + ' assistant' }}",
    "appends": "{{ '<s>" + SYSTEM + " ' + messages[0]['content'] + ' turn and Mary assistant' }}",
}


@pytest.mark.parametrize("kind", ["byte-level BPE", "SentencePiece BPE", "Unigram"])
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("text", ["When Mary and John went", "  When Mary and John went "])
def test_a_label_stands_where_the_text_was_put_in(kind, template, text):
    tokenizer = wrapped(kind, chat=TEMPLATES[template])
    start = text.index("Mary")
    found = tokenized(tokenizer, text, ModelSpec(chat=True), labels={"name": (start, start + 4)})
    (prompt,) = found.prompts
    first, last = prompt.spans["name"]
    assert "".join(found.tokens[0][first : last + 1]).strip() == "Mary"
    before = "".join(found.tokens[0][:first])
    assert before.count("Mary") == 2 and before.rstrip().endswith("When"), before
    assert prompt.end == len(prompt.ids) - 1


@pytest.mark.parametrize(
    "template, why",
    [
        (
            "{{ messages[0]['content'] + ' and ' + messages[0]['content'] }}",
            "inserts the text 2 times",
        ),
        ("{{ messages[0]['content'] | upper }}", "changes the text"),
        ("{{ 'user ' + messages[0]['content'] | replace('Mary', 'John') }}", "changes the text"),
    ],
)
def test_labels_whose_place_is_not_clear_are_refused(template, why):
    tokenizer = wrapped("byte-level BPE", chat=template)
    with pytest.raises(PromptErrors, match=f"labelled positions cannot be found: .*{why}"):
        tokenized(tokenizer, "When Mary went", ModelSpec(chat=True), labels={"name": (5, 9)})
    assert tokenized(tokenizer, "When Mary went", ModelSpec(chat=True)).prompts[0].end


def test_a_template_that_fails_or_ends_a_text_is_said():
    failing = wrapped("byte-level BPE", chat="{{ raise_exception('no') }}")
    with pytest.raises(RemoteMIError, match="chat template failed"):
        tokenized(failing, "When Mary went", ModelSpec(chat=True))
    ending = wrapped("byte-level BPE", chat="{{ messages[0]['content'] + '</s>' }}")
    (note,) = tokenized(ending, "When Mary went", ModelSpec(chat=True)).warnings
    assert "the chat template ends with </s>" in note


# --- answers --------------------------------------------------------------------------------------


def test_an_answer_that_the_tokenizer_does_not_know_is_refused():
    with pytest.raises(
        PromptErrors, match="' é' is unknown to this tokenizer, which encodes it as <unk>"
    ):
        tokenized(wrapped("WordPiece"), "When Mary went to", answer=" é")
    known = tokenized(wrapped("byte-level BPE"), "When Mary went to", answer="<unk>")
    assert known.prompts[0].target == 0, "asked for by its name it is meant"


def test_an_unknown_answer_is_refused_before_anything_runs(project, tiny_llama, cli):
    code, out, err = cli(
        "run",
        "logit_lens",
        "--model",
        tiny_llama,
        "-p",
        "prompt=Mary and John",
        "-p",
        "target= Zanzibar",
    )
    assert code == 2 and out == "" and "unknown to this tokenizer" in err


def test_a_tokenizer_that_cannot_be_seen_through_is_refused():
    class Odd:
        is_fast, bos_token_id, all_special_ids = False, None, []
        chat_template = None

        def __call__(self, text: str, add_special_tokens: bool = True, **_: Any) -> Any:
            return {"input_ids": [9, 9] if add_special_tokens else [1]}

        def __len__(self) -> int:
            return 10

        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(map(str, ids))

    with pytest.raises(UsageError, match="cannot determine what this tokenizer adds"):
        tokenized(Odd(), "a")


def test_offsets_hold_with_what_is_put_before_and_after(project):
    """The same label at the same token, whatever stands around the text."""
    for kind in SPACED:
        for template in ("$A", "<s> $A", "<s> $A </s>"):
            for bos in ("auto", "always", "never"):
                tokenizer = wrapped(kind, template)
                start = MARY["clean"].index("John gave")
                found = tokenized(
                    tokenizer, MARY["clean"], ModelSpec(bos=bos), labels={"s2": (start, start + 4)}
                )
                first, last = found.prompts[0].spans["s2"]
                assert "".join(found.tokens[0][first : last + 1]).strip() == "John"

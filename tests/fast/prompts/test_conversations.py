"""Conversations: the tokenizer's own template, labels and roles at their tokens, thinking, BOS."""

from __future__ import annotations

import json
from typing import Any

import pytest

import remote_mi as mi
from remote_mi.common.errors import UsageError
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts import phenomena
from remote_mi.prompts.errors import PromptErrors
from remote_mi.prompts.examples import PromptSet, parse_example
from remote_mi.prompts.tokens import Tokenized, tokenize
from remote_mi.report.document.commands import command_for_run

from ...tokenizers import KINDS, save_model, wrapped

CHATML = (
    "{% for m in messages %}{{ '<s>' + m.role + '\n' + m.content + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ 'no turn\n' }}{% endif %}"
    "{% endif %}"
)
TRIMS = CHATML.replace("m.content", "(m.content | trim)")
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
)
TURNS = [
    {"role": "system", "content": "The system says Mary"},
    {"role": "user", "content": "When Mary and John went, Mary gave a drink to"},
]
BEGUN = [*TURNS, {"role": "assistant", "content": "the John"}]


def made(
    tokenizer: Any, messages: Any, over: str = "prompt", spec: ModelSpec | None = None, **more: Any
) -> Tokenized:
    given = messages if isinstance(messages, dict) else {"messages": messages}
    prompts = PromptSet((parse_example({**given, **more}),), "a test")
    return tokenize(tokenizer, prompts, spec or ModelSpec(), over, 512)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("messages", [TURNS, BEGUN], ids=["to be answered", "begun"])
def test_the_tokens_are_those_of_the_tokenizers_own_template(kind, messages):
    tokenizer = wrapped(kind, chat=CHATML)
    (prompt,) = made(tokenizer, messages).prompts
    begun = messages[-1]["role"] == "assistant"
    expected = tokenizer.apply_chat_template(
        messages, add_generation_prompt=not begun, continue_final_message=begun, return_dict=False
    )
    assert prompt.ids == list(expected)
    assert prompt.end == len(prompt.ids) - 1


@pytest.mark.parametrize("template", [CHATML, TRIMS], ids=["plain", "trims"])
@pytest.mark.parametrize("kind", ["byte-level BPE", "SentencePiece BPE"])
def test_labels_and_roles_stand_at_their_tokens(kind, template):
    tokenizer = wrapped(kind, chat=template)
    spaced = [{**turn, "content": f" {turn['content']} "} for turn in TURNS]
    for messages in (TURNS, spaced) if template is TRIMS else (TURNS,):
        found = made(tokenizer, messages, labels={"who": "John"})
        (prompt,), tokens = found.prompts, found.tokens[0]
        first, last = prompt.spans["who"]
        assert "".join(tokens[first : last + 1]).strip() == "John"
        at = prompt.positions
        between = "".join(tokens[at["user.start"] : at["user.end"] + 1])
        assert between.strip() == TURNS[1]["content"]
        whole = "".join(tokens[: at["system.end"] + 1])
        assert whole.rstrip().endswith("The system says Mary")
        opened = "".join(tokens[at["assistant.start"] :])
        assert opened.replace("<s>", "").strip() == "assistant"
        assert list(at)[-1] == "end" and at["end"] == len(tokens) - 1


def test_the_last_turn_of_a_role_gives_its_labels_and_a_begun_answer_begins_where_it_begins():
    messages = [TURNS[1], {"role": "assistant", "content": "Mary"}, *BEGUN[1:]]
    found = made(wrapped("byte-level BPE", chat=CHATML), messages)
    at, tokens = found.prompts[0].positions, found.tokens[0]
    assert "".join(tokens[at["assistant.start"] :]) == "the John"
    assert at["user.start"] > len(tokens) / 2
    assert "assistant.end" not in at, "it is the end"


def test_words_of_a_label_are_looked_for_in_what_is_said():
    with pytest.raises(UsageError, match=r"'user' occurs 0 times"):
        parse_example({"messages": TURNS, "labels": {"x": "user"}})
    with pytest.raises(UsageError, match=r"'Mary' occurs 3 times"):
        parse_example({"messages": TURNS, "labels": {"x": "Mary"}})


def test_a_pair_of_conversations_has_answers_and_labels():
    corrupt = [TURNS[0], {**TURNS[1], "content": TURNS[1]["content"].replace(", Mary", ", John")}]
    pair = {"clean": TURNS, "corrupt": corrupt, "answer": " John", "wrong": " Mary"}
    found = made(wrapped("byte-level BPE", chat=CHATML), pair, "pair", labels={"a": "drink"})
    (pair_,) = found.prompts
    assert pair_.clean.positions == pair_.corrupt.positions
    assert {
        "system.start",
        "system.end",
        "user.start",
        "user.end",
        "assistant.start",
        "a",
        "end",
    } == set(pair_.clean.positions)


def test_thinking_is_switched_where_the_template_knows_it():
    tokenizer = wrapped("byte-level BPE", chat=CHATML)
    usual, on, off = (
        made(tokenizer, TURNS, **({} if t is None else {"thinking": t})).prompts[0].ids
        for t in (None, True, False)
    )
    assert usual == on and off != on
    assert tokenizer.decode(off[len(on) :]) == "no turn\n"
    knows_not = wrapped("byte-level BPE", chat="{{ messages[0].content }}")
    with pytest.raises(UsageError, match="does not know enable_thinking"):
        made(knows_not, TURNS, thinking=False)
    with pytest.raises(UsageError, match="thinking belongs to conversations"):
        made(tokenizer, {"prompt": "Mary"}, thinking=False)


def test_a_template_that_refuses_roles_says_so_in_one_line():
    tokenizer = wrapped("byte-level BPE", chat=NO_SYSTEM + CHATML)
    with pytest.raises(UsageError, match="chat template failed: no system role") as refused:
        made(tokenizer, TURNS)
    assert "system, user" in (refused.value.hint or "")
    with pytest.raises(UsageError, match="no chat template"):
        made(wrapped("byte-level BPE"), TURNS)


def test_texts_and_conversations_do_not_mix_unless_all_are_put_into_the_template():
    tokenizer = wrapped("byte-level BPE", chat=CHATML)
    prompts = PromptSet(
        (parse_example({"messages": TURNS[1:]}), parse_example({"prompt": TURNS[1]["content"]})),
        "a test",
    )
    with pytest.raises(UsageError, match="1 of 2 prompts are conversations"):
        tokenize(tokenizer, prompts, ModelSpec(), "prompt", 512)
    one, other = tokenize(tokenizer, prompts, ModelSpec(chat=True), "prompt", 512).prompts
    assert one.ids == other.ids and one.positions == other.positions


# --- beginning of sequence, spaces ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text, spec, said",
    [
        ("<s>Mary went", ModelSpec(), "the tokenizer adds one, and the text has its own"),
        ("<s><s>Mary went", ModelSpec(bos="never"), "as its text does"),
    ],
)
def test_a_beginning_of_sequence_that_stands_twice_is_an_error(text, spec, said):
    tokenizer = wrapped("byte-level BPE", "<s> $A")
    tokenizer.bos_token = "<s>"
    with pytest.raises(PromptErrors, match=f"token <s> twice.*{said}"):
        made(tokenizer, {"prompt": text}, spec=spec)
    (once,) = made(tokenizer, {"prompt": "Mary went"}).prompts
    (own,) = made(tokenizer, {"prompt": "<s>Mary went"}, spec=ModelSpec(bos="never")).prompts
    assert once.ids == own.ids
    (always,) = made(tokenizer, {"prompt": "<s>Mary went"}, spec=ModelSpec(bos="always")).prompts
    assert always.ids == once.ids


def test_a_template_that_writes_it_twice_is_an_error():
    tokenizer = wrapped("byte-level BPE", chat="{{ '<s><s>' + messages[0].content }}")
    tokenizer.bos_token = "<s>"
    with pytest.raises(PromptErrors, match="twice, as the chat template writes it"):
        made(tokenizer, TURNS[1:])


def test_a_prompt_that_ends_in_a_space_is_noted():
    tokenizer = wrapped("byte-level BPE", chat=CHATML)
    (note,) = made(tokenizer, {"prompt": "Mary went "}).warnings
    assert "ends in a space ('Mary went ')" in note
    assert not made(tokenizer, {"prompt": "Mary went"}).warnings
    asked = [{"role": "user", "content": "Mary went "}]
    assert not made(tokenizer, asked).warnings, "the template's own text follows"
    (begun,) = made(tokenizer, [*asked, {"role": "assistant", "content": "the "}]).warnings
    assert "ends in a space" in begun


# --- from files, phenomena, the command line -------------------------------------------------------


@pytest.fixture
def chatting(tmp_path):
    """A tiny model whose tokenizer has a chat template."""
    save_model(tmp_path / "chatting", wrapped("byte-level BPE", chat=CHATML))
    return tmp_path / "chatting"


def test_a_conversation_on_the_command_line_in_a_file_and_from_python_is_one_job(
    project, chatting, cli
):
    given = ("run", "logit_lens", "--model", chatting)
    turns = ("--turn", f"system={TURNS[0]['content']}", "--turn", f"user={TURNS[1]['content']}")
    code, out, err = cli(*given, *turns, "--turn", "assistant=the", "-q")
    assert code == 0, err
    first = mi.load_run(out.strip())
    assert first.provenance["prompts"]["chat_template"] is True
    messages = [*TURNS, {"role": "assistant", "content": "the"}]
    (project / "c.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    for other in (("--pairs", "c.jsonl"), ("-p", f"messages={json.dumps(messages)}")):
        code, out, err = cli(*given, *other, "-q")
        assert code == 0 and out.strip() == first.run_id, err
    assert mi.run("logit_lens", model=chatting, prompt=messages).run_id == first.run_id
    code, out, _ = cli("reproduce", first.run_id)
    assert code == 0, out
    again = command_for_run(first.path)
    assert again is not None and "--turn 'user=When Mary" in again and "-p prompt" not in again


def test_a_pair_on_the_command_line(project, chatting, cli):
    code, out, err = cli(
        *("run", "baseline", "--model", chatting, "--thinking", "off", "-q"),
        *("--turn", "user=Mary went with John", "--corrupt-turn", "user=Mary went with Mary"),
        *("-p", "answer= Mary", "-p", "wrong= John"),
    )
    assert code == 0, err
    again = command_for_run(mi.load_run(out.strip()).path)
    assert again is not None and "--corrupt-turn 'user=Mary went with Mary" in again
    assert "--thinking off" in again


@pytest.mark.parametrize(
    "options, said",
    [
        (["--turn", "Mary"], "is not ROLE=TEXT"),
        (["--turn", "usr=Mary"], "did you mean 'user'?"),
        (["--turn", "system=Mary"], "has no message of a user"),
        (["--turn", "user= "], "its content is not a text"),
        (["--corrupt-turn", "user=Mary"], "needs the clean conversation"),
        (["--turn", "user=Mary", "-p", "prompt=John"], "'prompt' is given twice"),
        (["--turn", "user=Mary", "--phenomenon", "ioi"], "one way"),
        (["-p", "messages=[{"], "is not JSON of messages"),
        (["-p", 'messages=[{"role": "user", "content": "a", "name": "b"}]'], "'name' is not read"),
        (["-p", "prompt=Mary", "--thinking", "on"], "thinking belongs to conversations"),
    ],
)
def test_mistakes_in_conversations_get_one_clear_line(project, chatting, cli, options, said):
    code, out, err = cli("run", "logit_lens", "--model", chatting, *options)
    assert code == 2 and said in err and err.count("error:") == 1 and out == "", err


CHATTED = """
name: chatted
title: t
source: s
lists: {names: [Mary, John]}
draw: {a: names, b: names}
templates:
  asked:
    clean:
      - {role: user, content: "When {a} and {b} went, {b:giver} gave a drink to"}
      - {role: assistant, content: "the"}
    corrupt:
      - {role: user, content: "When {a} and {b} went, {a:giver} gave a drink to"}
      - {role: assistant, content: "the"}
answer: " {a}"
wrong: " {b}"
thinking: false
"""


def test_a_phenomenon_of_conversations(tmp_path):
    path = tmp_path / "chatted.yaml"
    path.write_text(CHATTED)
    prompts = phenomena.load(path).prompts(2)
    tokenizer = wrapped("byte-level BPE", chat=CHATML)
    found = tokenize(tokenizer, prompts, ModelSpec(), "pair", 512)
    for example, pair, tokens in zip(prompts.examples, found.prompts, found.tokens, strict=True):
        assert example.thinking is False and len(example.turns) == 2
        giver = example.turns[0][1].split(", ")[1].split()[0]
        assert tokens[pair.clean.positions["giver"]].strip() == giver
        assert "".join(tokens[pair.clean.positions["assistant.start"] :]) == "the"


@pytest.mark.parametrize(
    "old, new, line, said",
    [
        (
            '- {role: user, content: "When {a} and {b} went, {a',
            '- {role: usr, content: "{a',
            12,
            "no role 'usr'",
        ),
        ("{b:giver}", "{c:giver}", 10, "the slot 'c'"),
        ("thinking: false", "thinking: 3", 17, "must be true or false"),
    ],
)
def test_a_mistake_in_a_phenomenons_messages_is_located(tmp_path, old, new, line, said):
    path = tmp_path / "chatted.yaml"
    assert old in CHATTED
    path.write_text(CHATTED.replace(old, new, 1))
    with pytest.raises(UsageError, match=f"{path.name}:{line}:.*{said}"):
        phenomena.load(path)


def test_a_study_has_conversations(project, chatting):
    study = project / "s.yaml"
    study.write_text(
        f"study: s\nmodels: [{chatting}]\nrecipes: [logit_lens]\nphenomena:\n"
        "  - messages:\n      - {role: user, content: Mary went}\n    thinking: false\n"
    )
    from remote_mi.jobs import studies

    (point,) = studies.read(study, project).points
    (example,) = point.choice.resolve(project).examples
    assert example.turns == (("user", "Mary went"),) and example.thinking is False

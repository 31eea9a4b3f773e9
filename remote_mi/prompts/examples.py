"""Prompts as text, from the command line, from a file or from a Hugging Face dataset.

    pairs.jsonl, pairs.json                   one JSON object per line, or an array of them
    pairs.csv, .tsv, .parquet, .xlsx[#SHEET]  a table
    hf:ORG/NAME[:CONFIG][#SPLIT][,FIELD=COLUMN...]    a dataset on the hub
    hf:./FOLDER   hf:./FILE.parquet           a dataset on this machine

A dataset's columns are the fields of a JSON line; other columns are ignored, and
`,prompt=sentence` takes the field `prompt` from the column `sentence`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from remote_mi.common.digests import canonical_json
from remote_mi.common.errors import UsageError
from remote_mi.common.text import encoding_problem
from remote_mi.prompts.alignment import parse_align
from remote_mi.prompts.behaviours import Behaviour, parse_behaviour
from remote_mi.prompts.messages import (
    Turn,
    conversation_text,
    is_messages,
    parse_messages,
    words_in_turns,
)

#: A slot in a prompt template: `{slot}`, `{slot.field}`, each optionally with `:label`.
SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?(?::(\w+))?\}")
#: Most pairs of a phenomenon, and most prompts that `-n` may ask for.
MOST_PAIRS = 100_000
#: The fields that a JSON line or a row of a dataset may have.
FIELDS = (
    "prompt",
    "messages",
    "target",
    "labels",
    "corrupt_labels",
    "align",
    "clean",
    "corrupt",
    "answer",
    "answers",
    "wrong",
    "wrongs",
    "template",
    "label",
    "group",
    "thinking",
    "behaviour",
)
_LISTS = {"answers": "answer", "wrongs": "wrong"}
#: Fields that may be token ids instead: a list of them, or one.
_PROMPTS = ("prompt", "clean", "corrupt")
_ANSWERS = ("target", "answer", "wrong")
_NAMES = ("label", "group")
_ANY = ("thinking", "behaviour")
_PAIR = ("clean", "corrupt", "answer", "wrong")


@dataclass(frozen=True)
class Example:
    """One prompt, or one pair, as text.

    Attributes:
        clean: the prompt; of a conversation, its turns as one text.
        corrupt: its counterpart, or None.
        answer, wrong: continuations (with their leading space), or None.
        labels: label → (start, end) in characters of `clean`.
        template: name of the template it came from.
        answers, wrongs: all right and all wrong continuations; `answer` and `wrong` come first.
        label: the class it belongs to, for probes; by default the answer's text.
        corrupt_labels: like `labels`, in characters of `corrupt`.
        group: shared by examples that a probe must not split between training and test. A
            `PromptSet` gives each example without one a group of its own.
        ids: whether it was given as token ids, which its texts write as numbers: "1 5 7".
        turns, corrupt_turns: of a conversation, which the tokenizer's chat template puts together.
        thinking: switches the template's thinking on or off; None leaves it as the template has it.
        align: how positions of prompts of unequal length correspond: one of `ALIGN`; "" if they do
            not, and such a pair is refused. Prompts of equal length correspond by number.
        behaviour: asked of the generated continuation, in place of answers; None for none.
    """

    clean: str
    corrupt: str | None = None
    answer: str | None = None
    wrong: str | None = None
    labels: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    template: str = ""
    answers: tuple[str, ...] = ()
    wrongs: tuple[str, ...] = ()
    label: str = ""
    group: str = ""
    corrupt_labels: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    ids: bool = False
    turns: tuple[Turn, ...] = ()
    corrupt_turns: tuple[Turn, ...] = ()
    thinking: bool | None = None
    align: str = ""
    behaviour: Behaviour | None = None

    def __post_init__(self) -> None:
        for several, one in _LISTS.items():
            first, every = getattr(self, one), getattr(self, several)
            if first is None and every:
                object.__setattr__(self, one, every[0])
            elif first is not None and not every:
                object.__setattr__(self, several, (first,))
            elif every and every[0] != first:
                raise ValueError(f"{one!r} {first!r} is not the first of {every}")
        if not self.label:
            object.__setattr__(self, "label", self.answer or "")

    def to_json(self) -> dict[str, Any]:
        """The part that enters the key: everything a recipe's body can depend on."""
        several = {
            name: list(getattr(self, name)) for name in _LISTS if len(getattr(self, name)) > 1
        }
        question = self.behaviour and self.behaviour.question
        return {
            "clean": self.clean,
            "corrupt": self.corrupt,
            "answer": self.answer,
            "wrong": self.wrong,
            "labels": {k: list(v) for k, v in sorted(self.labels.items())},
            **several,
            **(
                {"corrupt_labels": {k: list(v) for k, v in sorted(self.corrupt_labels.items())}}
                if self.corrupt_labels
                else {}
            ),
            **{
                name: [list(turn) for turn in getattr(self, name)]
                for name in ("turns", "corrupt_turns")
                if getattr(self, name)
            },
            **({} if self.thinking is None else {"thinking": self.thinking}),
            **({"align": self.align} if self.align else {}),
            **({"question": question} if question else {}),
        }


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a job, and their origin.

    Attributes:
        examples: each with a group; empty for a recipe that takes no prompts.
        origin: name of the phenomenon or file, or "command line".
        details: seed, size, template and source of a phenomenon; of a file how its records were
            read, and `left_out`: those of which no prompt was made.
        metric: the phenomenon's metric, used if the recipe's parameter is not given.
    """

    examples: tuple[Example, ...]
    origin: str
    details: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None

    def __post_init__(self) -> None:
        grouped = tuple(
            example if example.group else replace(example, group=str(index))
            for index, example in enumerate(self.examples)
        )
        object.__setattr__(self, "examples", grouped)

    @property
    def left_out(self) -> list[str]:
        """Records of a file that were left out on request, each with its place and the reason."""
        return list(self.details.get("left_out", ()))

    @functools.cached_property
    def examples_json(self) -> list[dict[str, Any]]:
        """The part of each example that enters a key."""
        return [example.to_json() for example in self.examples]

    @functools.cached_property
    def canonical_members(self) -> dict[str, str]:
        """The parts of a key that depend on the examples, as canonical JSON texts."""
        return {
            "prompts": canonical_json(self.examples_json),
            "templates": canonical_json([e.template for e in self.examples]),
            "classes": canonical_json([[e.label, e.group] for e in self.examples]),
            "behaviours": canonical_json(
                [e.behaviour and e.behaviour.to_json() for e in self.examples]
            ),
        }


def parse_example(data: Any) -> Example:
    """An example from its fields, as given on the command line or in a JSON line.

    Raises:
        UsageError: for unknown, missing or empty fields.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"{data!r} is not an object with a prompt or a pair")
    data, has_ids = _without_ids(data)
    values = {str(name): _parse_field(name, value) for name, value in data.items()}
    named: dict[str, Any] = {"ids": has_ids}
    named |= {n: values[n] for n in ("template", *_NAMES, *_ANY) if n in values}
    if "behaviour" in values:
        _check_no_answers(values)
    if "messages" in values:
        if "prompt" in values:
            raise UsageError("give either 'prompt' or 'messages', not both")
        values["prompt"] = values.pop("messages")
    if "prompt" in values:
        if "clean" in values or "corrupt" in values:
            raise UsageError("give either a prompt or a clean/corrupt pair, not both")
        for name in ("answer", "answers", "wrong", "wrongs", "corrupt_labels", "align"):
            if name in values:
                raise UsageError(f"{name!r} belongs to a pair", "a prompt has a 'target'")
        prompt, turns = _require_prompt(values, "prompt")
        labels = _spans(values.get("labels", {}), prompt, turns, "prompt")
        return Example(prompt, answer=values.get("target"), labels=labels, turns=turns, **named)
    return _parse_pair(values, named)


def _parse_pair(values: Mapping[str, Any], named: Mapping[str, Any]) -> Example:
    """A pair from its parsed fields, and those that any example may have."""
    if "target" in values:
        raise UsageError("'target' belongs to a prompt", "a pair has 'answer' and 'wrong'")
    for several, one in _LISTS.items():
        if several in values and one in values:
            raise UsageError(f"give either {one!r} or {several!r}, not both")
    needed = _PAIR[:2] if "behaviour" in values else _PAIR
    for name in needed:
        if name not in values and f"{name}s" not in values:
            raise UsageError(
                f"a pair needs {name!r}",
                "give clean, corrupt, answer and wrong, or clean, corrupt and behaviour",
            )
    clean, turns = _require_prompt(values, "clean")
    corrupt, corrupt_turns = _require_prompt(values, "corrupt")
    if bool(turns) != bool(corrupt_turns):
        raise UsageError("one of 'clean' and 'corrupt' is a text and the other has messages")
    answers, wrongs = ((), ())
    if "behaviour" not in values:
        answers, wrongs = (
            values[several] if several in values else (_require_text(values, one),)
            for several, one in _LISTS.items()
        )
    wanted = values.get("labels", {})
    in_corrupt = {
        name: words
        for name, words in wanted.items()
        if (words_in_turns(corrupt_turns, words) if corrupt_turns else words in corrupt)
    } | values.get("corrupt_labels", {})
    return Example(
        clean,
        corrupt,
        answers=answers,
        wrongs=wrongs,
        labels=_spans(wanted, clean, turns, "clean"),
        corrupt_labels=_spans(in_corrupt, corrupt, corrupt_turns, "corrupt"),
        turns=turns,
        corrupt_turns=corrupt_turns,
        align=values.get("align", ""),
        **named,
    )


def _check_no_answers(values: Mapping[str, Any]) -> None:
    """Refuse an answer beside a behaviour."""
    for name in ("target", *_LISTS, *_LISTS.values()):
        if name in values:
            raise UsageError(
                f"give either {name!r} or 'behaviour', not both",
                "a behaviour is asked of the continuation, an answer of the next tokens",
            )


def _without_ids(data: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The fields with token ids written as texts, and whether there were any.

    A prompt of ids is their numbers with spaces between them, an answer a number after a space.
    """
    found, has_ids = dict(data), False
    for name, value in data.items():
        ids = token_ids(value if name in (*_PROMPTS, *_LISTS) else [value])
        if ids is None or name not in (*_PROMPTS, *_ANSWERS, *_LISTS):
            continue
        has_ids = True
        if name in _PROMPTS:
            found[name] = " ".join(map(str, ids))
        else:
            found[name] = f" {ids[0]}" if name in _ANSWERS else [f" {number}" for number in ids]
    return found, has_ids


def token_ids(values: Any) -> list[int] | None:
    """A list (array, tensor) of whole numbers, not empty; None if it is anything else."""
    if isinstance(values, (str, bytes, Mapping)):
        return None
    try:
        listed = [getattr(v, "item", lambda v=v: v)() for v in values]
    except (TypeError, ValueError, RuntimeError):
        return None
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in listed)
    return listed if listed and whole else None


def _spans(
    labels: Mapping[str, str], text: str, turns: tuple[Turn, ...], role: str
) -> dict[str, tuple[int, int]]:
    """Label → (start, end) of its words in a prompt, in characters.

    Raises:
        UsageError: if they do not occur exactly once, or not in what the turns say.
    """
    found = {}
    for name, words in labels.items():
        places = words_in_turns(turns, words) if turns else [text.find(words)]
        count = len(places) if turns else text.count(words)
        if count != 1:
            raise UsageError(
                f"label {name!r}: {words!r} occurs {count} times in the {role} text",
                "give words that occur once in it",
            )
        found[name] = (places[0], places[0] + len(words))
    return found


def _parse_field(name: Any, value: Any) -> Any:
    """The value of a field: a text, a tuple of texts (`answers`, `wrongs`), a dict (`labels`)."""
    if name not in FIELDS:
        raise UsageError(f"unknown field {name!r}", "known: " + ", ".join(sorted(FIELDS)))
    if name in _LISTS:
        texts = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else []
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise UsageError(f"field {name!r} is not a list of texts: {value!r}")
        _check_encoding(name, *texts)
        return tuple(texts)
    if name in ("labels", "corrupt_labels"):
        if not isinstance(value, Mapping) or not all(
            isinstance(part, str) and part.strip() for pair in value.items() for part in pair
        ):
            raise UsageError(
                f"field {name!r} does not name words: {value!r}", 'e.g. {"subject": "Eiffel Tower"}'
            )
        _check_encoding(name, *value, *value.values())
        return dict(value)
    if name == "messages" or (name in ("prompt", "clean", "corrupt") and is_messages(value)):
        return parse_messages(name, value)
    if name == "align":
        return parse_align(value)
    if name == "thinking":
        return _parse_switch(value)
    if name == "behaviour":
        return parse_behaviour(value)
    if name in _NAMES and isinstance(value, int):
        return str(value)  # classes and groups are often numbered
    if not isinstance(value, str):
        raise UsageError(f"field {name!r} is not a text: {value!r}")
    _check_encoding(name, value)
    return value


def _check_encoding(name: str, *texts: str) -> None:
    for text in texts:
        if problem := encoding_problem(text):
            raise UsageError(f"field {name!r} {problem}", "write the whole character")


def _parse_switch(value: Any) -> bool:
    """Whether thinking is switched on."""
    words = {"true": True, "on": True, "false": False, "off": False}
    found = words.get(str(value).strip().lower())
    if found is None:
        raise UsageError(f"field 'thinking' is neither true nor false: {value!r}")
    return found


def _require_prompt(values: Mapping[str, Any], name: str) -> tuple[str, tuple[Turn, ...]]:
    """The text of a prompt, and its turns if it is a conversation."""
    if isinstance(values[name], tuple):
        return conversation_text(values[name])[0], values[name]
    return _require_text(values, name), ()


def _require_text(values: Mapping[str, Any], name: str) -> str:
    if not values[name].strip():
        raise UsageError(f"the {name} text is empty")
    return values[name]

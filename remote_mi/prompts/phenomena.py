"""Phenomena: sets of prompts with clean/corrupt pairs, answers, a metric and a source.

A phenomenon is a YAML file (see docs/phenomena.md):

    name: ioi
    lists:     {names: [Mary, John, ...]}
    draw:      {io: names, s: names}        # one entry per slot; slots of one list differ
    templates:
      store:
        clean:   "When {io} and {s:s1} went to the store, {s:s2} gave a drink to"
        corrupt: "When {io} and {s:s1} went to the store, {io:s2} gave a drink to"
    answer: " {io}"
    wrong:  " {s}"

In place of `answer` and `wrong`, `behaviour` may ask something of the generated continuation
(`remote_mi.prompts.behaviours`); a template is then a `prompt`, or `clean` and `corrupt`.

`{slot}` is replaced by the entry that was drawn, `{slot.field}` by one of its fields, and
`{slot:label}` also names the position of its last token. A field that is a list gives several
answers. Prompts are made as text, without a tokenizer; `remote_mi.prompts.tokens` checks them
against the model's tokenizer.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.common.errors import UsageError, not_found
from remote_mi.common.named_files import find_file, named_files
from remote_mi.common.text import short_number
from remote_mi.prompts.behaviours import Behaviour, parse_behaviour
from remote_mi.prompts.examples import MOST_PAIRS, SLOT, Example, PromptSet
from remote_mi.prompts.messages import Turn, conversation_text
from remote_mi.prompts.phenomenon_file import OPTIONAL as _OPTIONAL
from remote_mi.prompts.phenomenon_file import REQUIRED as _REQUIRED
from remote_mi.prompts.phenomenon_file import read


@dataclass(frozen=True)
class Phenomenon:
    """A validated phenomenon file. `prompts` generates its pairs."""

    name: str
    title: str
    source: str
    lists: Mapping[str, Sequence[Any]]
    draw: Mapping[str, str]
    templates: Mapping[str, Mapping[str, Any]]
    path: Path
    answer: str = ""
    wrong: str = ""
    behaviour: Behaviour | None = None
    description: str = ""
    order: str = "random"
    metric: str = "logit_diff"
    size: int = 24
    seed: int = 0
    label: str = ""
    group: str = ""
    baseline: Mapping[str, Any] = field(default_factory=dict)
    thinking: bool | None = None
    align: str = ""

    def prompts(
        self, size: int | None = None, seed: int | None = None, template: str | None = None
    ) -> PromptSet:
        """The first `size` pairs for a seed, of one template or alternating between all.

        Raises:
            UsageError: for a size below 1, or above what the lists allow or `MOST_PAIRS`.
            NotFound: for an unknown template.
        """
        seed = self.seed if seed is None else seed
        names = list(self.templates)
        if template is not None:
            if template not in names:
                raise not_found(
                    "template", template, names, f"remote-mi phenomena show {self.name}"
                )
            names = [template]
        most = self._max_pairs(names)
        size = min(self.size, most) if size is None else size
        if size < 1:
            given = short_number(size)
            raise UsageError(f"phenomenon {self.name!r}: size {given} is not at least 1")
        if size > most:
            raise UsageError(
                f"phenomenon {self.name!r} has {short_number(most)} pairs, not "
                f"{short_number(size)}",
                f"ask for -n {most}",
            )
        if self.order == "list":
            examples = self._ordered_examples(size, names)
        else:
            draws = self._random_draws(size, seed)
            examples = [self._example(names[i % len(names)], d) for i, d in enumerate(draws)]
        details = {"seed": seed, "size": size, "template": template, "source": self.source}
        metric = self.metric if self.behaviour is None else None
        return PromptSet(tuple(examples), self.name, details, metric)

    def _random_draws(self, size: int, seed: int) -> list[dict[str, Any]]:
        generator = random.Random(f"{self.name}/{seed}")
        draws = []
        for _ in range(size):
            pools = {name: generator.sample(list(v), len(v)) for name, v in self.lists.items()}
            draws.append({slot: pools[name].pop() for slot, name in self.draw.items()})
        return draws

    def _max_pairs(self, templates: Sequence[str]) -> int:
        """How many pairs there are at most: each entry, or each draw, once with each template."""
        slots = Counter(self.draw.values())
        sizes = {name: len(self.lists[name]) for name in slots}
        if self.order == "list":
            draws = min(sizes.values())
        else:
            draws = math.prod(math.perm(sizes[name], count) for name, count in slots.items())
        return min(draws * len(templates), MOST_PAIRS)

    def _ordered_examples(self, size: int, templates: Sequence[str]) -> list[Example]:
        """One pair per entry, in order; the second slot of a list takes the next entry, and so on.

        Templates alternate. Once all entries have been used, they are repeated, each with the
        next template.
        """
        entries = min(len(self.lists[name]) for name in self.draw.values())
        examples = []
        for number in range(size):
            again, index = divmod(number, entries)
            drawn: dict[str, Any] = {}
            taken: dict[str, int] = {}
            for slot, name in self.draw.items():
                shift = taken.get(name, 0)
                drawn[slot] = self.lists[name][(index + shift) % len(self.lists[name])]
                taken[name] = shift + 1
            examples.append(self._example(templates[(index + again) % len(templates)], drawn))
        return examples

    def _example(self, template: str, drawn: Mapping[str, Any]) -> Example:
        texts = self.templates[template]
        clean, labels, turns = _fill_prompt(texts.get("clean") or texts["prompt"], drawn)
        corrupt, corrupt_labels, corrupt_turns = _fill_prompt(texts.get("corrupt", ""), drawn)
        behaviour = self.behaviour
        return Example(
            clean,
            corrupt or None,
            labels=labels,
            corrupt_labels=corrupt_labels,
            template=template,
            answers=() if behaviour else _fill_answers(self.answer, drawn),
            wrongs=() if behaviour else _fill_answers(self.wrong, drawn),
            label=_fill(self.label, drawn)[0],
            group=_fill(self.group, drawn)[0],
            turns=turns,
            corrupt_turns=corrupt_turns,
            thinking=self.thinking,
            align=self.align,
            behaviour=behaviour
            and behaviour.filled(lambda text, escape: _fill_known(text, drawn, escape)),
        )


def _fill_answers(template: str, drawn: Mapping[str, Any]) -> tuple[str, ...]:
    """The filled template, or one for each item if one of its slots holds a list."""
    for match in SLOT.finditer(template):
        slot, part = match[1], match[2]
        if part and isinstance(drawn[slot][part], list):
            return tuple(
                _fill(template, {**drawn, slot: {**drawn[slot], part: item}})[0]
                for item in drawn[slot][part]
            )
    return (_fill(template, drawn)[0],)


def _fill_prompt(
    template: Any, drawn: Mapping[str, Any]
) -> tuple[str, dict[str, tuple[int, int]], tuple[Turn, ...]]:
    """A filled text, or the filled messages of a conversation: its text, its labels, its turns."""
    if isinstance(template, str):
        return (*_fill(template, drawn), ())
    filled = [(message["role"], *_fill(message["content"], drawn)) for message in template]
    turns = tuple((role, content) for role, content, _ in filled)
    text, starts = conversation_text(turns)
    labels = {
        label: (start + first, start + stop)
        for start, (_, _, found) in zip(starts, filled, strict=True)
        for label, (first, stop) in found.items()
    }
    return text, labels, turns


def _fill_known(text: str, drawn: Mapping[str, Any], escape: Callable[[str], str]) -> str:
    """A text of a behaviour with the slots filled that are drawn; others are its own braces."""

    def put(match: re.Match[str]) -> str:
        return escape(_fill(match[0], drawn)[0]) if match[1] in drawn else match[0]

    return SLOT.sub(put, text)


def _fill(template: str, drawn: Mapping[str, Any]) -> tuple[str, dict[str, tuple[int, int]]]:
    """A template with its slots filled, and the span of every label in characters."""
    text = ""
    labels = {}
    last = 0
    for match in SLOT.finditer(template):
        text += template[last : match.start()]
        value = drawn[match[1]]
        word = str(value[match[2]] if match[2] else value)
        labels[match[3] or match[1]] = (len(text), len(text) + len(word))
        text += word
        last = match.end()
    return text + template[last:], labels


def load(path: Path) -> Phenomenon:
    """Load a phenomenon file, with all checks that need no tokenizer.

    Raises:
        UsageError: naming the file, the line and the problem.
    """
    data = read(path)
    given = {key: data[key] for key in (*_REQUIRED, *_OPTIONAL) if key in data}
    if "behaviour" in given:
        given["behaviour"] = parse_behaviour(given["behaviour"])
    return Phenomenon(**given, path=path)


def phenomenon_files(project: Path) -> dict[str, Path]:
    """All phenomenon files by name; a project's hides a built-in one of the same name."""
    return named_files("phenomena", project)


def find(name: str, project: Path) -> Phenomenon:
    """Load a phenomenon by name, or by a path relative to the working folder or the project.

    Raises:
        NotFound: suggesting the nearest name. UsageError: if its file has mistakes.
    """
    return load(find_file("phenomena", "phenomenon", name, project))

"""Phenomena: sets of prompts with clean/corrupt pairs, answers, a metric and a source.

A phenomenon is a YAML file (see docs/phenomena.md):

    name: ioi
    lists:     {names: [Mary, John, ...]}
    draw:      {io: names, s: names}        # one entry a slot; slots of one list differ
    templates:
      store:
        clean:   "When {io} and {s:s1} went to the store, {s:s2} gave a drink to"
        corrupt: "When {io} and {s:s1} went to the store, {io:s2} gave a drink to"
    answer: " {io}"
    wrong:  " {s}"

`{slot}` is replaced by what was drawn, `{slot.field}` by a field of it, and `{slot:label}` also
names the position of its last token. The text of every prompt is known here, without a
tokenizer; `remote_mi.models.tokens` checks it against the tokenizer at hand.
"""

from __future__ import annotations

import json
import random
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from remote_mi.errors import UsageError, not_found
from remote_mi.interventions.vocabulary import Metric
from remote_mi.paths import builtin_folder

_SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?(?::(\w+))?\}")
#: The safe loader, in C where PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_REQUIRED = ("name", "title", "source", "lists", "draw", "templates", "answer", "wrong")
_OPTIONAL = ("description", "order", "metric", "size", "seed", "baseline")


@dataclass(frozen=True)
class Example:
    """One prompt, or one pair, as text.

    Attributes:
        clean: the prompt.
        corrupt: its counterpart, or None.
        answer, wrong: continuations (with their leading space), or None.
        labels: label → (start, end) in characters of `clean`.
        template: name of the template it came from.
    """

    clean: str
    corrupt: str | None = None
    answer: str | None = None
    wrong: str | None = None
    labels: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    template: str = ""

    def to_json(self) -> dict[str, Any]:
        """What enters the key: everything a recipe's body can depend on."""
        return {
            "clean": self.clean,
            "corrupt": self.corrupt,
            "answer": self.answer,
            "wrong": self.wrong,
            "labels": {k: list(v) for k, v in sorted(self.labels.items())},
        }


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a job, with where they come from.

    Attributes:
        examples: at least one.
        origin: name of the phenomenon or file, or "command line".
        details: seed, size, template and source of a phenomenon; {} otherwise.
        metric: the phenomenon's metric, used where the recipe's parameter is not given.
    """

    examples: tuple[Example, ...]
    origin: str
    details: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None


@dataclass(frozen=True)
class Phenomenon:
    """A phenomenon file, checked. `examples` makes its prompts."""

    name: str
    title: str
    source: str
    lists: Mapping[str, Sequence[Any]]
    draw: Mapping[str, str]
    templates: Mapping[str, Mapping[str, str]]
    answer: str
    wrong: str
    path: Path
    description: str = ""
    order: str = "random"
    metric: str = "logit_diff"
    size: int = 24
    seed: int = 0
    baseline: Mapping[str, Any] = field(default_factory=dict)

    def prompts(
        self, size: int | None = None, seed: int | None = None, template: str | None = None
    ) -> PromptSet:
        """The first `size` pairs that `seed` gives, of one template or of all in turn.

        Raises:
            UsageError: for a size below 1 or beyond what the lists can give.
            NotFound: for an unknown template.
        """
        size = self.size if size is None else size
        seed = self.seed if seed is None else seed
        names = list(self.templates)
        if template is not None:
            if template not in names:
                raise not_found(
                    "template", template, names, f"remote-mi phenomena show {self.name}"
                )
            names = [template]
        if size < 1:
            raise UsageError(f"phenomenon {self.name!r}: size {size} is not at least 1")
        draws = self._ordered(size) if self.order == "list" else self._drawn(size, seed)
        examples = []
        for index, drawn in enumerate(draws):
            chosen = names[index % len(names)]
            examples.append(self._example(chosen, drawn))
        details = {"seed": seed, "size": size, "template": template, "source": self.source}
        return PromptSet(tuple(examples), self.name, details, self.metric)

    def _drawn(self, size: int, seed: int) -> list[dict[str, Any]]:
        generator = random.Random(f"{self.name}/{seed}")
        draws = []
        for _ in range(size):
            pools = {name: generator.sample(list(v), len(v)) for name, v in self.lists.items()}
            draws.append({slot: pools[name].pop() for slot, name in self.draw.items()})
        return draws

    def _ordered(self, size: int) -> list[dict[str, Any]]:
        """Each entry in turn; the second slot of a list takes the next entry, and so on."""
        most = min(len(self.lists[name]) for name in self.draw.values())
        if size > most:
            raise UsageError(
                f"phenomenon {self.name!r} has {most} pairs, not {size}", f"ask for -n {most}"
            )
        draws = []
        for index in range(size):
            drawn: dict[str, Any] = {}
            taken: dict[str, int] = {}
            for slot, name in self.draw.items():
                shift = taken.get(name, 0)
                drawn[slot] = self.lists[name][(index + shift) % len(self.lists[name])]
                taken[name] = shift + 1
            draws.append(drawn)
        return draws

    def _example(self, template: str, drawn: Mapping[str, Any]) -> Example:
        texts = self.templates[template]
        clean, labels = _fill(texts["clean"], drawn)
        corrupt = _fill(texts["corrupt"], drawn)[0]
        answer, wrong = _fill(self.answer, drawn)[0], _fill(self.wrong, drawn)[0]
        return Example(clean, corrupt, answer, wrong, labels, template)


def _fill(template: str, drawn: Mapping[str, Any]) -> tuple[str, dict[str, tuple[int, int]]]:
    """A template with its slots filled, and the span of every label in characters."""
    text = ""
    labels = {}
    last = 0
    for match in _SLOT.finditer(template):
        text += template[last : match.start()]
        value = drawn[match[1]]
        word = str(value[match[2]] if match[2] else value)
        labels[match[3] or match[1]] = (len(text), len(text) + len(word))
        text += word
        last = match.end()
    return text + template[last:], labels


def load(path: Path) -> Phenomenon:
    """A phenomenon file, checked as far as that is possible without a tokenizer.

    Raises:
        UsageError: naming file, line and what is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=_LOADER)
        data = yaml.load(text, Loader=_LOADER)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read phenomenon file {path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UsageError(f"{where}: not YAML: {getattr(error, 'problem', error)}") from None
    lines = _key_lines(root)
    _check(path, data, lines)
    return Phenomenon(**{k: data[k] for k in (*_REQUIRED, *_OPTIONAL) if k in data}, path=path)


def _key_lines(root: Any) -> dict[str, int]:
    if not isinstance(root, yaml.MappingNode):
        return {}
    return {str(key.value): key.start_mark.line + 1 for key, _ in root.value}


def _check(path: Path, data: Any, lines: Mapping[str, int]) -> None:
    def refuse(key: str, problem: str, hint: str | None = None) -> UsageError:
        line = f":{lines[key]}" if key in lines else ""
        return UsageError(f"{path}{line}: {problem}", hint)

    if not isinstance(data, dict):
        raise refuse("", "a phenomenon file is a mapping with the keys " + ", ".join(_REQUIRED))
    for key in data:
        if key not in (*_REQUIRED, *_OPTIONAL):
            raise refuse(
                str(key), f"unknown key {key!r}", "known: " + ", ".join(_REQUIRED + _OPTIONAL)
            )
    for key in _REQUIRED:
        if key not in data:
            raise refuse("", f"the key {key!r} is missing")
    for key in ("name", "title", "source", "answer", "wrong"):
        if not isinstance(data[key], str) or not data[key].strip():
            raise refuse(key, f"{key!r} must be a text")
    for key, kind in (("lists", list), ("draw", str), ("templates", dict)):
        if not isinstance(data[key], dict) or not data[key]:
            raise refuse(key, f"{key!r} must be a mapping with at least one entry")
        for name, value in data[key].items():
            if not isinstance(value, kind) or not value:
                raise refuse(key, f"{key!r}, entry {name!r}: not a {kind.__name__} with content")
    if data.get("order", "random") not in ("random", "list"):
        raise refuse("order", "'order' is 'random' or 'list'")
    for key in ("size", "seed"):
        if not isinstance(data.get(key, 1), int) or isinstance(data.get(key), bool):
            raise refuse(key, f"{key!r} must be a whole number")
    if data.get("metric", "logit_diff") not in typing.get_args(Metric):
        known = ", ".join(typing.get_args(Metric))
        raise refuse("metric", f"'metric' {data['metric']!r} is not one of {known}")
    for slot, name in data["draw"].items():
        if name not in data["lists"]:
            raise refuse("draw", f"slot {slot!r} draws from {name!r}, which is not in 'lists'")
    for name in set(data["draw"].values()):
        wanted = list(data["draw"].values()).count(name)
        if len(data["lists"][name]) < wanted:
            raise refuse(
                "lists", f"{name!r} has fewer entries than the {wanted} slots drawing from it"
            )
    shortest = min(len(data["lists"][name]) for name in data["draw"].values())
    if data.get("order") == "list" and data.get("size", 1) > shortest:
        raise refuse("size", f"'size' {data['size']} is more than the list's {shortest} entries")
    _check_templates(data, refuse)


def _check_templates(data: dict[str, Any], refuse: Any) -> None:
    for name, texts in data["templates"].items():
        if set(texts) != {"clean", "corrupt"}:
            raise refuse("templates", f"template {name!r} must have exactly 'clean' and 'corrupt'")
    texts = [("templates", t) for v in data["templates"].values() for t in v.values()]
    for key, text in [*texts, ("answer", data["answer"]), ("wrong", data["wrong"])]:
        if not isinstance(text, str):
            raise refuse(key, f"{text!r} is not a text")
        for match in _SLOT.finditer(text):
            slot, part = match[1], match[2]
            if slot not in data["draw"]:
                known = ", ".join(data["draw"])
                raise refuse(key, f"{text!r} uses the slot {slot!r}, which is not drawn ({known})")
            for entry in data["lists"][data["draw"][slot]]:
                if part and (not isinstance(entry, dict) or part not in entry):
                    raise refuse("lists", f"the entry {entry!r} has no field {part!r}")


def folders(project: Path) -> list[tuple[str, Path]]:
    """Where phenomena are looked for: the project's own, then the built-in ones."""
    return [
        ("project", project / "recipes" / "phenomena"),
        ("project", project / "phenomena"),
        ("built-in", builtin_folder() / "phenomena"),
    ]


def available(project: Path) -> dict[str, Path]:
    """Name → file of every phenomenon; a project's own hides a built-in one of the same name."""
    found: dict[str, Path] = {}
    for _, folder in folders(project):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find(name: str, project: Path) -> Phenomenon:
    """A phenomenon by name, or by the path of its file.

    Raises:
        NotFound: with the nearest name.
    """
    if name.endswith((".yaml", ".yml")):
        return load(Path(name))
    known = available(project)
    if name not in known:
        raise not_found("phenomenon", name, known, "remote-mi phenomena ls")
    return load(known[name])


def from_jsonl(path: Path) -> PromptSet:
    """Prompts from a file with one JSON object a line.

    A line has `clean`, `corrupt`, `answer`, `wrong`, or `prompt` and optionally `target`; also
    `template`: prompts of one template are aligned position by position when averaged.

    Raises:
        UsageError: naming file and line.
    """
    examples = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            examples.append(from_fields(json.loads(line)))
        except ValueError as error:
            raise UsageError(
                f"{path}:{number}: not JSON: {error}", "one object a line, with double quotes"
            ) from None
        except UsageError as error:
            raise UsageError(f"{path}:{number}: {error}") from None
    if not examples:
        raise UsageError(f"{path} has no prompts", "one JSON object a line")
    return PromptSet(tuple(examples), path.name)


def from_fields(data: Any) -> Example:
    """One example from its fields, as on the command line or in a JSON line.

    Raises:
        UsageError: for unknown, missing or empty fields.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"{data!r} is not an object with a prompt or a pair")
    allowed = {"prompt", "target", "clean", "corrupt", "answer", "wrong", "template"}
    for name, value in data.items():
        if name not in allowed:
            raise UsageError(f"unknown field {name!r}", "known: " + ", ".join(sorted(allowed)))
        if not isinstance(value, str):
            raise UsageError(f"field {name!r} is not a text: {value!r}")
    if "prompt" in data:
        if "clean" in data or "corrupt" in data:
            raise UsageError("give either a prompt or a clean/corrupt pair, not both")
        prompt = _filled(data, "prompt")
        return Example(prompt, answer=data.get("target"), template=data.get("template", ""))
    for name in ("clean", "corrupt", "answer", "wrong"):
        if name not in data:
            raise UsageError(f"a pair needs {name!r}", "give clean, corrupt, answer and wrong")
    clean, corrupt, answer, wrong = (
        _filled(data, name) for name in ("clean", "corrupt", "answer", "wrong")
    )
    return Example(clean, corrupt, answer, wrong, template=data.get("template", ""))


def _filled(data: Mapping[str, str], name: str) -> str:
    if not data[name].strip():
        raise UsageError(f"the {name} text is empty")
    return data[name]

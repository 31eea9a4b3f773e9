"""Prompts that are a recipe's parameter: named by the user, texts in the job.

In a job the value is a JSON object: `from`, what was given, to show; and `prompts`, the texts, which
are what the key depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from remote_mi.common.annotated_types import shown
from remote_mi.common.errors import NotFound, UsageError, nearest
from remote_mi.common.text import counted
from remote_mi.prompts.behaviours import parse_behaviour
from remote_mi.prompts.choice import PromptChoice
from remote_mi.prompts.examples import Example, PromptSet

FROM, PROMPTS = "from", "prompts"
#: What may follow the name, after commas: how many, drawn how, of which class, which of a pair.
_SETTINGS = ("n", "seed", "class", "side")
#: Beginning of the name of prompts that were given as a list.
_LIST = "a list of "
_EXAMPLE = "e.g. ioi_abc,side=corrupt or prompts.jsonl,n=50"


def resolve_prompts(name: str, given: Any, project: Path) -> dict[str, Any]:
    """The value of a parameter of kind "prompts" in a job.

    Args:
        name: of the parameter, for messages.
        given: a phenomenon (`name` or `name:template`) or a file, each with settings after commas
            (`ioi_abc,n=50,seed=1,class=x,side=corrupt`); a list of texts, or of dicts like a
            file's records; or a resolved value, as a run's lock has it.

    Raises:
        UsageError: naming the parameter, if it is none of these or gives no prompts.
        NotFound: for an unknown phenomenon or template.
    """
    if _is_resolved(given):
        return dict(given)
    try:
        if isinstance(given, str):
            examples, origin = _named(given, project), given
        else:
            if odd := [one for one in given if not isinstance(one, (str, Mapping))]:
                raise UsageError(f"{shown(odd[0])} is neither a text nor an object with a prompt")
            records = [{"prompt": one} if isinstance(one, str) else one for one in given]
            examples = [_side(one, "clean") for one in _chosen(project, pairs=records).examples]
            origin = f"{_LIST}{counted(len(examples), 'prompt')}"
    except (UsageError, NotFound) as error:
        raise type(error)(f"parameter {name!r}: {error.message}", error.hint) from None
    return {FROM: origin, PROMPTS: [one.to_json() for one in examples]}


def _named(text: str, project: Path) -> list[Example]:
    """The prompts of a phenomenon or a file, with settings after commas."""
    source, settings = _split(text)
    size, seed = (_whole(key, settings[key]) if key in settings else None for key in ("n", "seed"))
    side = settings.get("side", "clean")
    if side not in ("clean", "corrupt"):
        raise UsageError(f"side={side} is neither clean nor corrupt", _EXAMPLE)
    is_file = source.startswith("hf:") or Path(source).suffix.lower() not in ("", ".yaml", ".yml")
    where = {"pairs": source} if is_file else {"phenomenon": source}
    found = list(_chosen(project, size=size, seed=seed, **where).examples)
    if (wanted := settings.get("class")) is not None:
        classes = list(dict.fromkeys(one.label for one in found))
        found = [one for one in found if one.label.strip() == wanted.strip()]
        if not found:
            known = ", ".join(label.strip() or "no class" for label in classes[:8])
            raise UsageError(f"{source} has no prompts of class {wanted!r}", f"it has {known}")
    return [_side(one, side) for one in found]


def _split(text: str) -> tuple[str, dict[str, str]]:
    source, *rest = text.split(",")
    settings = {}
    for part in rest:
        key, equals, value = part.strip().partition("=")
        if key not in _SETTINGS or not equals:
            close = nearest(key, _SETTINGS)
            raise UsageError(
                f"{part.strip()!r} is not a setting of prompts"
                + (f": did you mean {close}=…?" if close else ""),
                f"after the name may follow {', '.join(f'{one}=…' for one in _SETTINGS)}; "
                f"{_EXAMPLE}",
            )
        settings[key] = value
    return source.strip(), settings


def _whole(key: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"{key}={value} is not a whole number", _EXAMPLE) from None


def _chosen(project: Path, **given: Any) -> PromptSet:
    return PromptChoice(**given).resolve(project)


def _side(example: Example, side: str) -> Example:
    """One side of a pair, or a prompt as it is, without an answer."""
    if side == "corrupt" and example.corrupt is None:
        raise UsageError("side=corrupt: these are single prompts, no pairs", "leave it out")
    if side == "corrupt":
        assert example.corrupt is not None
        text, labels = example.corrupt, example.corrupt_labels
        turns = example.corrupt_turns
    else:
        text, labels, turns = example.clean, example.labels, example.turns
    thinking, ids = example.thinking, example.ids
    return Example(text, labels=labels, turns=turns, thinking=thinking, ids=ids)


def prompts_of(value: Mapping[str, Any]) -> PromptSet:
    """The prompts of a resolved value."""
    return PromptSet(tuple(example_from_json(one) for one in value[PROMPTS]), str(value[FROM]))


def texts_of(value: Any) -> Any:
    """What a key depends on in a parameter's value: of prompts, their texts alone."""
    return value[PROMPTS] if _is_resolved(value) else value


def as_given(value: Any) -> Any:
    """A parameter's value as the user gave it: of prompts, their name."""
    return value[FROM] if _is_resolved(value) else value


def has_name(value: Any) -> bool:
    """Whether prompts in a job were given by a name, that a command line can repeat."""
    return not str(value[FROM]).startswith(_LIST)


def _is_resolved(value: Any) -> bool:
    return isinstance(value, Mapping) and PROMPTS in value


def example_from_json(data: Mapping[str, Any]) -> Example:
    """A prompt or pair from `Example.to_json`, or from a lock, which also has its names."""
    values = {f.name: data[f.name] for f in fields(Example) if f.name in data}
    for name in ("answers", "wrongs"):
        if name in values:
            values[name] = tuple(values[name])
    if values.get("behaviour"):
        values["behaviour"] = parse_behaviour(values["behaviour"])
    for name in ("labels", "corrupt_labels"):
        if name in values:
            values[name] = {k: (int(v[0]), int(v[1])) for k, v in values[name].items()}
    for name in ("turns", "corrupt_turns"):
        if name in values:
            values[name] = tuple((str(role), str(content)) for role, content in values[name])
    return Example(**values)

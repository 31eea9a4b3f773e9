"""Comparing how two results were made: their settings and their prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from remote_mi.store.lock import read_lock
from remote_mi.store.result import Result
from remote_mi.store.samples import PROMPT_TEXTS

#: Fields of a prompt that are compared: from the lock if possible, else from the result.
_PROMPT = (
    *PROMPT_TEXTS,
    "answers",
    "wrongs",
    "labels",
    "corrupt_labels",
    "align",
    "template",
    "label",
    "group",
)
_NOTED = ("revision", "dtype", "attention", "device", "architecture")


@dataclass(frozen=True)
class SettingDifference:
    """One difference in how two results were made.

    Attributes:
        path: what differs, e.g. "parameters.site". a, b: the two values; None if missing.
    """

    path: str
    a: Any
    b: Any


@dataclass(frozen=True)
class PromptComparison:
    """How the prompts of two results compare.

    Attributes:
        same: how many are equal at the same index. a, b: how many each result has.
        first: the first that differs: its index, and both values of each field that differs.
    """

    same: int
    a: int
    b: int
    first: Mapping[str, Any] | None = None

    @property
    def equal(self) -> bool:
        return self.same == self.a == self.b


def differing_settings(a: Result, b: Result) -> list[SettingDifference]:
    """Every setting that differs between two results, except the prompts' texts."""
    one, other = _settings_of(a), _settings_of(b)
    return [
        SettingDifference(path, one.get(path), other.get(path))
        for path in dict.fromkeys([*one, *other])
        if one.get(path) != other.get(path)
    ]


def _settings_of(result: Result) -> dict[str, Any]:
    """The settings of a result, by dotted path."""
    source = result.provenance
    prompts = source.get("prompts", {})
    prompts = {k: v for k, v in prompts.items() if not isinstance(v, (list, dict))}
    computed = {k: v for k, v in source.get("record", {}).items() if k in _NOTED}
    environment = dict(source.get("environment", {}))
    kind = environment.pop("kind", None)
    return dict(
        _flatten(
            {
                "recipe": {"name": result.recipe["name"], "code": str(source.get("code", ""))[:12]},
                "parameters": source.get("parameters", {}),
                "model": {
                    k: v[:12] if k == "content" and isinstance(v, str) else v
                    for k, v in source.get("model", {}).items()
                },
                "prompts": prompts,
                "drop_invalid": _lock_of(result).get("drop_invalid"),
                "backend": source.get("backend"),
                "environment": kind,
                "versions": environment,
                "computed": computed,
            }
        )
    )


def _flatten(value: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for name, item in value.items():
        path = f"{above}{name}"
        if isinstance(item, Mapping) and item:
            yield from _flatten(item, f"{path}.")
        else:
            yield path, None if item == {} else item


def compare_prompts(a: Result, b: Result) -> PromptComparison:
    """How many prompts are the same, and the first one that differs."""
    texts, others = _prompt_texts(a), _prompt_texts(b)
    same, first = 0, None
    for index, (one, other) in enumerate(zip(texts, others, strict=False)):
        shared = [k for k in one if k in other]
        fields = {k: [one[k], other[k]] for k in shared if one[k] != other[k]}
        same += not fields
        if fields and first is None:
            first = {"index": index, "fields": fields}
    return PromptComparison(same, len(texts), len(others), first)


def _prompt_texts(result: Result) -> list[Mapping[str, Any]]:
    """The prompts of a result as texts, taken from the lock if it has them."""
    prompts = _lock_of(result).get("prompts")
    kept = prompts.get("examples") if isinstance(prompts, dict) else None
    kept = [e for e in kept if isinstance(e, dict)] if isinstance(kept, list) else []
    if len(kept) == len(result.prompts):
        return [{k: example.get(k) for k in _PROMPT} for example in kept]
    return [{k: part.get(k) for k in PROMPT_TEXTS} for part in result.prompts]


def _lock_of(result: Result) -> Mapping[str, Any]:
    return {} if result.path is None else read_lock(result.path)

"""Facts of runs, as names and values for a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from remote_mi.common.errors import RemoteMIError
from remote_mi.common.text import counted, line, prose
from remote_mi.prompts import phenomena
from remote_mi.store.provenance import PromptFacts, Provenance
from remote_mi.store.result import Result

_DEVICE_FACTS = ("device", "dtype", "attention")


def prompts_name(result: Result) -> str:
    """The phenomenon with its template, or the file of the prompts; "" for single texts."""
    return line(result.made.prompts.name) if result.made.prompts.name else ""


def find_phenomenon(name: str, project: Path) -> phenomena.Phenomenon | None:
    """The current phenomenon, for its title and description; None if it no longer exists."""
    try:
        return phenomena.find(name, project)
    except (RemoteMIError, OSError):
        return None


def default_title(results: Sequence[Result]) -> str:
    """The default title of a report: the recipes, and what they ran on."""
    recipes = _join_few(r.name for r in results)
    origins = _join_few(prompts_name(r) for r in results)
    return f"{recipes} on {origins}" if origins else recipes


def _join_few(names: Iterable[str], most: int = 3) -> str:
    """The first few names, without duplicates, as a list."""
    distinct = [name for name in dict.fromkeys(names) if name]
    return ", ".join(distinct[:most]) + (" and more" if len(distinct) > most else "")


def questions(results: Sequence[Result], project: Path) -> list[str]:
    """What the recipes set out to find, one sentence each, and on which phenomena."""
    found = [_as_question(t) for t in dict.fromkeys(r.card.summary for r in results)]
    titles = []
    for name in dict.fromkeys(str(r.made.prompts.origin) for r in results):
        phenomenon = find_phenomenon(name, project)
        if phenomenon is not None:
            titles.append(prose(phenomenon.title))
    if titles:
        found.append(f"Studied on: {'; '.join(titles)} (see Data).")
    return [text for text in found if text]


def _as_question(summary_line: str) -> str:
    """The first line of a recipe, as what is to be found out."""
    text = prose(summary_line)
    if text.split(" ")[0] in ("Which", "What", "Where", "Whether", "How", "At", "When"):
        return f"To find out {text[0].lower()}{text[1:]}"
    return text


def differing_settings(result: Result, results: Sequence[Result]) -> dict[str, str]:
    """The settings that are not the same in all runs of the same recipe and prompts."""
    mine = _settings(result)
    others = [
        _settings(r)
        for r in results
        if r.name == result.name and prompts_name(r) == prompts_name(result)
    ]
    return {
        name: line(str(value))
        for name, value in mine.items()
        if any(other.get(name) != value for other in others)
    }


def _settings(result: Result) -> dict[str, Any]:
    made = result.made
    return {
        "model": made.model.name,
        "revision": made.model.revision,
        "adapter": (made.record.adapter or {}).get("name") or made.model.adapter,
        "n": len(result.prompts),
        "prompt seed": made.prompts.seed,
        "backend": made.environment and made.environment.kind,
        **made.shown_parameters,
    }


def models(results: Sequence[Result]) -> list[dict[str, str]]:
    """The facts (name → value) of each distinct model."""
    found: dict[str, dict[str, str]] = {}
    for result in results:
        made = result.made
        model, record = made.model, made.record
        count = record.parameters
        facts = {
            "name": model.name,
            "revision": None if record.object else record.revision or model.revision or "unpinned",
            "object in memory": record.object and record.object.get("class"),
            "architecture": record.architecture,
            "parameters": f"{count:,}" if count is not None else None,
            "content (SHA-256)": model.content,
            "quantization": model.quantization or record.quantization,
            "adapter": _adapter_text(made),
            "tokenizer": model.tokenizer,
        }
        shown = {k: line(str(v)) for k, v in facts.items() if v}
        found.setdefault(str(sorted(shown.items())), shown)
    return list(found.values())


def _adapter_text(made: Provenance) -> str | None:
    """An adapter: its name, kind and digest; None if there is none."""
    told, identity = made.record.adapter or {}, made.model.adapter
    if identity is None:
        return None
    own = [str(told.get("kind") or ""), "merged into the weights" if told.get("merged") else ""]
    name = str(told.get("name") or identity)
    if identity != name:
        own.append(identity)
    return f"{name} ({', '.join(filter(None, own))})" if any(own) else name


def parameter_text(given: Any) -> str:
    """A parameter's value as text."""
    if isinstance(given, list):
        return ", ".join(line(str(item)) for item in given) or "none"
    return line(str(given))


def bos_text(source: PromptFacts) -> str:
    """How the beginning-of-sequence token was handled."""
    return "added before each prompt" if source.bos_prepended else "none added"


def environments(results: Iterable[Result]) -> list[tuple[str, dict[str, str]]]:
    """(run ids, facts) of each distinct environment."""
    found: dict[str, tuple[list[str], dict[str, str]]] = {}
    for result in results:
        made = result.made
        noted = {name: getattr(made.record, name) for name in _DEVICE_FACTS}
        facts = {**(made.environment.to_json() if made.environment else {}), **noted}
        shown = {k: line(str(v)) for k, v in facts.items() if v}
        found.setdefault(str(sorted(shown.items())), ([], shown))[0].append(result.id8)
    return [(", ".join(ids), facts) for ids, facts in found.values()]


def summary_line(result: Result) -> str:
    """A run in one line: prompts, model, where and when it was computed."""
    made, count = result.made, len(result.prompts)
    unit = "pair" if any(prompt.get("corrupt") for prompt in result.prompts) else "prompt"
    place = "/".join(part for part in (made.where, made.record.dtype) if part)
    parts = [
        counted(count, unit) if count else "",
        made.model.name,
        place,
        (made.time or "")[:10],
    ]
    return " · ".join(line(str(part)) for part in parts if part)


def computation_facts(result: Result) -> dict[str, str]:
    """When, where and at what cost a run was computed."""
    made = result.made
    facts = {
        "computed": made.time,
        "where": made.where or None,
        "why there": made.reason,
        "seconds": made.record.seconds,
        "forward passes": made.record.forward_passes,
        "key": made.key or None,
        **{name: one.described for name, one in made.artifacts.items()},
    }
    return {k: line(str(v)) for k, v in facts.items() if v is not None}

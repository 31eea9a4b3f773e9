"""Explaining why a job's result is, or is not, available: which parts of the key differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remote_mi.common.versions import major_minor
from remote_mi.jobs.job import Job
from remote_mi.jobs.lookup import ResultPlace, other_places
from remote_mi.store.cache import Cache
from remote_mi.store.cache_index import CacheIndex, EntryRow
from remote_mi.store.environment import PACKAGES, Environment

#: Most differences of one kind that are listed.
_MOST = 4


@dataclass(frozen=True)
class Explanation:
    """Whether there is a result of a job, and if not, why not.

    Attributes:
        key: the job's. environment: where it would run; None if that is not known yet.
        run: the run with its result; "" if none. cached: whether only the cache has it.
        elsewhere: other environments with a result of the job, and why it is not reused.
        parts, parts_there: number of calls of the recipe, and of those with cached raw outputs.
        nearest: the most similar result of the recipe; None if there is none or it is not needed.
        differences: how its key differs, in words.
    """

    key: str
    environment: Environment | None
    run: str = ""
    cached: bool = False
    elsewhere: list[str] = field(default_factory=list)
    parts: int = 0
    parts_there: int = 0
    nearest: EntryRow | None = None
    differences: list[str] = field(default_factory=list)

    @property
    def hit(self) -> bool:
        """Whether the job would be answered without computing anything."""
        return bool(self.run) or self.cached

    def to_json(self) -> dict[str, Any]:
        near = self.nearest
        return {
            "key": self.key,
            "environment": self.environment.to_json() if self.environment else None,
            "hit": self.hit,
            "run": self.run or None,
            "cached": self.cached,
            "elsewhere": self.elsewhere,
            "parts": {"all": self.parts, "there": self.parts_there},
            "nearest": {
                "key": near.key,
                "environment": near.environment.to_json(),
                "time": near.time,
            }
            if near
            else None,
            "differences": self.differences,
        }


def explain(job: Job, places: Iterable[ResultPlace]) -> Explanation:
    """Say where a job's result is, or why there is none.

    Args:
        places: where a run would look for it; a miss is explained for the first.
    """
    here: Environment | None = None
    for place in places:
        here = here or place.environment
        if place.has_result:
            return Explanation(job.key, place.environment, place.run, place.cached)
    others = dict.fromkeys(place.environment for place in other_places(job))
    elsewhere = [describe_environment(other, here) for other in others if other is not None]
    if elsewhere or here is None:
        return Explanation(job.key, here, elsewhere=elsewhere)
    cache = Cache(job.cache)
    there = sum(cache.contains(key, here) for key in job.part_keys)
    near, differ = _nearest(job, cache)
    return Explanation(
        job.key, here, parts=len(job.part_keys), parts_there=there, nearest=near, differences=differ
    )


def describe_environment(other: Environment, here: Environment | None) -> str:
    """Another environment, and why a result from it is not reused here."""
    if here is None:
        return f"{other}: it is not known yet where the job would run"
    if other.kind != here.kind:
        why = f"this is {here.kind}"
    else:
        differ = [
            n for n in PACKAGES if major_minor(getattr(other, n)) != major_minor(getattr(here, n))
        ]
        why = "this one has " + ", ".join(f"{name} {getattr(here, name)}" for name in differ)
    return f"{other}: not reused, because numbers may differ; {why}"


def _nearest(job: Job, cache: Cache) -> tuple[EntryRow | None, list[str]]:
    """The entry of the recipe whose key differs in the fewest parts, and those differences."""
    about = job.key_description()
    rows = [row for row in CacheIndex(cache).rows_of_recipe(job.card.name) if row.about]
    if not rows:
        return None, []

    def distance(row: EntryRow) -> tuple[float, bool, float]:
        return _distance(row.about or {}, about), row.part, -row.time

    near = min(rows, key=distance)
    there = {**(near.about or {}), "code_parts": cache.code_parts(near.about or {})}
    return near, differences(there, about)


def _distance(there: Mapping[str, Any], here: Mapping[str, Any]) -> float:
    """How many parts of the key differ; prompts count by the fraction that differ."""
    parts = float(there.get("code") != here["code"]) + (there.get("declared") != here["declared"])
    for name in ("parameters", "model"):
        parts += len(_differing(there.get(name) or {}, here[name]))
    known = {prompt["digest"] for prompt in there.get("prompts") or []}
    wanted = {prompt["digest"] for prompt in here["prompts"]}
    if known != wanted:
        parts += 0.1 + len(known ^ wanted) / len(known | wanted)
    return parts


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between the keys of two jobs, in words.

    Args:
        there, here: `remote_mi.jobs.job.Job.key_description` of the stored result and of this job.
    """
    lines = []
    if there.get("schema") != here["schema"]:
        lines.append(
            f"the format of keys: {there.get('schema')} there, {here['schema']} here, "
            "because remote_mi was updated"
        )
    lines += _code_differences(there, here)
    for name, before, now in _differing(there.get("parameters") or {}, here["parameters"]):
        lines.append(f"parameter {name}: {before} there, {now} here")
    lines += _model_differences(there.get("model") or {}, here["model"])
    lines += _prompt_differences(there, here)
    for name, _, _ in _differing(there.get("declared") or {}, here["declared"]):
        lines.append(f"the recipe's declaration of {name}")
    if not there.get("part") and len(there.get("prompts") or []) == len(here["prompts"]):
        if there.get("templates") != here["templates"]:
            lines.append("the names of the prompts' templates")
        if there.get("classes") != here["classes"]:
            lines.append("the classes or groups of the prompts")
        if there.get("drop_invalid") != here["drop_invalid"]:
            words = {True: "left out", False: "refused"}
            lines.append(
                "prompts that do not fit the tokenizer are "
                f"{words[bool(there.get('drop_invalid'))]} there, "
                f"{words[here['drop_invalid']]} here"
            )
    return lines


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value there and value here of every member that differs between two mappings."""
    return [
        (name, _abbreviate(there, name), _abbreviate(here, name))
        for name in dict.fromkeys([*here, *there])
        if (name in there, there.get(name)) != (name in here, here.get(name))
    ]


def _abbreviate(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "nothing"
    text = str(values[name])
    return text if len(text) <= 80 else f"{text[:77]}…"


def _model_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    named = {name: (before, now) for name, before, now in _differing(there, here)}
    content = named.pop("content", None)
    lines = []
    if "name" in named:
        before, now = named.pop("name")
        lines.append(f"model: {before} there, {now} here")
    elif content:
        lines.append("the model's files changed")
    return lines + [
        f"the model's {n}: {before} there, {now} here" for n, (before, now) in named.items()
    ]


def _code_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The functions, classes and constants reached by the recipe that differ."""
    before, now = there.get("code_parts") or {}, here["code_parts"]
    if before == now or (not before and there.get("code") == here["code"]):
        return []
    if not before:
        return ["the code that the recipe reaches changed; it is not known which part"]
    lines = []
    for label in sorted({*before, *now}, key=lambda label: (label not in now, label)):
        what = _code_part_name(label, str((here if label in now else there).get("file")))
        if label not in before:
            lines.append(f"{what} is reached now, but was not before")
        elif label not in now:
            lines.append(f"{what} was reached before, but is not now")
        elif before[label] != now[label]:
            lines.append(f"{what} changed")
    return _first_few(lines, "parts of the code")


def _code_part_name(label: str, file: str) -> str:
    """The name and place of a code part, as the subject of a sentence."""
    module, _, name = label.rpartition(":")
    place = {"recipe": file, "live": "the notebook"}.get(module, module)
    if not place.startswith("remote_mi.") and module not in ("recipe", "live"):
        place = f"{module.replace('.', '/')}.py"
    return f"the code of `{name}` in {place}" if name else f"the module-level code of {place}"


def _prompt_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    before, now = list(there.get("prompts") or []), here["prompts"]
    known, wanted = ([p["digest"] for p in prompts] for prompts in (before, now))
    if known == wanted or (there.get("part") and set(known) <= set(wanted)):
        return []
    if sorted(known) == sorted(wanted):
        return ["the same prompts are in a different order"]
    if len(known) != len(wanted):
        same = len(set(known) & set(wanted))
        return [f"{len(known)} prompts there, {len(wanted)} here; {same} are the same"]
    lines = [
        _prompt_difference(number, old, new)
        for number, (old, new) in enumerate(zip(before, now, strict=True), 1)
        if old["digest"] != new["digest"]
    ]
    return _first_few(lines, "prompts")


def _prompt_difference(number: int, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    fields = [name for name, _, _ in _differing(there["fields"], here["fields"])]
    text = f"prompt {number} differs in {', '.join(fields)}"
    if there["begins"] != here["begins"]:
        text += f": {there['begins']!r} there, {here['begins']!r} here"
    return text


def _first_few(lines: Sequence[str], what: str) -> list[str]:
    """The first few, and how many more there are."""
    more = len(lines) - _MOST
    return [*lines[:_MOST], *([f"and {more} more {what}"] if more > 0 else [])]

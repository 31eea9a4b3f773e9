"""Why a job's result is, or is not, in the store: which part of the key differs, in words."""

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

#: Differences of one kind that are told one by one.
_MOST = 4


@dataclass(frozen=True)
class Explanation:
    """Whether there is a result of a job, and if not, why not.

    Attributes:
        key: the job's. environment: where it would run; None if that is not known yet.
        run: the run that is its result, "" if none. cached: whether only the cache has it.
        elsewhere: environments in which the same was computed, and why that is not taken.
        parts, parts_there: calls of the recipe, and those whose raw outputs are there.
        nearest: the most similar result of the recipe, None if there is none or it is not needed.
        differences: what its key has otherwise, in words.
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
    """Say where a job's result is, or what is found instead.

    Args:
        places: where a run would take it from; a miss is told of the first.
    """
    here: Environment | None = None
    for place in places:
        here = here or place.environment
        if place.has_it:
            return Explanation(job.key, place.environment, place.run, place.cached)
    others = dict.fromkeys(place.environment for place in other_places(job))
    elsewhere = [in_words(other, here) for other in others if other is not None]
    if elsewhere or here is None:
        return Explanation(job.key, here, elsewhere=elsewhere)
    cache = Cache(job.cache)
    there = sum(cache.holds(key, here) for key in job.part_keys)
    near, differ = _nearest(job, cache)
    return Explanation(
        job.key, here, parts=len(job.part_keys), parts_there=there, nearest=near, differences=differ
    )


def in_words(other: Environment, here: Environment | None) -> str:
    """Another environment, and why a result from it is not taken here."""
    if here is None:
        return f"{other}: it is not known yet where the job would run"
    if other.kind != here.kind:
        why = f"this is {here.kind}"
    else:
        differ = [
            n for n in PACKAGES if major_minor(getattr(other, n)) != major_minor(getattr(here, n))
        ]
        why = "here are " + ", ".join(f"{name} {getattr(here, name)}" for name in differ)
    return f"{other}: not taken, because numbers may differ; {why}"


def _nearest(job: Job, cache: Cache) -> tuple[EntryRow | None, list[str]]:
    """The entry of the recipe that differs in the fewest parts of the key, and these parts."""
    about = job.about()
    rows = [row for row in CacheIndex(cache).of_recipe(job.card.name) if row.about]
    if not rows:
        return None, []

    def distance(row: EntryRow) -> tuple[float, bool, float]:
        return _distance(row.about or {}, about), row.part, -row.time

    near = min(rows, key=distance)
    there = {**(near.about or {}), "code_parts": cache.code_parts(near.about or {})}
    return near, differences(there, about)


def _distance(there: Mapping[str, Any], here: Mapping[str, Any]) -> float:
    """How many parts of the key differ; prompts count by how many of them do."""
    parts = float(there.get("code") != here["code"]) + (there.get("declared") != here["declared"])
    for name in ("parameters", "model"):
        parts += len(_changed(there.get(name) or {}, here[name]))
    known = {prompt["digest"] for prompt in there.get("prompts") or []}
    wanted = {prompt["digest"] for prompt in here["prompts"]}
    if known != wanted:
        parts += 0.1 + len(known ^ wanted) / len(known | wanted)
    return parts


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What decides the key and is not the same in two results, in words.

    Args:
        there, here: `remote_mi.jobs.job.Job.about` of the kept result, and of the job at hand.
    """
    said = []
    if there.get("schema") != here["schema"]:
        said.append(
            f"the format of keys: {there.get('schema')} there, {here['schema']} here, "
            "by an update of remote_mi"
        )
    said += _code(there, here)
    for name, before, now in _changed(there.get("parameters") or {}, here["parameters"]):
        said.append(f"parameter {name}: {before} there, {now} here")
    said += _model(there.get("model") or {}, here["model"])
    said += _prompts(there, here)
    for name, _, _ in _changed(there.get("declared") or {}, here["declared"]):
        said.append(f"what the recipe declares as its {name}")
    if not there.get("part") and len(there.get("prompts") or []) == len(here["prompts"]):
        if there.get("templates") != here["templates"]:
            said.append("the names of the prompts' templates")
        if there.get("classes") != here["classes"]:
            said.append("the classes or groups of the prompts")
        if there.get("drop_invalid") != here["drop_invalid"]:
            words = {True: "left out", False: "refused"}
            said.append(
                "prompts that do not fit the tokenizer are "
                f"{words[bool(there.get('drop_invalid'))]} there, "
                f"{words[here['drop_invalid']]} here"
            )
    return said


def _changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value there and value here of what differs between two mappings."""
    return [
        (name, _short(there, name), _short(here, name))
        for name in dict.fromkeys([*here, *there])
        if (name in there, there.get(name)) != (name in here, here.get(name))
    ]


def _short(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "nothing"
    text = str(values[name])
    return text if len(text) <= 80 else f"{text[:77]}…"


def _model(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    named = {name: (before, now) for name, before, now in _changed(there, here)}
    content = named.pop("content", None)
    said = []
    if "name" in named:
        before, now = named.pop("name")
        said.append(f"model: {before} there, {now} here")
    elif content:
        said.append("the model's files changed")
    return said + [
        f"the model's {n}: {before} there, {now} here" for n, (before, now) in named.items()
    ]


def _code(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Which functions, classes and constants that the recipe reaches are not the same."""
    before, now = there.get("code_parts") or {}, here["code_parts"]
    if before == now or (not before and there.get("code") == here["code"]):
        return []
    if not before:
        return ["the code that the recipe reaches changed; which part is not known"]
    said = []
    for label in sorted({*before, *now}, key=lambda label: (label not in now, label)):
        what = _definition(label, str((here if label in now else there).get("file")))
        if label not in before:
            said.append(f"{what} is reached now, and was not then")
        elif label not in now:
            said.append(f"{what} was reached then, and is not now")
        elif before[label] != now[label]:
            said.append(f"{what} changed")
    return _first(said, "parts of the code")


def _definition(label: str, file: str) -> str:
    """A definition of the project by name and place, as a subject of a sentence."""
    module, _, name = label.rpartition(":")
    place = {"recipe": file, "live": "the notebook"}.get(module, module)
    if not place.startswith("remote_mi.") and module not in ("recipe", "live"):
        place = f"{module.replace('.', '/')}.py"
    return f"the code of `{name}` in {place}" if name else f"what {place} does when it is imported"


def _prompts(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    before, now = list(there.get("prompts") or []), here["prompts"]
    known, wanted = ([p["digest"] for p in prompts] for prompts in (before, now))
    if known == wanted or (there.get("part") and set(known) <= set(wanted)):
        return []
    if sorted(known) == sorted(wanted):
        return ["the same prompts come in another order"]
    if len(known) != len(wanted):
        same = len(set(known) & set(wanted))
        return [f"{len(known)} prompts there, {len(wanted)} here; {same} are the same"]
    said = [
        _prompt(number, old, new)
        for number, (old, new) in enumerate(zip(before, now, strict=True), 1)
        if old["digest"] != new["digest"]
    ]
    return _first(said, "prompts")


def _prompt(number: int, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    fields = [name for name, _, _ in _changed(there["fields"], here["fields"])]
    said = f"prompt {number} differs in {', '.join(fields)}"
    if there["begins"] != here["begins"]:
        said += f": {there['begins']!r} there, {here['begins']!r} here"
    return said


def _first(said: Sequence[str], what: str) -> list[str]:
    """The first few, and how many more there are."""
    more = len(said) - _MOST
    return [*said[:_MOST], *([f"and {more} more {what}"] if more > 0 else [])]

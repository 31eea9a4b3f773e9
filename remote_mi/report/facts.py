"""What a run says of itself, as names and values for a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from remote_mi import phenomena
from remote_mi.errors import RemoteMIError
from remote_mi.report.text import line
from remote_mi.results import Result

_DEVICE_FACTS = ("device", "dtype", "attention", "revision")


def prompts_name(result: Result) -> str:
    """A phenomenon with its template, or the file the prompts are from; "" for single texts."""
    prompts = result.provenance.get("prompts", {})
    origin = line(str(prompts.get("origin", "")))
    if origin in ("", "command line", "list", "no prompts"):
        return ""
    return f"{origin}:{line(str(prompts['template']))}" if prompts.get("template") else origin


def phenomenon_of(name: str, project: Path) -> phenomena.Phenomenon | None:
    """The phenomenon as it is today, for its title and description; None where it is gone."""
    try:
        return phenomena.find(name, project)
    except (RemoteMIError, OSError):
        return None


def differs_in(result: Result, results: Sequence[Result]) -> dict[str, str]:
    """Model, seed, size and parameters that are not the same in all runs of the recipe and prompts."""
    mine = _settings(result)
    others = [_settings(r) for r in results if r.recipe["name"] == result.recipe["name"]
              and prompts_name(r) == prompts_name(result)]  # fmt: skip
    return {
        name: line(str(value))
        for name, value in mine.items()
        if any(other.get(name) != value for other in others)
    }


def _settings(result: Result) -> dict[str, Any]:
    source = result.provenance
    prompts = source.get("prompts", {})
    return {"model": source.get("model", {}).get("name"), "n": len(result.prompts),
            "prompt seed": prompts.get("seed"),
            "backend": source.get("environment", {}).get("kind"),
            **source.get("parameters", {})}  # fmt: skip


def models(results: Sequence[Result]) -> list[dict[str, str]]:
    """Each model once: name → value."""
    found: dict[str, dict[str, str]] = {}
    for result in results:
        model = result.provenance.get("model", {})
        record = result.provenance.get("record", {})
        count = record.get("parameters")
        facts = {
            "name": model.get("name", "?"),
            "revision": record.get("revision") or model.get("revision") or "unpinned",
            "architecture": record.get("architecture"),
            "parameters": f"{count:,}" if isinstance(count, int) else None,
            "content (SHA-256)": model.get("content"),
            "quantization": model.get("quantization"),
            "adapter": model.get("adapter"),
        }
        shown = {k: line(str(v)) for k, v in facts.items() if v}
        found.setdefault(str(sorted(shown.items())), shown)
    return list(found.values())


def value(given: Any) -> str:
    """A parameter's value as text."""
    if isinstance(given, list):
        return ", ".join(line(str(item)) for item in given) or "none"
    return line(str(given))


def bos(source: Mapping[str, Any]) -> str:
    """What was done about the beginning-of-sequence token."""
    return "put before each prompt" if source.get("bos_prepended") else "none added"


def environments(results: Iterable[Result]) -> list[tuple[str, dict[str, str]]]:
    """Each distinct environment once, with the runs computed in it."""
    found: dict[str, tuple[list[str], dict[str, str]]] = {}
    for result in results:
        source = result.provenance
        record = source.get("record", {})
        facts = {**source.get("environment", {}),
                 **{k: record[k] for k in _DEVICE_FACTS if record.get(k)}}  # fmt: skip
        shown = {k: line(str(v)) for k, v in facts.items() if v}
        found.setdefault(str(sorted(shown.items())), ([], shown))[0].append(
            result.run_id.rsplit("-", 1)[-1]
        )
    return [(", ".join(ids), facts) for ids, facts in found.values()]


def computed(result: Result) -> dict[str, str]:
    """When and at what cost a run was computed."""
    record = result.provenance.get("record", {})
    facts = {"computed": result.provenance.get("time"), "where": result.provenance.get("reason"),
             "seconds": record.get("seconds"), "forward passes": record.get("forward_passes"),
             "key": result.provenance.get("key")}  # fmt: skip
    return {k: line(str(v)) for k, v in facts.items() if v is not None}

"""The section of a report on its data: the prompts of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remote_mi.common.text import line, prose
from remote_mi.report.document import run_facts
from remote_mi.store.result import Result

_EXAMPLES = 3


@dataclass(frozen=True)
class Data:
    """The prompts of one or more runs.

    Attributes:
        description: description of the phenomenon, or "". facts: name → value.
        examples: the first prompts, with their texts. source: where the prompts come from.
    """

    heading: str
    description: str
    facts: dict[str, str]
    examples: list[Mapping[str, Any]]
    count: int
    source: str

    @property
    def caption(self) -> str:
        """Which prompts are shown, and where the others are."""
        shown = len(self.examples)
        if shown == self.count:
            return f"All {shown}" if shown > 1 else "The only one"
        return f"The first {shown} of {self.count}; all are in config.lock.yaml in the run's folder"


def data_of(results: Sequence[Result], project: Path) -> list[Data]:
    """The prompts of the runs, once for each phenomenon, template and seed."""
    by_source: dict[str, list[Result]] = {}
    for result in results:
        if result.prompts:
            name = run_facts.prompts_name(result)
            seed = result.made.prompts.seed
            texts = "" if name else str([p["clean"] for p in result.prompts])
            by_source.setdefault(f"{name}/{seed}/{texts}", []).append(result)
    return [_data_section(some, project) for some in by_source.values()]


def _data_section(results: Sequence[Result], project: Path) -> Data:
    result = max(results, key=lambda r: len(r.prompts))
    source, name = result.made.prompts, run_facts.prompts_name(result)
    phenomenon = run_facts.find_phenomenon(str(source.origin), project)
    heading = f"{phenomenon.title} ({name})" if phenomenon and name else name or "Prompts"
    counts = sorted({len(r.prompts) for r in results})
    pairs = any(example.get("corrupt") for example in result.prompts)
    facts = {
        "pairs" if pairs else "prompts": " or ".join(str(count) for count in counts),
        "seed": source.seed,
        "beginning-of-sequence token": run_facts.bos_text(source),
        "chat template": "used" if source.chat_template else "not used",
        "metric": phenomenon.metric if phenomenon else None,
    }
    description = " ".join(phenomenon.description.split()) if phenomenon else ""
    return Data(
        heading,
        description,
        {k: line(str(v)) for k, v in facts.items() if v is not None},
        result.prompts[:_EXAMPLES],
        len(result.prompts),
        prose(source.source or ""),
    )

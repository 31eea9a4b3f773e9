"""The content of run.json, read and checked in one place.

Code outside the store never reads the JSON itself: missing fields and wrong types are found here,
and raised as a `DamagedRun` with their path in the document.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from remote_mi.common.errors import Mismatch, UsageError
from remote_mi.common.text import line
from remote_mi.common.valid_json import parse_json
from remote_mi.recipes import figures
from remote_mi.recipes.card import Card, Evidence
from remote_mi.recipes.output_kinds import KINDS
from remote_mi.recipes.outputs import label_problem, outputs_from_json, summaries_from_json
from remote_mi.store.array_checks import check_arrays
from remote_mi.store.provenance import Provenance
from remote_mi.store.typed_json import WrongJson, dataclass_from_json
from remote_mi.store.verdict import ControlTest, Verdict

SCHEMA = 1
RUN_JSON = "run.json"
ARRAYS = "artifacts/result.safetensors"
#: Most characters of a name of an output or dimension, and of a figure's title and unit.
_LONGEST_NAME = 200
#: What a run's provenance must contain for its numbers to be traceable.
_REQUIRED = (
    *("key", "code", "backend", "environment", "model"),
    *("parameters", "prompts", "record", "time"),
)


class DamagedRun(Mismatch):
    """A run whose run.json is invalid.

    Attributes:
        path: of the file. where: the path in the document. what: what is wrong there.
    """

    def __init__(self, path: Path, where: str, what: str) -> None:
        problem = f"{where}: {what}" if where else what
        super().__init__(f"{path} is damaged: {problem}", "run the job again")
        self.path, self.where, self.what = path, where, what


@dataclass(frozen=True)
class PromptRecord:
    """One prompt or pair as the recipe received it, with the text of its tokens."""

    clean: str
    tokens: list[str]
    corrupt: str | None = None
    answer: str | None = None
    wrong: str | None = None
    behaviour: str = ""


@dataclass(frozen=True)
class RunDocument:
    """The prompts and labels that belong to the arrays; names as in `Result.document`."""

    parts: list[PromptRecord]
    axes: Mapping[str, Mapping[str, list[Any]]]
    vocabulary: Mapping[str, str]
    notes: list[str] = field(default_factory=list)
    texts: Mapping[str, str] = field(default_factory=dict)
    clusters: list[int] | None = None
    tests: Mapping[str, ControlTest] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)
    verdict: Verdict | None = None


@dataclass(frozen=True)
class _CardRecord:
    """The part of a recipe's card that a run stores, in its JSON form."""

    name: str
    returns: Mapping[str, _OutputRecord]
    summaries: Mapping[str, _SummaryRecord]
    over: str = "prompt"
    figures: list[Mapping[str, Any]] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    doc: str = ""
    controls: Mapping[str, str] = field(default_factory=dict)
    analysis: str = ""
    setup: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    behaviour: str = ""
    shared: Mapping[str, str] = field(default_factory=dict)
    evidence: str = ""


@dataclass(frozen=True)
class _OutputRecord:
    dims: list[str]
    kind: str
    of: str = "example"
    judges: str = ""
    asked: str = ""
    against: str = ""


@dataclass(frozen=True)
class _SummaryRecord:
    effect: str = ""
    gap: str = ""
    dims: list[str] | None = None
    kind: str = "number"


def card_from_json(shown: Mapping[str, Any]) -> Card:
    """The card of a recipe, limited to what a run stores.

    Figures of an unknown kind are left out.

    Raises:
        WrongJson: if it is invalid. UsageError: if the file of a figure cannot be imported.
    """
    record = dataclass_from_json(_CardRecord, shown, "recipe")
    _check_names(record)
    card = Card(
        record.name,
        record.over,  # type: ignore[arg-type] - written by any version
        outputs_from_json(shown["returns"]),
        summaries_from_json(shown["summaries"]),
        _figures(record.figures),
        references=record.references,
        doc=record.doc,
        controls=record.controls,
        analysis=record.analysis,
        setup=record.setup,
        labels=record.labels,
        behaviour=record.behaviour,
        shared=record.shared,
        # A word of another version says nothing to this one.
        evidence=record.evidence if record.evidence in get_args(Evidence) else "",  # type: ignore[arg-type]
    )
    for name, control in card.controls.items():
        if problem := card.control_problem(name, control):
            raise WrongJson(f"recipe.controls.{line(name, 40)}", problem)
    for dim, name in card.labels.items():
        if problem := label_problem(card.returns, dim, name):
            raise WrongJson(f"recipe.labels.{line(dim, 40)}", problem)
    return card


def _check_names(record: _CardRecord) -> None:
    """Check that names can be shown, that output kinds are known, and referenced outputs exist."""
    for place, names in (
        ("recipe.returns", record.returns),
        ("recipe.summaries", record.summaries),
        *((f"recipe.returns.{name:.40}.dims", o.dims) for name, o in record.returns.items()),
        *((f"recipe.summaries.{name:.40}.dims", s.dims) for name, s in record.summaries.items()),
    ):
        for name in names or ():
            if not name.isprintable() or len(name) > _LONGEST_NAME:
                raise WrongJson(place, f"{line(name, 40)!r} is not a name")
    for name, output in record.returns.items():
        if output.kind not in KINDS:
            raise WrongJson(
                f"recipe.returns.{name}.kind", f"{output.kind!r} is not a kind of output"
            )
        if output.of not in ("example", "set"):
            raise WrongJson(f"recipe.returns.{name}.of", f"is {output.of!r:.60}")
    for name, summary in record.summaries.items():
        place = f"recipe.summaries.{name}"
        if not summary.effect and summary.dims is None:
            raise WrongJson(place, "has neither a ratio nor dimensions")
        if summary.kind not in ("number", "share"):
            raise WrongJson(f"{place}.kind", f"{summary.kind!r:.60} is not the kind of a summary")
        for one in (summary.effect, summary.gap) if summary.effect else ():
            if one not in record.returns:
                raise WrongJson(place, repr(KeyError(one)))


def _figures(items: Sequence[Mapping[str, Any]]) -> list[figures.Figure]:
    """The figures, with a title and a unit that are safe to show."""
    parsed: list[figures.Figure] = []
    for index, item in enumerate(items):
        try:
            parsed += [_safe_figure(f) for f in figures.figures_from_json([dict(item)])]
        except (KeyError, TypeError) as error:
            raise WrongJson(f"recipe.figures[{index}]", repr(error)) from None
    return parsed


def _safe_figure(figure: figures.Figure) -> figures.Figure:
    title, unit = line(figure.title, _LONGEST_NAME), line(figure.unit, _LONGEST_NAME)
    same = (title, unit) == (figure.title, figure.unit)
    return figure if same else replace(figure, title=title, unit=unit)


@dataclass(frozen=True)
class RunInfo:
    """The content of run.json.

    Attributes:
        status: "done", or "failed" with the `error`. scalars: single numbers, for lists.
        artifacts: file in the folder → its SHA-256.
    """

    status: str
    artifacts: Mapping[str, str]
    recipe: Mapping[str, Any]
    document: Mapping[str, Any]
    provenance: Mapping[str, Any]
    error: str | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the job failed, so that there are no numbers."""
        return self.status == "failed"

    @functools.cached_property
    def made(self) -> Provenance:
        return Provenance.from_json(self.provenance)

    @functools.cached_property
    def card(self) -> Card:
        return card_from_json(self.recipe)

    @functools.cached_property
    def parsed_document(self) -> RunDocument:
        """The document, checked."""
        return dataclass_from_json(RunDocument, self.document, "document")

    @property
    def missing_fields(self) -> list[str]:
        """Required fields that the provenance lacks."""
        given = self.provenance
        missing = [name for name in _REQUIRED if not given.get(name) and given.get(name) != {}]
        return missing or ([] if given["record"] else ["record"])

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Check everything, and that the arrays are what the rest says.

        Raises:
            WrongJson: naming the place that is wrong. UsageError: as `card_from_json`.
        """
        _ = self.made
        if not self.failed:
            document = self.parsed_document
            tokens = [len(part.tokens) for part in document.parts]
            check_arrays(self.card, tokens, document.axes, arrays, self.made.parameters)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON of a run, in this version's schema.

    Args:
        path: of run.json.

    Raises:
        DamagedRun: if it is damaged. Mismatch: if it is missing or has another schema.
    """
    try:
        data = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise Mismatch(f"{path.parent} is not a run: it has no {RUN_JSON}") from None
    except (OSError, ValueError) as error:
        raise DamagedRun(path, "", str(error)) from None
    if not isinstance(data, dict):
        raise DamagedRun(path, "", "it is not a JSON object")
    return _check_schema(data, path)


def _check_schema(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """The data, if it has this version's schema; there are no earlier ones to upgrade."""
    if data.get("schema") != SCHEMA:
        raise Mismatch(
            f"{path} has schema {data.get('schema')}, this version reads {SCHEMA}",
            "update remote_mi",
        )
    return data


def read_info(path: Path, whole: bool = True) -> RunInfo:
    """Read and check run.json.

    Args:
        path: of run.json.
        whole: check card and document now; if False, only on first access, for lists.

    Raises:
        DamagedRun: naming the path of the invalid value. Mismatch: as `read_json`.
        UsageError: if the file of a figure cannot be imported.
    """
    data = read_json(path)
    try:
        info = dataclass_from_json(
            RunInfo, {f.name: data[f.name] for f in fields(RunInfo) if f.name in data}, ""
        )
        _ = info.made
        if whole:
            _ = info.card, info.parsed_document
    except WrongJson as error:
        raise DamagedRun(path, error.where, error.what) from None
    except UsageError as error:
        raise Mismatch(f"{path}: {error.message}", error.hint) from None
    return info

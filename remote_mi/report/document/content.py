"""What a project report says, as data: sections that HTML and Markdown set alike.

A report is made of runs. It states what they say of themselves (method, prompts, numbers,
controls, how to make them again) and leaves marked places for what only its author can say.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.backends.registry import option_value
from remote_mi.backends.settings.values import Settings
from remote_mi.common.errors import Mismatch, NotFound, RemoteMIError
from remote_mi.common.text import line, prose
from remote_mi.common.version import __version__
from remote_mi.recipes.docstrings import argument_docs
from remote_mi.recipes.figures import Figure
from remote_mi.report.document import run_facts
from remote_mi.report.document.bibliography import SOFTWARE, Reference, cited
from remote_mi.report.document.commands import made_by
from remote_mi.report.document.method import CONTROLS, LIMITS, MethodBlock, body, remarks
from remote_mi.report.kinds.registry import kind_of
from remote_mi.report.summary import headline, summary
from remote_mi.report.terminal import picked
from remote_mi.report.wording import Slice
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder

_EXAMPLES = 3
#: Intervals over fewer prompts than this are called rough.
FEW = 10
#: What the commands of the section on reproduction do.
HOW = (
    "The command makes a run anew; `remote-mi reproduce` computes again what the run's folder "
    "holds (prompts, parameters, the recipe's source) and compares the numbers with those "
    "shown here."
)


@dataclass(frozen=True)
class Numbered:
    """A figure of a run with its number in the report, and what it says in words.

    Attributes:
        number: of what is shown in the report, from 1. label: "Figure 3" or "Table 1".
        prompts: how many there are where one is shown at a time, else 1.
        problem: why it cannot be shown, or "".
    """

    number: int
    label: str
    figure: Figure
    sentences: list[str]
    prompts: int = 1
    problem: str = ""
    slice_: Slice = Slice()  # noqa: RUF009 - immutable


@dataclass(frozen=True)
class Section:
    """The results of one run.

    Attributes:
        folder: the run's, as it is to be typed. command: that makes the run, or None.
        differs: parameters by which it differs from other runs of its recipe in the report.
    """

    result: Result
    heading: str
    shown: list[Numbered]
    folder: str
    command: str | None
    differs: dict[str, str]

    @property
    def id8(self) -> str:
        return self.result.id8


@dataclass(frozen=True)
class Method:
    """A recipe as the method of a report.

    Attributes:
        blocks: its docstring without controls and limits, which `controls` and `limits` are.
        parameters: name, values in these runs, what it is.
    """

    recipe: str
    blocks: list[MethodBlock]
    controls: list[MethodBlock]
    limits: list[MethodBlock]
    parameters: list[tuple[str, str, str]]
    held_against: dict[str, str]


@dataclass(frozen=True)
class Data:
    """The prompts of one or more runs.

    Attributes:
        description: of the phenomenon; "" where there is none. facts: name → value.
        examples: the first ones, with their texts. source: where the prompts come from.
    """

    heading: str
    description: str
    facts: dict[str, str]
    examples: list[Mapping[str, Any]]
    count: int
    source: str

    @property
    def which(self) -> str:
        """What of the prompts is shown, and where the others are."""
        shown = len(self.examples)
        if shown == self.count:
            return f"All {shown}" if shown > 1 else "The one that there is"
        return f"The first {shown} of {self.count}; all are in config.lock.yaml in the run's folder"


@dataclass(frozen=True)
class Failure:
    """A run that has no result, with its reason."""

    name: str
    recipe: str
    reason: str


@dataclass(frozen=True)
class About:
    """What the author said beforehand: a study's title and question, and chosen figures.

    Attributes:
        author: who hands it in.
        figures: recipe → names of the figures to show; all of a recipe that is not named.
        commands: that make all of it again and compare it.
        failures: points that never became a run.
    """

    title: str = ""
    author: str = ""
    question: str = ""
    figures: Mapping[str, Sequence[str]] = field(default_factory=dict)
    commands: Sequence[str] = ()
    failures: Sequence[Failure] = ()


@dataclass(frozen=True)
class Report:
    """A report before it is set as HTML or Markdown.

    Attributes:
        question: the study's, [] without one. asked: what the recipes say they find out, and on
            which phenomena; it gives way to a study's question and to what the author writes.
        environments: run ids → facts, one for each distinct environment.
        made: day it was made. version: of remote_mi.
    """

    title: str
    question: list[str]
    asked: list[str]
    models: list[dict[str, str]]
    methods: list[Method]
    data: list[Data]
    sections: list[Section]
    failures: list[Failure]
    environments: list[tuple[str, dict[str, str]]]
    references: list[Reference]
    about: About
    made: str
    version: str

    @property
    def notes(self) -> list[tuple[str, str]]:
        """What a reader of the numbers has to know, with the run it is about."""
        return [(s.heading, prose(note)) for s in self.sections for note in s.result.notes]

    @property
    def intervals(self) -> str:
        """What the intervals are, and how far they are to be trusted."""
        sizes = [len(s.result.prompts) for s in self.sections]
        text = (
            "Intervals are 95% percentile bootstrap intervals: over prompts, or over draws "
            "where there is one prompt or none, if the method says nothing else; 1000 "
            "resamples, and for a ratio the effect and the gap of a prompt are drawn together."
        )
        if any(1 < size < FEW for size in sizes):
            text += f" Those over fewer than {FEW} prompts are rough: they tend to be too narrow."
        if 1 in sizes:
            text += " Where n=1 without draws, nothing is known of other prompts."
        return text


def make(project: Path, folders: Sequence[Path], about: About = About()) -> Report:
    """The report of some runs.

    Args:
        project: for phenomena, references, and paths that are relative to it.
        folders: of the runs, in the order of the report.

    Raises:
        NotFound: if no run has a result, or a chosen figure does not exist.
    """
    found, failures = [], list(about.failures)
    for folder in folders:
        run = RunFolder(folder)
        try:
            if run.info.failed:
                reason = prose(str(run.info.error))
                failures.append(Failure(run.name, run.info.card.name, reason))
            else:
                found.append(run.result())
        except Mismatch as error:
            failures.append(Failure(folder.name, "?", prose(error.message)))
    if not found:
        reasons = "; ".join(f"{f.name}: {f.reason}" for f in failures)
        raise NotFound(f"none of the runs has a result: {reasons}", "`remote-mi runs ls`")
    sections = _sections(found, project, about)
    keys = [key for result in found for key in result.card.references]
    sources = [str(result.made.prompts.source) for result in found]
    return Report(
        title=about.title or run_facts.title(found),
        question=[prose(text) for text in about.question.strip().split("\n\n") if text.strip()],
        asked=run_facts.asked(found, project),
        models=run_facts.models(found),
        methods=_methods(found),
        data=_data(found, project),
        sections=sections,
        failures=failures,
        environments=run_facts.environments(found),
        references=cited([*keys, SOFTWARE], project, sources),
        about=about,
        made=time.strftime("%Y-%m-%d", time.gmtime()),
        version=__version__,
    )


def _sections(results: Sequence[Result], project: Path, about: About) -> list[Section]:
    found: list[Section] = []
    numbers: Counter[str] = Counter()
    for result in results:
        chosen = about.figures.get(result.name)
        every = (
            [f for name in chosen for f in picked(result, name)] if chosen else picked(result, None)
        )
        shown: list[Numbered] = []
        said: dict[str, str] = {}
        for figure in every:
            noun = kind_of(figure).noun
            numbers[noun] += 1
            label = f"{noun} {numbers[noun]}"
            shown.append(_shown(numbers.total(), label, figure, result, said))
        differs = run_facts.differences_of(result, results)
        name = run_facts.prompts_name(result)
        heading = f"{result.name} on {name}" if name else result.name
        if differs:
            heading += " (" + ", ".join(f"{k}={v}" for k, v in differs.items()) + ")"
        found.append(
            Section(result, heading, shown, _folder(result, project), _command(result), differs)
        )
    return found


def _shown(
    number: int, label: str, figure: Figure, result: Result, said: dict[str, str]
) -> Numbered:
    """A figure and its summary, without sentences that a figure of the run has said already.

    Args:
        said: sentence → label of the figure that said it; those of this figure are added.
    """
    try:
        sentences = summary(figure, result)
    except RemoteMIError as error:
        return Numbered(number, label, figure, [], problem=prose(error.message))
    kind = kind_of(figure)
    prompts = len(result.each(figure.output)) if kind.of == "one" else 1
    if not kind.captioned:
        return Numbered(number, label, figure, [], prompts)
    new = [text for text in sentences if text not in said]
    if not new and sentences:
        new = [f"In words: see {said[sentences[0]]}."]
    for text in sentences:
        said.setdefault(text, label)
    return Numbered(number, label, figure, new, prompts)


def _folder(result: Result, project: Path) -> str:
    """The run's folder: relative to the project, so that a report tells nothing of the machine."""
    assert result.path is not None
    try:
        return result.path.relative_to(project).as_posix()
    except ValueError:
        return result.path.name


def _command(result: Result) -> str | None:
    """The command that makes the run, where it was made: on this machine or that server."""
    assert result.path is not None
    backend = option_value(result.made.backend)
    return made_by(result.path, "" if backend == Settings.prefer[0] else backend)


def _methods(results: Sequence[Result]) -> list[Method]:
    by_recipe: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_recipe.setdefault((result.name, result.card.doc), []).append(result)
    return [_method(name, doc, some) for (name, doc), some in by_recipe.items()]


def _method(name: str, doc: str, results: Sequence[Result]) -> Method:
    values: dict[str, dict[str, None]] = {}
    for result in results:
        for key, value in result.made.parameters.items():
            values.setdefault(key, {})[run_facts.value(value)] = None
    helps = argument_docs(doc)
    rows = [(key, " / ".join(some), helps.get(key, "")) for key, some in values.items()]
    return Method(
        name,
        body(doc),
        remarks(doc, CONTROLS),
        remarks(doc, LIMITS),
        rows,
        dict(results[0].controls),
    )


def _data(results: Sequence[Result], project: Path) -> list[Data]:
    """The prompts of the runs; those of one phenomenon, template and seed once."""
    by_source: dict[str, list[Result]] = {}
    for result in results:
        if result.prompts:
            name = run_facts.prompts_name(result)
            seed = result.made.prompts.seed
            texts = "" if name else str([p["clean"] for p in result.prompts])
            by_source.setdefault(f"{name}/{seed}/{texts}", []).append(result)
    return [_data_of(some, project) for some in by_source.values()]


def _data_of(results: Sequence[Result], project: Path) -> Data:
    result = max(results, key=lambda r: len(r.prompts))
    source, name = result.made.prompts, run_facts.prompts_name(result)
    phenomenon = run_facts.phenomenon_of(str(source.origin), project)
    heading = f"{phenomenon.title} ({name})" if phenomenon and name else name or "Prompts"
    counts = sorted({len(r.prompts) for r in results})
    pairs = any(example.get("corrupt") for example in result.prompts)
    said = {
        "pairs" if pairs else "prompts": " or ".join(str(count) for count in counts),
        "seed": source.seed,
        "beginning-of-sequence token": run_facts.bos(source),
        "chat template": "used" if source.chat_template else "not used",
        "metric": phenomenon.metric if phenomenon else None,
    }
    description = " ".join(phenomenon.description.split()) if phenomenon else ""
    return Data(
        heading,
        description,
        {k: line(str(v)) for k, v in said.items() if v is not None},
        result.prompts[:_EXAMPLES],
        len(result.prompts),
        prose(source.source or ""),
    )


def overview(report: Report) -> list[dict[str, str]]:
    """One row a run: what it is, and its largest effect in a few words."""
    return [
        {
            "run": s.id8,
            "recipe": s.result.name,
            "prompts": run_facts.prompts_name(s.result)
            or ("a text" if s.result.prompts else "none"),
            "n": str(len(s.result.prompts) or "–"),
            "model": line(s.result.made.model.name),
            "differs": ", ".join(f"{k}={v}" for k, v in s.differs.items()),
            "largest": headline(s.result),
        }
        for s in report.sections
    ]

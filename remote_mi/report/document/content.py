"""The content of a project report as data, from which HTML and Markdown are rendered.

A report is made from runs. It contains what the runs record (method, prompts, numbers,
controls, how to repeat them) and marked places for what only its author can write.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from remote_mi.backends.registry import option_value
from remote_mi.backends.settings.values import Settings
from remote_mi.common.errors import Mismatch, NotFound, RemoteMIError
from remote_mi.common.text import line, prose
from remote_mi.common.version import __version__
from remote_mi.recipes.docstrings import argument_docs
from remote_mi.recipes.figures import Figure
from remote_mi.report.document import run_facts
from remote_mi.report.document.across import NumberedComparison, Numbering, number_comparisons
from remote_mi.report.document.bibliography import SOFTWARE, Reference, cite
from remote_mi.report.document.commands import command_for_run
from remote_mi.report.document.data import Data, data_of
from remote_mi.report.document.method import CONTROLS, LIMITS, MethodBlock, body, remarks
from remote_mi.report.evidence import limit_of_evidence
from remote_mi.report.kinds.registry import kind_of
from remote_mi.report.study.claims import ShownClaims
from remote_mi.report.study.shown import ShownComparison
from remote_mi.report.summary import headline, summary
from remote_mi.report.terminal import select_figures
from remote_mi.report.wording import Slice, verdict_text
from remote_mi.store.result import Result
from remote_mi.store.run_folder import RunFolder

#: Explains the commands of the section on reproduction.
REPRODUCTION_NOTE = (
    "`remote-mi run` makes a new run; `remote-mi reproduce` recomputes a run from its folder "
    "(prompts, parameters, the recipe's source) and compares the numbers with those shown here."
)


@dataclass(frozen=True)
class NumberedFigure:
    """A figure of a run with its number in the report, and its description.

    Attributes:
        number: among all figures and tables of the report, from 1. label: "Figure 3" or "Table 1".
        sentences: its description.
        prompts: number of prompts if one is shown at a time, else 1.
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
        folder: the run's folder as shown to the reader. command: the command that makes the run,
            or None.
        differs: settings in which it differs from other runs of its recipe in the report.
    """

    result: Result
    heading: str
    shown: list[NumberedFigure]
    folder: str
    command: str | None
    differs: dict[str, str]

    @property
    def id8(self) -> str:
        return self.result.id8

    @property
    def verdict(self) -> str:
        """Whether the model does what the run studies, in words; "" without a verdict."""
        return verdict_text(self.result)


@dataclass(frozen=True)
class Method:
    """A recipe as the method of a report.

    Attributes:
        blocks: its docstring without the remarks in `controls` and `limits`.
        parameters: name, values in these runs, description.
        control_of: output or summary → the one that it is compared with.
        evidence: what its kind of evidence says and does not say; "" if it declares none.
    """

    recipe: str
    blocks: list[MethodBlock]
    controls: list[MethodBlock]
    limits: list[MethodBlock]
    parameters: list[tuple[str, str, str]]
    control_of: dict[str, str]
    evidence: str


@dataclass(frozen=True)
class Failure:
    """A run without a result, with the reason."""

    name: str
    recipe: str
    reason: str


@dataclass(frozen=True)
class About:
    """What is given for a report: title, author, a study's question, and selected figures.

    Attributes:
        author: the author of the report.
        figures: recipe → names of the figures to show; all figures of other recipes are shown.
        commands: the commands that repeat everything and compare it.
        failures: points of a study that never became a run.
        claims, comparisons: of a study.
    """

    title: str = ""
    author: str = ""
    question: str = ""
    figures: Mapping[str, Sequence[str]] = field(default_factory=dict)
    commands: Sequence[str] = ()
    failures: Sequence[Failure] = ()
    claims: ShownClaims = ShownClaims()  # noqa: RUF009 - not changed
    comparisons: Sequence[ShownComparison] = ()


@dataclass(frozen=True)
class Report:
    """A report before it is rendered as HTML or Markdown.

    Attributes:
        question: the study's question, [] without one.
        recipe_questions: what the recipes set out to find, and on which phenomena; shown if there
            is no question by a study or by the author.
        across: comparisons across the points of a study.
        environments: (run ids, facts) of each distinct environment.
        made: date of the report. version: version of remote_mi.
    """

    title: str
    question: list[str]
    recipe_questions: list[str]
    models: list[dict[str, str]]
    methods: list[Method]
    data: list[Data]
    across: list[NumberedComparison]
    sections: list[Section]
    failures: list[Failure]
    environments: list[tuple[str, dict[str, str]]]
    references: list[Reference]
    about: About
    made: str
    version: str

    @property
    def notes(self) -> list[tuple[str, str]]:
        """The notes of the runs, each with the heading of its run."""
        return [(s.heading, prose(note)) for s in self.sections for note in s.result.notes]

    @property
    def intervals(self) -> str:
        """What the intervals mean, and how reliable they are."""
        sizes = [len(s.result.prompts) for s in self.sections]
        text = (
            "Intervals are 95% intervals: over prompts, or over draws if there is at most one "
            "prompt, unless the method says otherwise. They are Student's, corrected for skewness "
            "(Hall 1992); Fieller's (1954) for ratios of means, and Wilson's (1927) for shares. "
            "Prompts of one group, and copies, count as one. What is not marked as its control "
            "is told from it by exchanging the two within each prompt, with a chance of at most 5% "
            "of a false claim in a whole figure (Westfall & Young 1993)."
        )
        if 1 in sizes:
            text += " With n=1 and no draws, nothing is known about other prompts."
        return text


def build_report(project: Path, folders: Sequence[Path], about: About = About()) -> Report:
    """The report of some runs.

    Args:
        project: folder of phenomena and references, and of relative paths.
        folders: folders of the runs, in the order of the report.

    Raises:
        NotFound: if no run has a result, or a selected figure does not exist.
    """
    results, failures = [], list(about.failures)
    for folder in folders:
        run = RunFolder(folder)
        try:
            if run.info.failed:
                reason = prose(str(run.info.error))
                failures.append(Failure(run.name, run.info.card.name, reason))
            else:
                results.append(run.result())
        except Mismatch as error:
            failures.append(Failure(folder.name, "?", prose(error.message)))
    if not results:
        reasons = "; ".join(f"{f.name}: {f.reason}" for f in failures)
        raise NotFound(f"none of the runs has a result: {reasons}", "`remote-mi runs ls`")
    numbers = Numbering()
    across = number_comparisons(about.comparisons, numbers)
    sections = _sections(results, project, about, numbers)
    keys = [key for result in results for key in result.card.references]
    sources = [str(result.made.prompts.source) for result in results]
    return Report(
        title=about.title or run_facts.default_title(results),
        question=[prose(text) for text in about.question.strip().split("\n\n") if text.strip()],
        recipe_questions=run_facts.questions(results, project),
        models=run_facts.models(results),
        methods=_methods(results),
        data=data_of(results, project),
        across=across,
        sections=sections,
        failures=failures,
        environments=run_facts.environments(results),
        references=cite([*keys, SOFTWARE], project, sources),
        about=about,
        made=time.strftime("%Y-%m-%d", time.gmtime()),
        version=__version__,
    )


def _sections(
    results: Sequence[Result], project: Path, about: About, numbers: Numbering
) -> list[Section]:
    sections: list[Section] = []
    for result in results:
        chosen = about.figures.get(result.name)
        every = (
            [f for name in chosen for f in select_figures(result, name)]
            if chosen
            else select_figures(result, None)
        )
        shown: list[NumberedFigure] = []
        used: dict[str, str] = {}
        for figure in every:
            number, label = numbers.take(kind_of(figure).noun)
            shown.append(_number_figure(number, label, figure, result, used))
        differs = run_facts.differing_settings(result, results)
        name = run_facts.prompts_name(result)
        heading = f"{result.name} on {name}" if name else result.name
        if differs:
            heading += " (" + ", ".join(f"{k}={v}" for k, v in differs.items()) + ")"
        sections.append(
            Section(result, heading, shown, _folder(result, project), _command(result), differs)
        )
    return sections


def _number_figure(
    number: int, label: str, figure: Figure, result: Result, used: dict[str, str]
) -> NumberedFigure:
    """A figure and its description, without sentences already used for a figure of the run.

    Args:
        used: sentence → label of the figure that used it; those of this figure are added.
    """
    try:
        sentences = summary(figure, result)
    except RemoteMIError as error:
        return NumberedFigure(number, label, figure, [], problem=prose(error.message))
    kind = kind_of(figure)
    prompts = len(result.each(figure.output)) if kind.prompts_shown == "one" else 1
    if not kind.captioned:
        return NumberedFigure(number, label, figure, [], prompts)
    new = [text for text in sentences if text not in used]
    if not new and sentences:
        new = [f"For a description, see {used[sentences[0]]}."]
    for text in sentences:
        used.setdefault(text, label)
    return NumberedFigure(number, label, figure, new, prompts)


def _folder(result: Result, project: Path) -> str:
    """The run's folder relative to the project, so that a report reveals nothing of the machine."""
    assert result.path is not None
    try:
        return result.path.relative_to(project).as_posix()
    except ValueError:
        return result.path.name


def _command(result: Result) -> str | None:
    """The command that makes the run on the backend where it was made."""
    assert result.path is not None
    backend = option_value(result.made.backend)
    return command_for_run(result.path, "" if backend == Settings.prefer[0] else backend)


def _methods(results: Sequence[Result]) -> list[Method]:
    by_recipe: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_recipe.setdefault((result.name, result.card.doc), []).append(result)
    return [_method(name, doc, some) for (name, doc), some in by_recipe.items()]


def _method(name: str, doc: str, results: Sequence[Result]) -> Method:
    values: dict[str, dict[str, None]] = {}
    for result in results:
        for key, value in result.made.shown_parameters.items():
            values.setdefault(key, {})[run_facts.parameter_text(value)] = None
    helps = argument_docs(doc)
    rows = [(key, " / ".join(some), helps.get(key, "")) for key, some in values.items()]
    return Method(
        name,
        body(doc),
        remarks(doc, CONTROLS),
        remarks(doc, LIMITS),
        rows,
        dict(results[0].controls),
        limit_of_evidence(results[0].card.evidence),
    )


def overview(report: Report) -> list[dict[str, str]]:
    """One row per run: its settings, and its largest effect as a short text."""
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

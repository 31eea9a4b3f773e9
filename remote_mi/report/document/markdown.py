"""A report as Markdown, for an editor: plain tables, figures as text and as separate files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from remote_mi.common.errors import NotFound, RemoteMIError
from remote_mi.common.text import line, visible
from remote_mi.report.document.across import NumberedComparison
from remote_mi.report.document.author_text import PLACES
from remote_mi.report.document.content import (
    REPRODUCTION_NOTE,
    NumberedFigure,
    Report,
    Section,
    overview,
)
from remote_mi.report.document.markdown_text import code, code_block, code_spans, escape, link
from remote_mi.report.document.method import MethodBlock
from remote_mi.report.document.run_facts import computation_facts, summary_line
from remote_mi.report.kinds.registry import kind_of
from remote_mi.report.study.claims import MEANING
from remote_mi.report.study.shown import ShownTable
from remote_mi.report.terminal import PLAIN_WIDTH, figure_lines

#: Draws a figure of a section, or of a comparison, and returns its path or "".
Picture = Callable[[Section | NumberedComparison, NumberedFigure | NumberedComparison], str]


def markdown(
    report: Report,
    written: Mapping[str, str],
    picture: Picture | None = None,
) -> str:
    """A report as Markdown.

    Args:
        written: the author's text, section → Markdown; missing sections are marked.
        picture: returns the file of a figure, relative to the report, or "" if there is none.
    """
    return "\n".join(_Writer(report, written, picture).lines()).rstrip() + "\n"


class _Writer:
    def __init__(
        self,
        report: Report,
        written: Mapping[str, str],
        picture: Picture | None,
    ) -> None:
        self.report, self.written, self.picture = report, written, picture

    def lines(self) -> Iterable[str]:
        report = self.report
        author = [escape(report.about.author), ""] if report.about.author else []
        yield from (
            f"# {escape(report.title)}",
            "",
            *author,
            f"{report.made} · remote_mi {report.version}",
            "",
        )
        yield from _heading("Question")
        for text in report.question or (
            [] if "question" in self.written else report.recipe_questions
        ):
            yield from (code_spans(text), "")
        yield from self._write("question")
        yield from self._claims()
        yield from _heading("Model")
        for model in report.models:
            yield from _facts(model)
        yield from _heading("Method")
        for method in report.methods:
            yield from (f"### {escape(method.recipe)}", "", *_blocks(method.blocks))
            rows = [
                [code(name), escape(value), code_spans(text)]
                for name, value, text in method.parameters
            ]
            yield from _table(["parameter", "value", "description"], rows)
        yield from self._data()
        yield from self._results()
        yield from self._controls()
        yield from _heading("Discussion")
        yield from self._write("discussion")
        yield from self._reproduction()
        yield from _heading("Environment")
        for ids, facts in report.environments:
            yield from (f"Run{'s' if ', ' in ids else ''} {escape(ids)}:", "", *_facts(facts))
        if report.references:
            yield from _heading("References")
            for entry in report.references:
                yield f"- {escape(str(entry))}{link(entry.url)}"

    def _write(self, place: str) -> Iterable[str]:
        if place in self.written:
            yield from (self.written[place], "")
            return
        yield from (f"<!-- write here: {place} -->", "", "> **To be written.**", ">")
        yield from (*(f"> - {escape(hint)}" for hint in PLACES[place]), "")

    def _claims(self) -> Iterable[str]:
        claims = self.report.about.claims
        if not claims:
            return
        yield from _heading("Claims")
        if claims.findings:
            yield from _shown_table(claims.table)
            yield from (code_spans(MEANING), "")
        yield from (*(f"- {escape(note)}" for note in claims.notes), "")

    def _across(self) -> Iterable[str]:
        """The comparisons across a study's points."""
        for across in self.report.across:
            yield from (f"### {escape(across.title)}", "")
            if across.figure is not None and across.result is not None:
                drawn = figure_lines(across.figure, across.result, PLAIN_WIDTH, across.slice_)
                yield from code_block([text.plain.rstrip() for text in drawn])
                if self.picture is not None and (path := self.picture(across, across)):
                    yield from (f"![{escape(across.title)}]({path})", "")
            if across.table is not None:
                yield from _shown_table(across.table)
            description = " ".join(escape(text) for text in across.sentences)
            yield from (
                f"**{across.label}.** {escape(across.title)}. {description}".rstrip(),
                "",
            )

    def _data(self) -> Iterable[str]:
        yield from _heading("Data")
        for data in self.report.data:
            yield from (f"### {escape(data.heading)}", "")
            if data.description:
                yield from (code_spans(data.description), "")
            yield from _facts(data.facts)
            yield from (f"{data.caption}:", "")
            pairs = any(e.get("corrupt") for e in data.examples)
            names = ["clean", "corrupt", "answer", "wrong"] if pairs else ["clean"]
            heads = ["prompt", "corrupt prompt", "answer", "wrong answer"][: len(names)]
            rows = [
                [
                    escape((visible if n in ("answer", "wrong") else line)(e[n]))
                    if e.get(n)
                    else ""
                    for n in names
                ]
                for e in data.examples
            ]
            yield from _table(heads, rows)
            if data.source:
                yield from (f"Source: {code_spans(data.source)}", "")

    def _results(self) -> Iterable[str]:
        yield from _heading("Results")
        rows = overview(self.report)
        if len(rows) > 1:
            names = [n for n in rows[0] if n != "differs" or any(r["differs"] for r in rows)]
            heads = {"largest": "largest effect", "differs": "differs in"}
            yield from _table(
                [heads.get(n, n) for n in names], [[escape(row[n]) for n in names] for row in rows]
            )
        yield from self._across()
        for section in self.report.sections:
            yield from (
                f"### {escape(section.heading)}",
                "",
                f"Run {code(section.id8)} · {escape(summary_line(section.result))}",
                "",
            )
            if section.verdict:
                yield from (f"**{escape(section.verdict)}**", "")
            for shown in section.shown:
                yield from self._figure(section, shown)
        if self.report.failures:
            yield from ("### Runs without a result", "")
            yield from _table(
                ["run", "recipe", "reason"],
                [
                    [escape(f.name), escape(f.recipe), escape(f.reason)]
                    for f in self.report.failures
                ],
            )

    def _figure(self, section: Section, shown: NumberedFigure) -> Iterable[str]:
        name = escape(shown.figure.name)
        unit = f" {escape(f'[{shown.figure.unit}]')}" if shown.figure.unit else ""
        yield from (f"#### {name}{unit}", "")
        problem = shown.problem
        if not problem:
            try:
                drawn = figure_lines(shown.figure, section.result, PLAIN_WIDTH, shown.slice_)
                yield from code_block([text.plain.rstrip() for text in drawn])
            except RemoteMIError as error:
                problem = line(error.message)
        if problem:
            yield from (f"Not shown: {escape(problem)}", "")
        elif self.picture is not None and (path := self.picture(section, shown)):
            yield from (f"![{name}]({path})", "")
        description = " ".join(escape(text) for text in shown.sentences)
        if shown.prompts > 1:
            description += (
                f" Another of the {shown.prompts} prompts: "
                f"{code_spans(f'`remote-mi view {section.id8} --item 2`')}."
            )
        yield from (
            f"**{shown.label}.** {name}, {escape(section.heading)}. {description}".rstrip(),
            "",
        )

    def _controls(self) -> Iterable[str]:
        yield from _heading("Controls and limits")
        for method in self.report.methods:
            if not (method.control_of or method.controls or method.limits or method.evidence):
                continue
            yield from (f"### {escape(method.recipe)}", "")
            if method.control_of:
                comparisons = ", ".join(
                    f"{code(a)} is compared with {code(b)}" for a, b in method.control_of.items()
                )
                yield from (
                    f"{comparisons}. A cell marked \\~ is not distinguishable from its "
                    "control, or from 0.",
                    "",
                )
            yield from _blocks(method.controls)
            if method.evidence:
                yield from (method.evidence, "")
            yield from _blocks(method.limits)
        yield from (self.report.intervals, "")
        for heading, note in self.report.notes:
            yield f"- {escape(heading)}: {escape(note)}"
        yield ""

    def _reproduction(self) -> Iterable[str]:
        yield from _heading("Reproduction")
        yield from (
            f"From the project's folder, with remote_mi {self.report.version}. {REPRODUCTION_NOTE}",
            "",
        )
        if self.report.about.commands:
            yield from code_block(self.report.about.commands, "sh")
        for section in self.report.sections:
            yield from (f"### {escape(section.heading)}", "")
            commands = [section.command] if section.command else []
            yield from code_block([*commands, f"remote-mi reproduce {section.id8}"], "sh")
            yield from _facts({"folder": section.folder, **computation_facts(section.result)})


def _heading(text: str) -> Sequence[str]:
    return f"## {text}", ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    if not rows:
        return
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join('---' for _ in heads)}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _shown_table(table: ShownTable) -> Iterable[str]:
    rows = [[escape(cell) for cell in row] for row in table.rows]
    return _table([escape(head) for head in table.heads], rows)


def _facts(facts: Mapping[str, str]) -> Iterable[str]:
    return _table(["", ""], [[escape(name), escape(value)] for name, value in facts.items()])


def _blocks(blocks: Sequence[MethodBlock]) -> Iterable[str]:
    for block in blocks:
        if block.kind == "formula":
            yield from code_block(block.text.splitlines())
        else:
            label = f"**{block.label}:** " if block.label else ""
            yield from (f"{label}{code_spans(block.text)}", "")


def pictures(folder: Path) -> Picture:
    """A function that draws a figure as SVG into the folder, and returns its path or ""."""

    def draw(
        section: Section | NumberedComparison, shown: NumberedFigure | NumberedComparison
    ) -> str:
        from remote_mi.report.images import save

        assert shown.figure is not None and section.result is not None
        if not kind_of(shown.figure).can_draw:
            return ""
        words = re.sub(r"[^A-Za-z0-9]+", "-", shown.figure.name).strip("-").lower()[:40]
        path = folder / f"{shown.number:02d}-{words or 'figure'}.svg"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save(shown.figure, section.result, path, shown.slice_)
        except NotFound:
            return ""  # there is nothing to draw, and the text above says so
        return f"{folder.name}/{path.name}"

    return draw

"""`remote-mi report RUN…|STUDY`: write a report of runs, to be completed by its author."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from remote_mi.cli.output import check_folder_exists, print_json, say, show_progress
from remote_mi.common.errors import StoreError, UsageError
from remote_mi.common.paths import project_folder
from remote_mi.common.progress import Watch
from remote_mi.store.opening import find_run_or_study
from remote_mi.store.run_folder import RunFolder
from remote_mi.store.studies import StudyRecord

if TYPE_CHECKING:
    from remote_mi.report.document.content import About, Report
    from remote_mi.report.document.markdown import Picture

_ENDINGS = {".html": "html", ".htm": "html", ".md": "markdown", ".markdown": "markdown"}


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN...|STUDY]")
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    metavar="FILE",
    help="report.html, a single self-contained file, or report.md, with its images next to it.",
)
@click.option(
    "--text",
    metavar="FILE",
    help="Your own text to insert: Markdown with the headings Question and Discussion.",
)
@click.option("--title", metavar="TEXT", help="Title of the report.")
@click.option("--author", metavar="TEXT", help="Author of the report.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Print the file name only.")
def report(
    *,
    runs: tuple[str, ...],
    output: str,
    text: str | None,
    title: str | None,
    author: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a report of runs, or of a study: method, data, results, controls, reproduction.

    By default, the report covers the newest run. It marks what only you can write; put that in a
    separate file (--text), and the report can be regenerated at any time.

    \b
    remote-mi report a1b2 c3d4 -o report.html
    remote-mi report ioi_across_techniques -o report.md --text discussion.md
    """
    from remote_mi.report.document import author_text
    from remote_mi.report.document.content import build_report

    path = Path(output)
    ending = _ENDINGS.get(path.suffix.lower())
    if ending is None:
        raise UsageError(f"{output}: a report is .html or .md", "-o report.html")
    check_folder_exists(path)
    if path.exists() and not force:
        raise UsageError(
            f"{output} already exists, and may contain what you wrote",
            "choose another name with -o, or --force to overwrite it",
        )
    texts = author_text.read(Path(text)) if text else {}
    project = project_folder()
    folders, about = find_folders(runs, project)
    about = replace(about, title=title or about.title, author=author or "")
    with show_progress(quiet or as_json) as watch:
        made = build_report(project, folders, about)
        files = _write(made, path, ending, texts, watch)
    if as_json:
        print_json(
            {
                "report": str(path),
                "files": [str(f) for f in files],
                "runs": [s.result.run_id for s in made.sections],
                "failed": [vars(f) for f in made.failures],
            }
        )
        return
    print(path)
    if not quiet:
        _say_next(made, path, texts)


def find_folders(names: Sequence[str], project: Path) -> tuple[list[Path], About]:
    """The folders of the given runs, or of a study's runs, and how the study describes itself.

    Raises:
        UsageError: if a study is given together with anything else.
    """
    from remote_mi.report.document.content import About

    folders: list[Path] = []
    for name in names or [None]:
        found = find_run_or_study(name, project)
        if isinstance(found, RunFolder):
            folders.append(found.path)
        elif len(names) > 1:
            raise UsageError(
                f"{name!r} is a study, and a report covers one study, or runs",
                f"remote-mi report {name}",
            )
        else:
            return _study_folders(found)
    return list(dict.fromkeys(folders)), About()


def _study_folders(study: StudyRecord) -> tuple[list[Path], About]:
    """The folders of a study's runs, in its order, and its points without a run as failures."""
    from remote_mi.report.document.content import About, Failure
    from remote_mi.report.study.claims import shown_claims
    from remote_mi.report.study.comparisons import shown_comparisons

    folders, failures = [], []
    for point in study.points:
        folder = study.path.parent / Path(point.run).name if point.run else None
        if folder is not None and point.state == "done":
            folders.append(folder)
            continue
        reason = point.error or {"waiting": "not run yet", "submitted": "still running"}.get(
            point.state, point.state
        )
        failures.append(
            Failure(f"point {point.index + 1} on {point.prompts}", point.recipe, reason)
        )
    about = About(
        claims=shown_claims(study),
        comparisons=shown_comparisons(study),
        title=study.title,
        question=study.question,
        figures=study.figures,
        commands=[f"remote-mi study run {study.name}", f"remote-mi reproduce {study.name}"],
        failures=failures,
    )
    return list(dict.fromkeys(folders)), about


def _write(
    made: Report, path: Path, ending: str, written: dict[str, str], watch: Watch
) -> list[Path]:
    """Render the report and write it; returns the files written."""
    images: list[Path] = []
    try:
        if ending == "html":
            from remote_mi.report.document.html import html

            content = html(made, written)
        else:
            from remote_mi.report.document.markdown import markdown

            content = markdown(made, written, _image_writer(made, path, images, watch))
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {error.filename or path}: {error.strerror}") from None
    return [path, *images]


def _image_writer(made: Report, path: Path, images: list[Path], watch: Watch) -> Picture:
    """A function that draws a figure next to a Markdown report, and adds its path to `images`."""
    from remote_mi.report.document.markdown import pictures

    draw = pictures(path.with_name(f"{path.stem}_files"))
    total = len(made.across) + sum(len(section.shown) for section in made.sections)
    watch.stage("drawing figures")

    def draw_and_advance(section: Any, figure: Any) -> str:
        name = draw(section, figure)
        images.extend([path.parent / name] if name else [])
        watch.advance(figure.number, total, "figures")
        return name

    return draw_and_advance


def _say_next(made: Report, path: Path, written: dict[str, Any]) -> None:
    from remote_mi.report.document.author_text import PLACES

    for failure in made.failures:
        say(f"no result for {failure.name} ({failure.recipe}): {failure.reason}")
    missing = [name for name in PLACES if name not in written]
    if missing:
        say(
            f"\nleft for you to write: {' and '.join(missing)} (marked in the report; or --text FILE)"
        )
    say(f"next: open {path}")

"""`remote-mi study`: run grids of jobs described in a YAML file."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from remote_mi.backends.registry import parse_backend
from remote_mi.cli.numbers import WIDTH
from remote_mi.cli.output import print_json, say, shorten_path, stdout_console
from remote_mi.common.errors import BackendUnavailable, first_line
from remote_mi.common.paths import project_folder
from remote_mi.common.sizes import format_size
from remote_mi.common.text import counted, line
from remote_mi.common.valid_json import to_json
from remote_mi.store.run_folder import id8_from_name
from remote_mi.store.studies import PointRecord, StudyRecord, StudyRecords

#: More points than this are listed only with --all.
_MAX_ROWS = 60
#: Parts of a record that are shown with what they come to.
_FINDINGS = ("claims", "compare")


@click.group()
def study() -> None:
    """Run many jobs described in one file, resuming where an earlier run stopped.

    \b
    remote-mi study plan facts_small
    remote-mi study run facts_small
    """


@study.command("ls")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def list_studies(as_json: bool) -> None:
    """List the project's and the built-in studies, with their progress."""
    from remote_mi.jobs import studies

    project = project_folder()
    records = StudyRecords(project)
    started = {name: records.read(name).counts() for name in records.names()}
    paths = studies.available(project)
    if as_json:
        print_json(
            {
                "studies": [
                    {"name": name, "path": str(path), "points": started.get(name)}
                    for name, path in paths.items()
                ]
            }
        )
        return
    width = max((len(name) for name in paths), default=1)
    for name, path in paths.items():
        counts = started.get(name)
        state = _format_counts(counts) if counts else "not started"
        print(f"{line(name):{width}}  {state}  {line(str(path))}")
    say("\nnext: remote-mi study plan NAME")


@study.command("plan")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("--all", "everything", is_flag=True, help="List every point, however many.")
def plan_command(name: str, as_json: bool, everything: bool) -> None:
    """Show what a study would run, where, and what exists already.

    Nothing is run.
    """
    plan, _ = _read_plan(name)
    if as_json:
        print_json(
            {
                "study": plan.study.name,
                "counts": dict(plan.counts()),
                "points": [
                    {
                        **asdict(p.record),
                        "where": p.where and p.where.to_json(),
                        "cached": p.cached,
                        "problem": p.problem,
                    }
                    for p in plan.points
                ],
            }
        )
        return
    _print_plan(plan, everything)
    say(f"\nnothing was run; next: remote-mi study run {name}")


@study.command("run")
@click.argument("name")
@click.option(
    "--max-remote",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Largest number of jobs on servers at a time.",
)
@click.option("-y", "--yes", is_flag=True, help="Fetch models of any size without asking.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Print the ids of the runs only.")
@click.option(
    "--progress", type=click.Choice(["json"]), help="Report progress on stderr as lines of JSON."
)
def run_command(
    name: str, max_remote: int | None, yes: bool, as_json: bool, quiet: bool, progress: str | None
) -> int:
    """Run the points of a study that have no result yet.

    NAME is a study's name or file. After an interruption, the same command resumes. The exit code
    is 1 if a point failed.
    """
    from remote_mi.backends.settings import load
    from remote_mi.cli.overviews import open_overview
    from remote_mi.jobs.studies.run import run_study

    plan, text = _read_plan(name)
    project = project_folder()
    if not quiet and not as_json:
        _print_plan(plan, everything=False)
    if plan.download and not _confirm_download(plan.download, yes):
        raise BackendUnavailable(
            f"the study needs models that are not on this machine, {format_size(plan.download)} "
            "in all",
            "--yes fetches them",
        )
    max_jobs = max_remote or load(project).studies.max_remote
    with open_overview(quiet, progress) as overview:
        record = run_study(plan, project, overview, max_jobs, text)
    if as_json:
        print_json(_record_to_json(record))
    elif quiet:
        for point in record.points:
            if point.run:
                print(point.run)
    else:
        _print_outcome(record)
    return 1 if record.counts()["failed"] else 0


@study.command("show")
@click.argument("name")
@click.option("--figures", is_flag=True, help="Show the chosen figures of every run.")
@click.option("--all", "everything", is_flag=True, help="List every point, however many.")
@click.option("--width", type=WIDTH, metavar="N", help="Columns of the output.")
@click.option(
    "--check-claims", is_flag=True, help="Exit with code 7 if a claim of the study fails."
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def show_command(
    *,
    name: str,
    figures: bool,
    everything: bool,
    width: int | None,
    check_claims: bool,
    as_json: bool,
) -> None:
    """Show a study: its claims, comparisons, progress, and the figures of its runs."""
    from remote_mi.cli import study_findings

    project = project_folder()
    record = StudyRecords(project).read(Path(name).stem)
    if as_json:
        print_json(_record_to_json(record))
    else:
        _show(record, figures, everything, width)
        study_findings.say_if_changed(record, project)
    if check_claims:
        study_findings.check_claims(record)


@study.command("export")
@click.argument("name")
@click.argument("what")
@click.option(
    *("-o", "--output"),
    required=True,
    metavar="FILE",
    help="File to write; its extension sets the format.",
)
def export_command(name: str, what: str, output: str) -> None:
    """Save a study's claims or a comparison to a file, for a paper.

    WHAT is "claims", or the title or number of a comparison; tables are .csv, .json or .tex, and
    figures .svg, .pdf or .png. An existing file is overwritten.

    \b
    remote-mi study export facts_small claims -o claims.tex
    remote-mi study export facts_small 1 -o layers.pdf
    """
    from remote_mi.cli.study_findings import export_finding

    export_finding(StudyRecords(project_folder()).read(Path(name).stem), what, Path(output))
    print(output)


def _show(record: StudyRecord, figures: bool, everything: bool, width: int | None) -> None:
    from remote_mi.cli.study_findings import print_findings

    console = stdout_console(width)
    console.print(Text(line(record.title), style="bold"))
    if record.question:
        console.print(Text(line(record.question)))
    print_findings(record, console)
    if record.claims or record.compare:
        console.print(Rule(Text("points"), align="left", characters="─"))
    console.print(_build_points_table(record.points, everything))
    if figures:
        _print_figures(record, width)
    say(f"\n{_format_counts(record.counts())}")
    say(f"next: remote-mi study run {record.name}   runs what is left")


@study.command("schema")
def schema_command() -> None:
    """Print the JSON schema of study files, for editors."""

    from remote_mi.jobs.studies import schema

    print(to_json(schema(), indent=1))


def _read_plan(name: str) -> Any:
    """The plan of a study, and the content of its file."""
    from remote_mi.jobs import studies
    from remote_mi.jobs.studies.plan import plan_study

    project = project_folder()
    path = studies.find(name, project)
    return plan_study(studies.read(path, project), project), path.read_bytes()


def _print_plan(plan: Any, everything: bool) -> None:
    from remote_mi.jobs.studies.plan import state_of

    console = stdout_console()
    console.print(Text(f"{line(plan.study.title)}: {len(plan.points)} points", style="bold"))
    reasons: dict[str, tuple[int, int, str]] = {}
    for point in plan.points:
        state = state_of(point)
        count, traffic, why = reasons.get(state, (0, 0, ""))
        if not why and point.where is not None:
            why = point.where.reason
        if not why and point.problem:
            why = first_line(RuntimeError(point.problem))
        need = point.where.need if point.where and state == point.where.chosen.backend else None
        if need is not None and parse_backend(state)[0].is_server:
            traffic += need.bytes_up + (need.bytes_down or 0)
        reasons[state] = (count + 1, traffic, why)
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False, pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, max_width=24)
    table.add_column(overflow="fold")
    texts = {"there": "done already; nothing to do", "cached": "taken from the cache"}
    for state, (count, traffic, why) in reasons.items():
        size = f"; about {format_size(traffic)} in all" if traffic else ""
        table.add_row(str(count), Text(state), Text(line(texts.get(state, why) + size)))
    console.print(table)
    for claim in plan.study.claims:
        points = counted(len(claim.points), "point")
        console.print(Text(f"claim {claim.id}, of {points}: {line(claim.says)}"), overflow="fold")
    if len(plan.points) <= _MAX_ROWS or everything:
        console.print(_build_points_table([p.record for p in plan.points], True))


def _build_points_table(points: list[PointRecord], everything: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for column in ("", "recipe", "prompts", "parameters", "model", "run"):
        table.add_column(column, overflow="fold", no_wrap=column == "run")
    listed = points if everything or len(points) <= _MAX_ROWS else points[:_MAX_ROWS]
    for point in listed:
        sign = {"done": "✓", "failed": "✗", "submitted": "…"}.get(point.state, "·")
        given = ", ".join(f"{k}={v}" for k, v in point.parameters.items())
        prompts = point.prompts + (f" seed {point.seed}" if point.seed is not None else "")
        run = id8_from_name(point.run or "")
        table.add_row(
            *(Text(line(cell)) for cell in (sign, point.recipe, prompts, given, point.model, run))
        )
        if point.error:
            table.add_row("", Text(line(first_line(RuntimeError(point.error))), style="red"))
    if len(listed) < len(points):
        table.add_row("", f"… and {len(points) - len(listed)} more (--all)")
    return table


def _print_figures(record: StudyRecord, width: int | None) -> None:
    from remote_mi.report.terminal import show
    from remote_mi.store.runs import Runs

    runs, console = Runs(record.path.parent.parent), stdout_console(width)
    for point in record.points:
        if point.run is None:
            continue
        result = runs.read(point.run)
        console.print()
        chosen: list[str | None] = list(record.figures.get(point.recipe, []))
        for only in chosen or [None]:
            show(result, console, only)


def _print_outcome(record: StudyRecord) -> None:
    from remote_mi.cli.study_findings import print_findings

    stdout_console().print(_build_points_table(record.points, everything=False))
    for point in record.points:
        if point.error:
            say(f"failed: {point.recipe} on {point.prompts}: {point.error}")
    print_findings(replace(record, compare=[]), stdout_console())
    say(f"\n{_format_counts(record.counts())}; saved in {shorten_path(record.path)}")
    say(f"next: remote-mi study show {record.name} --figures")
    if record.counts()["failed"]:
        say(f"      remote-mi study run {record.name}   retries what failed")


def _format_counts(counts: dict[str, int]) -> str:
    labels = {"done": "done", "failed": "failed", "submitted": "on a server", "waiting": "to do"}
    return ", ".join(f"{counts[state]} {text}" for state, text in labels.items() if counts[state])


def _record_to_json(record: StudyRecord) -> dict[str, Any]:
    from remote_mi.cli.study_findings import findings_to_json

    told = {name: value for name, value in asdict(record).items() if name not in _FINDINGS}
    return {**told, "path": str(record.path), "counts": record.counts(), **findings_to_json(record)}


def _confirm_download(size: int, yes: bool) -> bool:
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return yes
    return click.confirm(f"fetch models of {format_size(size)}?", default=False, err=True)

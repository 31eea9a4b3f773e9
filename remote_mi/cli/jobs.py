"""`remote-mi jobs`: manage jobs on servers, from any terminal and at any time."""

from __future__ import annotations

import time
from typing import Any

import click

from remote_mi.backends.ledger import Entry, Ledger
from remote_mi.backends.registry import error_of
from remote_mi.cli.numbers import SECONDS, WIDTH
from remote_mi.cli.output import print_json, say, show_progress
from remote_mi.common.errors import RemoteMIError, check_exact, sanitize
from remote_mi.common.paths import project_folder
from remote_mi.common.text import ago, line


@click.group()
def jobs() -> None:
    """List, wait for, fetch or forget jobs on servers.

    A server cannot be told to stop a job; `forget` gives up its result.
    """


@jobs.command("ls")
@click.option("--all", "with_all", is_flag=True, help="Include finished and forgotten jobs.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
def list_jobs(with_all: bool, as_json: bool, quiet: bool) -> None:
    """List jobs that are running or need attention, newest last."""
    entries = [
        e
        for e in Ledger(project_folder()).all()
        if with_all or e.state not in ("done", "forgotten")
    ]
    if as_json:
        print_json({"jobs": [entry_to_json(e) for e in entries]})
        return
    for entry in entries:
        if quiet:
            print(entry.id)
            continue
        state = entry.state if entry.state != "submitted" else entry.status.lower() or "submitted"
        print(
            f"{entry.id[:8]}  {ago(entry.created):>8}  {line(state):10}  {line(entry.recipe)}  "
            f"{line(entry.model)}  {line(entry.url)}{_format_deadline(entry)}"
        )
    if not quiet:
        say(
            "\nnext: remote-mi jobs wait ID"
            if any(e.is_open for e in entries)
            else "no jobs are running; `remote-mi jobs ls --all` lists past ones"
        )


@jobs.command()
@click.argument("job", required=False)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def show(job: str | None, as_json: bool) -> None:
    """Show everything known about a job, by default the newest."""
    ledger = Ledger(project_folder())
    entry = ledger.find(job)
    if as_json:
        print_json({**entry_to_json(entry), "timeline": ledger.timeline(entry.id)})
        return
    rows = [
        ("job", entry.id),
        ("state", entry.state),
        ("server", f"{entry.url} ({entry.host})"),
        ("recipe", f"{entry.recipe}, {entry.calls} calls"),
        ("model", entry.model),
        ("submitted", _format_time(entry.created)),
        ("sent", f"{entry.bytes_up:,} bytes"),
        (
            "received",
            f"{entry.bytes_down:,} bytes" if entry.bytes_down is not None else "nothing yet",
        ),
        ("result until", _format_time(entry.deadline) if entry.deadline else "not known yet"),
        ("run", entry.run or "none yet"),
        ("repeats", entry.replaces),
        ("command", entry.command),
        ("cost there", entry.meta),
    ]
    for name, value in rows:
        if value is not None:
            shown = sanitize(str(value)) if name == "command" else line(str(value), 20_000)
            print(f"{name:>12}  {shown}")
    for event in ledger.timeline(entry.id):
        description = line(event["description"].splitlines()[0]) if event["description"] else ""
        status = line(event["status"])
        print(f"{_format_time(event['time']):>12}  {status}  {description}".rstrip())
    if entry.error:
        print(f"\nerror: {line(str(entry.error.get('message')))}")
        if entry.error.get("said"):
            print("\nthe server's message:")
            for text in str(entry.error["said"]).splitlines():
                print(f"  {line(text)}")
    advice = _advice(entry)
    if advice:
        say(f"\n{advice}" + (f":\n  {entry.command}" if entry.command else ""))


def _waiting_options(command: Any) -> Any:
    for option in (
        click.option("--only", metavar="FIGURE", help="Show one figure."),
        click.option("--width", type=WIDTH, metavar="N", help="Columns of the output."),
        click.option("--json", "as_json", is_flag=True, help="The result as one JSON document."),
        click.option("-q", "--quiet", is_flag=True, help="Print the run id only."),
    ):
        command = option(command)
    return command


@jobs.command()
@click.argument("job", required=False)
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Longest wait.")
@_waiting_options
def wait(job: str | None, timeout: float | None, **options: Any) -> None:
    """Wait for a job, by default the newest, and show its result."""
    _collect(job, timeout, options)


@jobs.command()
@click.argument("job", required=False)
@_waiting_options
def fetch(job: str | None, **options: Any) -> None:
    """Show the result of a finished job, by default the newest.

    The exit code is 6 if the job is not finished yet.
    """
    _collect(job, 0.5, options)


def _collect(job: str | None, timeout: float | None, options: dict[str, Any]) -> None:
    from remote_mi.cli.run import show_result
    from remote_mi.jobs.remote import collect

    project = project_folder()
    entry = Ledger(project).find(job)
    with show_progress(options["quiet"]) as watch:
        result = collect(entry, project, timeout, watch)
    show_result(result, options)


@jobs.command()
@click.argument("job", required=False)
def logs(job: str | None) -> None:
    """Show what the server reported about a job, and what the collector did.

    A server forwards what a recipe prints only to jobs that hold a connection open; these do not.
    """
    ledger = Ledger(project_folder())
    entry = ledger.find(job)
    for event in ledger.timeline(entry.id):
        for index, text in enumerate(event["description"].splitlines() or [""]):
            head = (
                f"{_format_time(event['time'])}  {line(event['status']):12}" if index == 0 else ""
            )
            print(f"{head:33}  {line(text)}".rstrip())
    try:
        collector_log = (ledger.folder / "collector.log").read_text(errors="replace").splitlines()
        for text in collector_log:
            if entry.id[:8] in text:
                print(f"collector: {line(text)}")
    except OSError:
        pass


@jobs.command()
@click.argument("jobs", nargs=-1, required=True)
def forget(jobs: tuple[str, ...]) -> None:
    """Give up the results of jobs.

    The server keeps running them: it cannot be told to stop.
    """
    from remote_mi.jobs.remote import forget as forget_job

    project = project_folder()
    failed: RemoteMIError | None = None
    for wanted in jobs:
        try:
            check_exact("job", wanted)
            entry = Ledger(project).find(wanted)
        except RemoteMIError as error:
            failed = error
            say(f"error: {error}")
            continue
        was_open = entry.is_open
        forget_job(entry, project)
        say(
            f"job {entry.id[:8]} is forgotten"
            + (
                "; the server may still finish it, but its result is not fetched"
                if was_open
                else ""
            )
        )
    if failed is not None:
        raise click.exceptions.Exit(failed.exit_code)


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """A ledger entry as JSON, without its draft."""
    return {
        "id": entry.id,
        "server_id": entry.server_id,
        "state": entry.state,
        "status": entry.status,
        "host": entry.host,
        "url": entry.url,
        "recipe": entry.recipe,
        "model": entry.model,
        "calls": entry.calls,
        "key": entry.key,
        "created": entry.created,
        "deadline": entry.deadline,
        "replaces": entry.replaces,
        "command": entry.command,
        "bytes_up": entry.bytes_up,
        "bytes_down": entry.bytes_down,
        "meta": entry.meta,
        "expected": entry.expected,
        "run": entry.run,
        "error": entry.error,
    }


def _advice(entry: Entry) -> str:
    if entry.is_open:
        return ""
    if entry.state == "expired":
        return (
            "the server keeps a result for an hour, and it was not fetched in time; the same "
            "command submits the job again"
        )
    error = error_of(entry)
    if entry.state == "failed" and error is not None and error.retryable:
        return "the same command submits it again"
    return "its result was given up" if entry.state == "forgotten" else ""


def _format_time(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _format_deadline(entry: Entry) -> str:
    if not entry.is_open or entry.deadline is None:
        return ""
    left = entry.deadline - time.time()
    return f"  result kept for {left / 60:.0f} min" if left > 0 else "  result expired"

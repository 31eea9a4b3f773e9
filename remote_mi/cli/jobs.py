"""`remote-mi jobs`: jobs on servers, from any terminal and at any time."""

from __future__ import annotations

import time
from typing import Any

import click

from remote_mi.backends.ledger import Entry, Ledger
from remote_mi.backends.registry import error_of
from remote_mi.cli.output import print_json, say, watching
from remote_mi.common.errors import RemoteMIError
from remote_mi.common.paths import project_folder
from remote_mi.common.text import ago
from remote_mi.common.text import line as shown


@click.group()
def jobs() -> None:
    """Jobs on servers: what is under way, waiting for it, giving it up.

    A server cannot be told to stop a job; `forget` gives up its result.
    """


@jobs.command("ls")
@click.option("--all", "with_all", is_flag=True, help="Finished and forgotten ones, too.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
def list_jobs(with_all: bool, as_json: bool, quiet: bool) -> None:
    """Jobs that are under way or need attention, newest last."""
    entries = [
        e
        for e in Ledger(project_folder()).all()
        if with_all or e.state not in ("done", "forgotten")
    ]
    if as_json:
        print_json({"jobs": [described(e) for e in entries]})
        return
    for entry in entries:
        if quiet:
            print(entry.id)
            continue
        state = entry.state if entry.state != "submitted" else entry.status.lower() or "submitted"
        print(
            f"{entry.id[:8]}  {ago(entry.created):>8}  {state:10}  {entry.recipe}  "
            f"{shown(entry.model)}  {entry.url}{_deadline(entry)}"
        )
    if not quiet:
        say(
            "\nnext: remote-mi jobs wait ID"
            if any(e.is_open for e in entries)
            else "nothing is under way; `remote-mi jobs ls --all` lists what was"
        )


@jobs.command()
@click.argument("job", required=False)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def show(job: str | None, as_json: bool) -> None:
    """Everything known of a job: statuses, sizes, the server's words. The newest by default."""
    ledger = Ledger(project_folder())
    entry = ledger.find(job)
    if as_json:
        print_json({**described(entry), "timeline": ledger.timeline(entry.id)})
        return
    rows = [
        ("job", entry.id),
        ("state", entry.state),
        ("server", f"{entry.url} ({entry.host})"),
        ("recipe", f"{entry.recipe}, {entry.calls} calls"),
        ("model", shown(entry.model)),
        ("submitted", _clock(entry.created)),
        ("sent", f"{entry.bytes_up:,} bytes"),
        (
            "received",
            f"{entry.bytes_down:,} bytes" if entry.bytes_down is not None else "nothing yet",
        ),
        ("result until", _clock(entry.deadline) if entry.deadline else "not known yet"),
        ("run", entry.run or "none yet"),
        ("repeats", entry.replaces),
        ("command", entry.command),
        ("cost there", entry.meta),
    ]
    for name, value in rows:
        if value is not None:
            print(f"{name:>12}  {value}")
    for seen in ledger.timeline(entry.id):
        said = shown(seen["description"].splitlines()[0]) if seen["description"] else ""
        print(f"{_clock(seen['time']):>12}  {seen['status']}  {said}".rstrip())
    if entry.error:
        print(f"\nerror: {shown(entry.error['message'])}")
        if entry.error.get("said"):
            print("\nthe server's words:")
            for said in entry.error["said"].splitlines():
                print(f"  {shown(said)}")
    advice = _advice(entry)
    if advice:
        say(f"\n{advice}" + (f":\n  {entry.command}" if entry.command else ""))


def _waiting_options(command: Any) -> Any:
    for option in (
        click.option("--only", metavar="FIGURE", help="Show one figure."),
        click.option("--width", type=click.IntRange(40), metavar="N", help="Columns."),
        click.option("--json", "as_json", is_flag=True, help="The result as one JSON document."),
        click.option("-q", "--quiet", is_flag=True, help="Print the run's id only."),
    ):
        command = option(command)
    return command


@jobs.command()
@click.argument("job", required=False)
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Longest wait."
)
@_waiting_options
def wait(job: str | None, timeout: float | None, **options: Any) -> None:
    """Wait for a job and show its result. The newest by default."""
    _collect(job, timeout, options)


@jobs.command()
@click.argument("job", required=False)
@_waiting_options
def fetch(job: str | None, **options: Any) -> None:
    """Show the result of a job that is done; exit code 6 if it is not yet."""
    _collect(job, 0.5, options)


def _collect(job: str | None, timeout: float | None, options: dict[str, Any]) -> None:
    from remote_mi.cli.run import present
    from remote_mi.jobs.remote import collect

    project = project_folder()
    entry = Ledger(project).find(job)
    with watching(options["quiet"]) as watch:
        result = collect(entry, project, timeout, watch)
    present(result, options)


@jobs.command()
@click.argument("job", required=False)
def logs(job: str | None) -> None:
    """What the server said of a job, line by line, and what the collector did.

    A server passes on what a recipe prints only to jobs that hold a connection open; these do not.
    """
    ledger = Ledger(project_folder())
    entry = ledger.find(job)
    for seen in ledger.timeline(entry.id):
        for index, said in enumerate(seen["description"].splitlines() or [""]):
            head = f"{_clock(seen['time'])}  {seen['status']:12}" if index == 0 else ""
            print(f"{head:33}  {shown(said)}".rstrip())
    try:
        noted = (ledger.folder / "collector.log").read_text(errors="replace").splitlines()
        for said in noted:
            if entry.id[:8] in said:
                print(f"collector: {shown(said)}")
    except OSError:
        pass


@jobs.command()
@click.argument("jobs", nargs=-1, required=True)
def forget(jobs: tuple[str, ...]) -> None:
    """Give up the results of jobs. The server goes on with them: it has no way to be stopped."""
    from remote_mi.jobs.remote import forget as give_up

    project = project_folder()
    failed: RemoteMIError | None = None
    for wanted in jobs:
        try:
            entry = Ledger(project).find(wanted)
        except RemoteMIError as error:
            failed = error
            say(f"error: {error}")
            continue
        was_open = entry.is_open
        give_up(entry, project)
        say(
            f"job {entry.id[:8]} is forgotten"
            + ("; the server may still finish it, and nobody will fetch it" if was_open else "")
        )
    if failed is not None:
        raise click.exceptions.Exit(failed.exit_code)


def described(entry: Entry) -> dict[str, Any]:
    """An entry as JSON, without its draft."""
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
            "the server keeps a result for an hour, and nobody fetched it; the same command "
            "submits the job again"
        )
    error = error_of(entry)
    if entry.state == "failed" and error is not None and error.retryable:
        return "the same command submits it again"
    return "its result was given up" if entry.state == "forgotten" else ""


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _deadline(entry: Entry) -> str:
    if not entry.is_open or entry.deadline is None:
        return ""
    left = entry.deadline - time.time()
    return f"  result kept for {left / 60:.0f} min" if left > 0 else "  result expired"

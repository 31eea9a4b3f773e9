"""`remote-mi ndif`: a personal NDIF server on this machine."""

from __future__ import annotations

import os
import shlex
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from remote_mi.cli.numbers import COUNT, SECONDS
from remote_mi.cli.output import print_json, say, show_progress
from remote_mi.common.errors import BackendUnavailable, NotFound, not_found
from remote_mi.models.embedded import EMBEDDED

_STOP_COMMAND = "remote-mi ndif down"
_MOST_THREADS = 8


@click.group()
def ndif() -> None:
    """Run a personal, genuine NDIF server: a preview on this machine's CPU, for one user.

    \b
    remote-mi ndif up
    remote-mi run activation_patching --phenomenon ioi --backend ndif:here
    remote-mi ndif down
    """


@ndif.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="ID|FOLDER",
    help=f"Model to serve; may be repeated.  [default: {EMBEDDED}]",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Threads per model.  [default: one per CPU, at most 8]",
)
@click.option(
    "--auth", is_flag=True, help="Check API keys and sandbox jobs, as the public service does."
)
@click.option(
    "--execution-timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="Longest time a job may run.  [default: no limit]",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def up(
    models: tuple[str, ...],
    threads: int | None,
    auth: bool,
    execution_timeout: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Start the server; it runs until it is stopped.

    It keeps running when this terminal is closed; `remote-mi ndif down` stops it. The first start
    builds a separate environment for it: two minutes and 1.7 GB. A server of which a service died
    is started anew, with the models it served.
    """
    from remote_mi.backends.ndif_server.personal import bring_up, model_option, require_running

    _interrupt_on_signals()
    with show_progress(quiet) as watch:
        server = bring_up(
            models,
            watch,
            threads=threads or default_threads(),
            auth=auth,
            execution_timeout=execution_timeout,
        )
    _print_status(server.status(), as_json)
    served = require_running()
    first = model_option(next(iter(served.models)), served)
    model = f"--model {shlex.quote(models[0] if models else first)} "
    model = "" if first == EMBEDDED else model
    say(
        f"\nnext: remote-mi run activation_patching --phenomenon ioi {model}--backend ndif:here"
        f"\n      {_STOP_COMMAND}"
    )


@ndif.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def status(as_json: bool) -> None:
    """Show whether the server is running, where, and what it serves.

    The exit code is 0 if it takes jobs and 5 if it does not: if it is stopped, still starting, not
    answering, or if one of its services died.
    """
    from remote_mi.backends.ndif_server.personal import personal_server

    found = personal_server().status()
    _print_status(found, as_json)
    if _dead_services(found):
        say("\nnext: remote-mi ndif up")
    elif found["running"] and not found["healthy"]:
        say(f"\nnext: remote-mi ndif logs\n      {_STOP_COMMAND}")
    elif not found["running"] and not _is_starting(found):
        say(f"\nnext: {_STOP_COMMAND}" if found["processes"] else "\nnext: remote-mi ndif up")
    if not found["healthy"]:
        raise click.exceptions.Exit(BackendUnavailable.exit_code)


@ndif.command()
def down() -> None:
    """Stop the server; its logs are kept."""
    from remote_mi.backends.ndif_server.personal import personal_server

    server = personal_server()
    print("stopped" if server.stop() else "nothing to stop")


@ndif.command()
@click.argument("service", default="api")
@click.option(
    "-n",
    "lines",
    type=COUNT,
    default=40,
    show_default=True,
    metavar="LINES",
    help="Number of lines.",
)
def logs(service: str, lines: int) -> None:
    """Show the end of a service's log.

    SERVICE is api (the default), hub, ray, redis, store or postgres.
    """
    from remote_mi.backends.ndif_server.personal import personal_server

    folder = personal_server().log_dir
    files = {path.stem: path for path in sorted(folder.glob("*.log"))}
    if not files:
        raise NotFound("there are no logs", "`remote-mi ndif up` starts a server")
    if service not in files:
        raise not_found("log", service, files, f"ls {folder}")
    for line in _tail(files[service], lines):
        print(line)
    others = ", ".join(name for name in files if name != service)
    say(f"\n{files[service]}; there are also: {others}")


def default_threads() -> int:
    """One thread per CPU this process may use; more than a few do not speed up a small model."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(_MOST_THREADS, usable)


def _interrupt_on_signals() -> None:
    """Make a closed terminal or a `kill` interrupt the start, which then stops everything again."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def _print_status(found: dict[str, Any], as_json: bool) -> None:
    """Print what is known about the server, as JSON or as lines."""
    if as_json:
        print_json(found)
    elif not found["running"]:
        print(_describe_stopped(found))
    else:
        dead = _dead_services(found)
        problem = f"{', '.join(dead)} died" if dead else "not answering"
        state = "running" if found["healthy"] else f"running, but {problem}"
        since = datetime.fromtimestamp(found["since"]).strftime("%Y-%m-%d %H:%M")
        print(f"{state}  {found['url']}  since {since}")
        for repo_id, folder in found["models"].items():
            print(f"model    {repo_id}  {folder}")
        print(
            f"uses     {found['memory_mb']} MB in {found['processes']} processes, "
            f"{found['threads']} threads per model"
        )
        pids = ", ".join(f"{name} {entry['pid']}" for name, entry in found["services"].items())
        print(f"pids     {pids}")
        for name, key in found["keys"].items():
            print(f"key      {key}  ({name})")
        print(f"logs     {found['log_dir']}")


def _describe_stopped(found: dict[str, Any]) -> str:
    if _is_starting(found):
        return "starting"
    dead = _dead_services(found)
    if dead:
        return f"not running: {', '.join(dead)} died"
    left = (
        f"; {found['processes']} processes of an earlier one are left" if found["processes"] else ""
    )
    return f"not running{left}"


def _dead_services(found: dict[str, Any]) -> list[str]:
    services = found.get("services", {}) if found.get("phase") == "running" else {}
    dead = [name for name, entry in services.items() if not entry["alive"]]
    return dead if len(dead) < len(services) else []  # all of them: after a reboot


def _is_starting(found: dict[str, Any]) -> bool:
    return found.get("phase") == "starting" and found["owner_alive"]


def _tail(path: Path, lines: int) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]

"""`remote-mi run RECIPE`: run a recipe on a model and prompts, or show what is already there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from remote_mi.cli.output import print_json, say, stdout_console, watching
from remote_mi.cli.plan import ask_for_download
from remote_mi.cli.recipe_group import Options, RecipeGroup
from remote_mi.common.errors import StoreError
from remote_mi.jobs.job import Job
from remote_mi.jobs.runner import execute, look_up_anywhere, survey
from remote_mi.store.result import Result


def run_options() -> list[click.Option]:
    """The options of `run` itself."""
    option = click.Option
    return [
        option(
            ["--timeout"],
            type=click.FloatRange(0, min_open=True),
            metavar="SECONDS",
            help="Longest wait for a remote job; it goes on without you.",
        ),
        option(
            ["--detach"],
            is_flag=True,
            help="Submit to a server, print the job's id and do not wait.",
        ),
        option(["-y", "--yes"], is_flag=True, help="Fetch a model of any size without asking."),
        option(["--dry-run"], is_flag=True, help="Say what would run, and run nothing."),
        option(
            ["--reuse-any"],
            is_flag=True,
            help="Take a result that was computed in another environment, if there is one.",
        ),
        option(["--json", "as_json"], is_flag=True, help="The result as one JSON document."),
        option(["-q", "--quiet"], is_flag=True, help="Print the run's id only."),
        option(["--only"], metavar="FIGURE", help="Show one figure."),
        option(["--width"], type=click.IntRange(40), metavar="N", help="Columns of the output."),
    ]


def run_job(job: Job, options: Options) -> None:
    """What `run` does with the job that its words describe."""
    if options["dry_run"]:
        dry_run(job, options["backend"], options["as_json"])
        return
    if options["reuse_any"]:
        found = look_up_anywhere(job, options["backend"])
        if found is not None:
            if found.made.reused:
                say(f"note: {found.made.reused}")
            present(found, options)
            return
    if options["detach"]:
        detach(job, options)
        return
    with watching(options["quiet"]) as watch:
        permit = ask_for_download(options["yes"], watch)
        result = execute(job, options["backend"], options["timeout"], watch, permit)
    present(result, options)


@click.group(cls=RecipeGroup, act=run_job, options=run_options)
def run() -> None:
    """Run a recipe on a model and prompts, or show the result that is already there.

    RECIPE is a name or a file: my.py, my.py:name.

    \b
    remote-mi run logit_lens -p prompt="The Eiffel Tower is in the city of"
    remote-mi run activation_patching --phenomenon ioi --site attn_out
    """


def detach(job: Job, options: dict[str, Any]) -> None:
    """Submit and print the job's id, or show the result that is already there."""
    from remote_mi.jobs.remote import submit_job

    with watching(options["quiet"]) as watch:
        handed = submit_job(job, options["backend"], watch)
    if handed.id is None:
        say("the result was there already")
        present(handed.wait(), options)
        return
    if options["as_json"]:
        print_json({"job": handed.id, "state": handed.state, "project": str(job.project)})
    else:
        print(handed.id)
    if not options["quiet"]:
        say(f"its result will be fetched; next: remote-mi jobs wait {handed.id[:8]}")


def present(result: Result, options: dict[str, Any]) -> None:
    """Show a result as asked: figures, JSON, or only the run's id."""
    if options["as_json"]:
        print_json(as_json(result))
    elif options["quiet"]:
        print(result.run_id, end="\n" if result.run_id else "")
    else:
        _show(result, options)
    if result.path is None:
        raise StoreError("the result is not kept", "make room and run the same command again")


def _show(result: Result, options: dict[str, Any]) -> None:
    from remote_mi.report.terminal import show

    show(result, stdout_console(options["width"]), options["only"])
    if result.path is not None:
        id8 = result.id8
        say(f"\nkept in {_short(result.path)}")
        say(f"next: remote-mi view {id8}     remote-mi report {id8}")
        say(f"      or in Python: remote_mi.load_run({id8!r})")


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def as_json(result: Result) -> dict[str, Any]:
    """A result as JSON: every output over all prompts and, of several, of each by itself."""

    def plain(array: Any) -> Any:
        values = array.tolist()
        return _finite(values)

    outputs = {}
    for name in result.names():
        if name not in result.arrays:
            continue
        found = result[name]
        outputs[name] = {
            "dims": list(found.dims),
            "coords": dict(found.coords),
            "values": plain(found.values),
        }
        if found.low is not None and found.high is not None:
            outputs[name].update(low=plain(found.low), high=plain(found.high))
    return {
        "run": result.run_id or None,
        "path": str(result.path) if result.path else None,
        "recipe": result.name,
        "outputs": outputs,
        "each": {name: [plain(a.values) for a in result.each(name)] for name in result.outputs}
        if len(result.prompts) > 1
        else {},
        "vocabulary": result.vocabulary,
        "texts": result.texts,
        "prompts": list(result.prompts),
        "notes": result.notes,
        "provenance": result.provenance,
    }


def _finite(value: Any) -> Any:
    """Nested lists with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def dry_run(job: Job, backend: str, json_wanted: bool) -> None:
    """Say what a job is, where it would run and whether its result is already there."""
    plan, place = survey(job, backend, everything=False)
    hit = place and place.description
    state = f"already there: {hit}" if hit else "not computed yet"
    if json_wanted:
        print_json({"key": job.key, "hit": hit, "plan": plan.to_json(), "job": job.key_content})
        return
    shown = ", ".join(f"{k}={v}" for k, v in job.parameters.items()) or "none"
    examples = job.prompts.examples
    first = f", the first: {examples[0].clean!r}" if examples else ""
    rows = [
        ("recipe", f"{job.card.name} ({job.card.origin}, {job.card.path})"),
        ("parameters", shown),
        ("model", job.model.name),
        ("prompts", f"{len(examples)} from {job.prompts.origin}{first}"),
        ("backend", str(plan)),
        ("key", job.key),
        ("result", state),
    ]
    for name, text in rows:
        print(f"{name:>10}  {text}")
    sys.stdout.flush()
    say("\nnothing was run; leave out --dry-run to run it")

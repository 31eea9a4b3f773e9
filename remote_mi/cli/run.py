"""`remote-mi run RECIPE`: run a recipe on a model and prompts, or show an existing result."""

from __future__ import annotations

import sys
from typing import Any

import click

from remote_mi.cli.numbers import SECONDS, WIDTH
from remote_mi.cli.output import print_json, say, shorten_path, show_progress, stdout_console
from remote_mi.cli.plan import ask_for_download
from remote_mi.cli.recipe_group import Options, RecipeGroup
from remote_mi.common.errors import StoreError
from remote_mi.jobs.job import Job
from remote_mi.jobs.runner import execute, look_up_anywhere, survey
from remote_mi.store.result import Result


def run_options() -> list[click.Option]:
    """The options specific to `run`."""
    option = click.Option
    return [
        option(
            ["--timeout"],
            type=SECONDS,
            metavar="SECONDS",
            help="Longest wait for a remote job; the job continues after it.",
        ),
        option(
            ["--detach"],
            is_flag=True,
            help="Submit to a server, print the job id and do not wait.",
        ),
        option(["-y", "--yes"], is_flag=True, help="Fetch a model of any size without asking."),
        option(["--dry-run"], is_flag=True, help="Show what would run, and run nothing."),
        option(
            ["--reuse-any"],
            is_flag=True,
            help="Accept a result computed in another environment, if there is one.",
        ),
        option(["--json", "as_json"], is_flag=True, help="The result as one JSON document."),
        option(["-q", "--quiet"], is_flag=True, help="Print the run id only."),
        option(["--only"], metavar="FIGURE", help="Show one figure."),
        option(["--width"], type=WIDTH, metavar="N", help="Columns of the output."),
    ]


def run_job(job: Job, options: Options) -> None:
    """Run the job described on the command line, and show its result."""
    if options["dry_run"]:
        print_dry_run(job, options["backend"], options["as_json"])
        return
    if options["reuse_any"]:
        found = look_up_anywhere(job, options["backend"])
        if found is not None:
            if found.made.reused:
                say(f"note: {found.made.reused}")
            show_result(found, options)
            return
    if options["detach"]:
        submit_detached(job, options)
        return
    with show_progress(options["quiet"], options["progress"]) as watch:
        permit = ask_for_download(options["yes"], watch)
        result = execute(job, options["backend"], options["timeout"], watch, permit)
    show_result(result, options)


@click.group(cls=RecipeGroup, act=run_job, options=run_options)
def run() -> None:
    """Run a recipe on a model and prompts, or show its result if that already exists.

    RECIPE is a name or a file: my.py, my.py:name.

    \b
    remote-mi run logit_lens -p prompt="The Eiffel Tower is in the city of"
    remote-mi run activation_patching --phenomenon ioi --site attn_out
    """


def submit_detached(job: Job, options: dict[str, Any]) -> None:
    """Submit a job and print its id, or show its result if that already exists."""
    from remote_mi.jobs.remote import submit_job

    with show_progress(options["quiet"], options["progress"]) as watch:
        submitted = submit_job(job, options["backend"], watch)
    if submitted.id is None:
        say("the result already exists")
        show_result(submitted.wait(), options)
        return
    if options["as_json"]:
        print_json({"job": submitted.id, "state": submitted.state, "project": str(job.project)})
    else:
        print(submitted.id)
    if not options["quiet"]:
        say(f"its result will be fetched; next: remote-mi jobs wait {submitted.id[:8]}")


def show_result(result: Result, options: dict[str, Any]) -> None:
    """Show a result in the form that the options ask for: figures, JSON, or the run id only."""
    if options["as_json"]:
        print_json(result_to_json(result))
    elif options["quiet"]:
        print(result.run_id, end="\n" if result.run_id else "")
    else:
        _show_figures(result, options)
    if result.path is None:
        raise result.unsaved or StoreError("the result was not saved", "run the command again")


def _show_figures(result: Result, options: dict[str, Any]) -> None:
    from remote_mi.report.terminal import show

    show(result, stdout_console(options["width"]), options["only"])
    if result.path is not None:
        id8 = result.id8
        say(f"\nsaved in {shorten_path(result.path)}")
        say(f"next: remote-mi view {id8}     remote-mi report {id8}")
        say(f"      or in Python: remote_mi.load_run({id8!r})")


def result_to_json(result: Result) -> dict[str, Any]:
    """A result as JSON: every output over all prompts and, if there are several, for each one."""
    from remote_mi.report.summary import all_readings

    outputs = {}
    for name in result.names():
        if name not in result.arrays:
            continue
        array = result[name]
        outputs[name] = {
            "dims": list(array.dims),
            "coords": dict(array.coords),
            "values": array.values.tolist(),
        }
        if array.low is not None and array.high is not None:
            outputs[name].update(low=array.low.tolist(), high=array.high.tolist())
    return {
        "run": result.run_id or None,
        "path": str(result.path) if result.path else None,
        "recipe": result.name,
        "outputs": outputs,
        "each": {name: [a.values.tolist() for a in result.each(name)] for name in result.outputs}
        if len(result.prompts) > 1
        else {},
        "vocabulary": result.vocabulary,
        "texts": result.texts,
        "prompts": list(result.prompts),
        "readings": all_readings(result),
        "verdict": result.verdict and result.verdict.to_json(),
        "notes": result.notes,
        "provenance": result.provenance,
    }


def shown_parameters(job: Job) -> dict[str, Any]:
    """A job's parameters, with artifacts as they were named."""
    return {**job.parameters, **{name: one.named for name, one in job.artifacts.items()}}


def print_dry_run(job: Job, backend: str, as_json: bool) -> None:
    """Print what a job is, where it would run, and whether its result already exists."""
    plan, place = survey(job, backend, everything=False)
    hit = place and place.description
    state = f"already exists: {hit}" if hit else "not computed yet"
    if as_json:
        print_json({"key": job.key, "hit": hit, "plan": plan.to_json(), "job": job.key_content})
        return
    parameters = ", ".join(f"{k}={v}" for k, v in shown_parameters(job).items()) or "none"
    examples = job.prompts.examples
    first = f", the first: {examples[0].clean!r}" if examples else ""
    rows = [
        ("recipe", f"{job.card.name} ({job.card.origin}, {job.card.path})"),
        ("parameters", parameters),
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

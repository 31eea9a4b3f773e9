"""`remote-mi plan RECIPE`: show where a job would run, why, and why not elsewhere."""

from __future__ import annotations

import sys

import click

from remote_mi.cli.output import print_json, say, stdout_console
from remote_mi.cli.recipe_group import Options, RecipeGroup
from remote_mi.common.progress import Watch
from remote_mi.common.sizes import format_size
from remote_mi.common.text import line
from remote_mi.jobs.dispatch.plan import Plan, download_question
from remote_mi.jobs.job import Job
from remote_mi.jobs.runner import Permit, survey


def plan_options() -> list[click.Option]:
    """The options specific to `plan`."""
    return [
        click.Option(["--json", "as_json"], is_flag=True, help="As one JSON document."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Print the backend name only."),
    ]


def plan_job(job: Job, options: Options) -> None:
    """Plan the job described on the command line, and print the plan."""
    found, place = survey(job, options["backend"])
    if options["as_json"]:
        hit, sent = place and place.description, job.artifact_sizes
        print_json({"key": job.key, "hit": hit, "artifacts": sent, **found.to_json()})
    elif options["quiet"]:
        print(found.chosen.backend)
    else:
        _print_plan(found)
        for name, size in job.artifact_sizes.items():
            artifact = f"{name}, {format_size(size)}, is sent along to a server"
            stdout_console().print(f"{'artifact':>10}  {artifact}", markup=False)
        say(f"\nnext: remote-mi run {job.card.name} … with the same arguments runs it there")


@click.group(cls=RecipeGroup, act=plan_job, options=plan_options)
def plan() -> None:
    """Show where a job would run and why, and why not elsewhere; nothing is run.

    Takes the same arguments as `remote-mi run`. Servers are asked what they have deployed.

    \b
    remote-mi plan activation_patching --phenomenon ioi
    remote-mi plan logit_lens -p prompt="Hello" --model meta-llama/Llama-3.1-70B
    """


def _print_plan(found: Plan) -> None:
    from rich.table import Table  # slow to import, and `remote-mi run` imports this file
    from rich.text import Text

    console = stdout_console()
    console.print(Text(f"{found.chosen.backend}: {line(found.reason)}", style="bold"))
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False, pad_edge=False)
    table.add_column(width=1)
    table.add_column(no_wrap=True, max_width=24)
    table.add_column(overflow="fold")
    for option in found.options:
        sign = "→" if option is found.chosen else "·" if option.can else "✗"
        reason = Text(line(option.why))
        if option.hint and not option.can:
            reason.append(f"\n{line(option.hint)}", style="dim")
        table.add_row(Text(sign), Text(line(option.backend)), reason)
    console.print(table)
    for name, text in _resource_rows(found):
        console.print(Text(f"{name:>10}  {line(text)}"))


def _resource_rows(found: Plan) -> list[tuple[str, str]]:
    """The sizes that the plan is based on, as rows of a name and a text."""
    rows = []
    weights, need = found.checkpoint, found.need
    if weights is not None:
        size = "size not known" if weights.weights is None else format_size(weights.weights)
        count = (
            "" if weights.parameters is None else f", {weights.parameters / 1e6:,.0f} M parameters"
        )
        where = "on this machine" if weights.present else "not on this machine"
        rows.append(("weights", f"{size} in {weights.dtype}{count}, {where}"))
    if need is not None:
        size = "not known" if need.activations is None else format_size(need.activations)
        how = "measured without weights" if need.measured else "by arithmetic"
        prompts = f"for prompts of at most about {need.tokens} tokens"
        rows.append(("memory", f"{size} besides the weights, {prompts}, {how}"))
    if found.smallest is not None:
        rows.append(("smallest", f"{found.smallest} would do"))
    if found.chosen.rows_bytes:
        rows.append(("sweep", f"rows are packed into {format_size(found.chosen.rows_bytes)}"))
    return rows


def ask_for_download(yes: bool, watch: Watch) -> Permit:
    """A function that permits a large download: yes with --yes, else asks on a terminal, else no."""

    def permit(found: Plan) -> bool:
        if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return yes
        watch.stage("waiting for an answer")
        return click.confirm(download_question(found), default=False, err=True)

    return permit

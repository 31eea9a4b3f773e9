"""`remote-mi recipes check RECIPE`: whether a recipe is a function of its inputs."""

from __future__ import annotations

import click
from click.core import ParameterSource

from remote_mi.cli.output import print_json, show_progress
from remote_mi.cli.recipe_group import Options, RecipeGroup, job_arguments
from remote_mi.common.errors import sanitize
from remote_mi.jobs.building import make_job
from remote_mi.jobs.job import Job
from remote_mi.jobs.recipe_check.check import run_checks
from remote_mi.jobs.recipe_check.examples import built_in_prompts
from remote_mi.recipes.card import Card


def check_options() -> list[click.Option]:
    """The options specific to `check`."""
    return [
        click.Option(["--json", "as_json"], is_flag=True, help="As one JSON document."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Print the failing properties only."),
    ]


def build_check(card: Card, options: Options) -> Job:
    """The job that a command line describes, with built-in prompts if it names none."""
    return make_job(card, *job_arguments(options), otherwise=built_in_prompts)


def check_job(job: Job, options: Options) -> None:
    """Check the recipe described on the command line, and print what was found."""
    context = click.get_current_context()
    own, server = (
        options[name] if context.get_parameter_source(name) is ParameterSource.COMMANDLINE else None
        for name in ("model", "backend")
    )
    with show_progress(options["quiet"], options["progress"]) as watch:
        found = run_checks(job, own is not None, server, watch)
    if options["as_json"]:
        print_json(found.to_json())
    elif options["quiet"]:
        print("\n".join(found.failed), end="\n" if found.failed else "")
    else:
        print(sanitize(repr(found)))
    if not found.passed:
        raise click.exceptions.Exit(1)


@click.group(cls=RecipeGroup, act=check_job, options=check_options, build=build_check)
def check() -> None:
    """Check that a recipe is a function of its inputs.

    It is run on tiny random models of several families, which are made on the fly: twice, with one
    prompt alone, with the prompts in another order, and with identical prompts in a pair. With
    --model also on that model, and with --backend also there.

    RECIPE is a name or a file: my.py, my.py:name. Prompts and parameters are given as for
    `remote-mi run`; without prompts, built-in ones are used. The exit code is 1 if a property
    fails.

    \b
    remote-mi recipes check my_recipe
    remote-mi recipes check my_recipe -p site=mlp_out --phenomenon ioi -n 3
    """

"""`remote-mi demo`: one typical job on the embedded model, end to end."""

from __future__ import annotations

import click

from remote_mi.cli.numbers import WIDTH
from remote_mi.cli.output import say, show_progress, stdout_console
from remote_mi.common.paths import project_folder
from remote_mi.jobs.building import make_job
from remote_mi.jobs.runner import execute
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.choice import PromptChoice

PAIRS = 8


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--width", type=WIDTH, metavar="N", help="Columns of the output.")
def demo(quiet: bool, width: int | None) -> None:
    """Fetch the embedded model, patch its activations on IOI, and show the heatmap.

    IOI is indirect object identification: "When Mary and John went to the store, John gave a
    drink to" is completed by " Mary". The heatmap shows which layers and positions carry what
    the model needs to know that.
    """
    choice = PromptChoice("ioi:store", size=PAIRS)
    job = make_job("activation_patching", ModelSpec(), choice, {}, project_folder())
    with show_progress(quiet) as watch:
        result = execute(job, "local", None, watch)
    from remote_mi.report.terminal import show

    show(result, stdout_console(width))
    say("""
Each cell puts one activation of the clean run into the corrupt run: 1 restores the answer.
The lines after → are computed from these cells, their controls and the spread over the pairs.

next: remote-mi run head_patching --phenomenon ioi:store -n 8     which heads move it
      remote-mi run logit_lens -p prompt="The Eiffel Tower is in the city of"
      remote-mi recipes ls""")

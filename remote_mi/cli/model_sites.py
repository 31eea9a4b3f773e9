"""`remote-mi models sites`: where in a model something can be read and changed."""

from __future__ import annotations

from pathlib import Path

import click

from remote_mi.cli.output import (
    check_folder_exists,
    print_json,
    say,
    shorten_path,
    show_progress,
    stdout_console,
)
from remote_mi.common.atomic_files import write_atomically
from remote_mi.common.errors import NotFound
from remote_mi.models import embedded
from remote_mi.models.spec import ModelSpec


@click.command()
@click.argument("model", default=embedded.EMBEDDED)
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub id.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the diagram as one HTML page.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def sites(
    model: str, revision: str | None, as_json: bool, html_file: Path | None, quiet: bool
) -> None:
    """Draw a block of MODEL with its sites, their shapes, and what it lacks and why.

    MODEL is a hub id, a folder, or the embedded model. Its weights are not needed: the structure is
    found from its configuration. Layers with other sites get a diagram of their own.
    """
    from remote_mi.models.load import UNSENT_ID, build_weightless
    from remote_mi.models.site_map import site_map

    if html_file is not None:
        check_folder_exists(html_file)
    if model == embedded.EMBEDDED and not embedded.is_ready():
        raise NotFound(f"{model} is not on this machine yet", "remote-mi models fetch")
    with show_progress(quiet) as watch:
        watch.stage(f"finding the sites of {model}")
        spec = ModelSpec(model, revision=revision, attention="eager")
        local = spec.folder is not None or model == embedded.EMBEDDED
        found = site_map(build_weightless(spec, watch, UNSENT_ID if local else None).lm)
    if html_file is not None:
        from remote_mi.report.site_diagram import page

        write_atomically(html_file, page(found, model).encode(), html_file.parent)
        say(f"wrote {shorten_path(html_file)}")
    if as_json:
        print_json({"model": model, **found})
    elif html_file is None:
        from remote_mi.report.site_diagram import terminal_lines

        console = stdout_console()
        for text in terminal_lines(found, model, console.width):
            console.print(text, soft_wrap=True)
        of_model = "" if model == embedded.EMBEDDED else f"--model {model} "
        say(f"\nnext: remote-mi run activation_patching {of_model}--phenomenon ioi -p site=mlp_out")

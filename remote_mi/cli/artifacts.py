"""`remote-mi artifacts`: list, show, import and export what one run makes and another takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from remote_mi.cli.numbers import COUNT
from remote_mi.cli.output import check_folder_exists, print_json, say
from remote_mi.common.errors import Mismatch, UsageError
from remote_mi.common.paths import project_folder
from remote_mi.common.sizes import format_size
from remote_mi.common.text import line
from remote_mi.models.embedded import EMBEDDED
from remote_mi.models.spec import ModelSpec
from remote_mi.store.artifacts import StoredArtifact, every_artifact, named_artifact
from remote_mi.store.runs import Runs
from remote_mi.store.tensor_files import SUFFIX, import_tensor, write_tensor


@click.group()
def artifacts() -> None:
    """What one run makes and another takes: directions, probes, tensors of files.

    \b
    remote-mi run linear_probe --pairs labelled.jsonl
    remote-mi artifacts ls
    remote-mi run steering --phenomenon ioi --direction a1b2c3d4:direction
    """


@artifacts.command("ls")
@click.option("-n", "--last", type=COUNT, metavar="N", help="Only those of the newest N runs.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Names only.")
def list_artifacts(last: int | None, as_json: bool, quiet: bool) -> None:
    """List the outputs of finished runs that another run can take, newest last."""
    project = project_folder()
    names = [row.name for row in Runs(project).rows() if row.status == "done"]
    found = every_artifact(project, names[-last:] if last else names)
    if as_json:
        print_json({"artifacts": [_to_json(one) for one in found]})
        return
    count = 0
    for one in found:
        count += 1
        model = line(str(one.model.get("name", "?")), 40)
        site = f" at {one.site}" if one.site else ""
        about = f"{one.origin.get('recipe', '?')} on {model}{site}"
        print(one.named if quiet else f"{one.named:32}  {one.described_dims():40}  {about}")
    if not quiet:
        say(
            "\nnext: remote-mi run RECIPE --PARAMETER RUN:OUTPUT"
            if count
            else "no run has made any yet; next: remote-mi demo"
        )


@artifacts.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="The digest of its numbers only.")
def show(name: str, as_json: bool, quiet: bool) -> None:
    """Show what an artifact is, and where it comes from.

    NAME is RUN:OUTPUT or FILE.safetensors:TENSOR, with @DIM=VALUE for a part of it.
    """
    found = named_artifact(name, project_folder())
    if as_json:
        print_json(_to_json(found))
    elif quiet:
        print(found.digest)
    else:
        _print_facts(found)
        say(f"\nnext: remote-mi artifacts export {name} -o FILE{SUFFIX}")


def _print_facts(found: StoredArtifact) -> None:
    facts = {**found.to_json(), "bytes": format_size(found.array.nbytes)}
    facts["dims"] = found.described_dims()
    facts["model"] = found.model.get("name", "not known")
    for name in ("named", "shape", "key", "parameters", "artifacts"):
        facts.pop(name, None)
    for name, value in facts.items():
        if value not in ("", None):
            print(f"{name:>10}  {line(str(value))}")
    for parameter, one in (found.origin.get("artifacts") or {}).items():
        took = f"{parameter}: {one.get('named', '?')}"
        print(f"{'took':>10}  {line(took)}")


def _to_json(found: StoredArtifact) -> dict[str, Any]:
    return {
        **found.to_json(),
        "coords": {dim: list(labels) for dim, labels in found.coords.items()},
    }


@artifacts.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dims", required=True, metavar="NAME,…", help="Its dimensions, e.g. layer,d_model.")
@click.option("--name", default="", metavar="TENSOR", help="The tensor, if the file has several.")
@click.option(
    "--model", default=EMBEDDED, show_default=True, metavar="ID|FOLDER", help="It was made for."
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub id.")
@click.option("--site", default="", metavar="SITE", help="Where it was made, e.g. resid_pre.")
@click.option("-o", "--output", metavar="FILE", help=f"Default: artifacts/NAME{SUFFIX}.")
@click.option("--json", "as_json", is_flag=True, help="Report what was written as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print the file name only.")
def import_artifact(file: Path, dims: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Write a tensor of a .safetensors or .npy file with its dimensions and its model.

    Files that may run code when they are loaded (.pt, .pkl, …) are refused.
    """
    names = [name.strip() for name in dims.split(",") if name.strip()]
    identity = ModelSpec(options["model"], options["revision"]).identity()
    found = import_tensor(file, options["name"], names)
    origin = {"model": identity, "site": options["site"], "imported": file.name}
    target = project_folder() / "artifacts" / f"{file.stem}{SUFFIX}"
    if options["output"]:
        target = Path(options["output"])
        check_folder_exists(target)
    else:
        target.parent.mkdir(exist_ok=True)
    one = StoredArtifact(str(target), found, tuple(names), {}, origin)
    _write(target, options["name"] or file.stem, one, as_json, quiet)


@artifacts.command()
@click.argument("name")
@click.option("-o", "--output", metavar="FILE", help=f"Default: RUN-OUTPUT{SUFFIX}.")
@click.option("--json", "as_json", is_flag=True, help="Report what was written as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print the file name only.")
def export(name: str, output: str | None, as_json: bool, quiet: bool) -> None:
    """Write an artifact to a .safetensors file, with where it comes from. NAME is as for `show`."""
    found = named_artifact(name, project_folder())
    tensor = str(found.origin.get("output") or found.origin.get("tensor") or "tensor")
    run = str(found.origin.get("run", "")).rsplit("-", 1)[-1]
    target = Path(output or f"{run}-{tensor}{SUFFIX}".lstrip("-"))
    check_folder_exists(target.absolute())
    _write(target, tensor, found, as_json, quiet)


def _write(target: Path, tensor: str, found: StoredArtifact, as_json: bool, quiet: bool) -> None:
    if target.suffix != SUFFIX:
        raise UsageError(f"{target} is not a {SUFFIX} file", f"-o {target.stem}{SUFFIX}")
    write_tensor(target, tensor, found.array, list(found.dims or ()), found.layers, found.origin)
    again = named_artifact(str(target), project_folder())
    if again.digest != found.digest:
        raise Mismatch(f"{target} does not hold what was written", "write it again")
    if as_json:
        print_json({"file": str(target), **_to_json(again)})
    else:
        print(target)
    if not quiet and not as_json:
        say(f"next: remote-mi run RECIPE --PARAMETER {target}")

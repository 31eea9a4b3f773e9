"""`remote-mi run RECIPE`: each recipe is a command whose options are its parameters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import yaml

from remote_mi import catalog
from remote_mi.cli.output import print_json, say, stdout_console, watching
from remote_mi.dispatch.plan import choose
from remote_mi.errors import RemoteMIError, StoreError, UsageError
from remote_mi.job import Job
from remote_mi.models.embedded import EMBEDDED
from remote_mi.models.spec import ATTENTION, DTYPES, ModelSpec
from remote_mi.paths import project_folder
from remote_mi.prompt_choice import PromptChoice
from remote_mi.recipe import INPUTS, Card
from remote_mi.results import Result
from remote_mi.runner import execute, look_up, make_job


class RecipeCommands(click.Group):
    """Makes a command of each recipe from its card."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [card.name for card in catalog.all_cards(project_folder())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return recipe_command(catalog.find(cmd_name, project_folder()))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        cards = catalog.all_cards(project_folder())
        with formatter.section("Recipes (`remote-mi run RECIPE --help` lists their options)"):
            formatter.write_dl([(card.name, card.summary) for card in cards])


@click.group(cls=RecipeCommands, subcommand_metavar="RECIPE [OPTIONS]")
def run() -> None:
    """Run a recipe on a model and prompts, or show the result that is already there.

    RECIPE is a name or a file: my.py, my.py:name.

    \b
    remote-mi run logit_lens -p prompt="The Eiffel Tower is in the city of"
    remote-mi run activation_patching --phenomenon ioi --site attn_out
    """


def shared_options() -> list[click.Option]:
    """The options every recipe has."""
    option = click.Option
    return [
        option(["-p", "--param", "param"], multiple=True, metavar="NAME=VALUE",
               help="A parameter or prompt text, e.g. -p prompt='...'."),
        option(["--phenomenon"], metavar="NAME[:TEMPLATE]", help="A set of prompts."),
        option(["--pairs"], metavar="FILE", help="Prompts or pairs, one JSON object a line, or hf:… for a data set."),
        option(["-n", "size"], type=int, metavar="N", help="How many prompts."),
        option(["--seed"], type=int, metavar="N", help="Seed of the phenomenon's prompts."),
        option(["--drop-invalid"], is_flag=True,
               help="Leave out prompts that do not fit the tokenizer, and say which."),
        option(["--model"], default=EMBEDDED, show_default=True, metavar="ID|FOLDER"),
        option(["--revision"], metavar="REV", help="Branch, tag or commit of a hub id."),
        option(["--dtype"], default="auto", metavar="|".join(DTYPES), help="Of the weights."),
        option(["--quantization"], metavar="NAME", help="e.g. nf4, int8."),
        option(["--attention"], default="auto", metavar="|".join(ATTENTION)),
        option(["--device"], default="auto", metavar="DEV", help="auto, cpu, cuda, cuda:1, mps."),
        option(["--device-map"], metavar="MAP", help="auto: spread over several devices."),
        option(["--names"], metavar="FILE", help="Module names of an unknown architecture."),
        option(["--bos"], default="auto", metavar="auto|always|never"),
        option(["--chat"], is_flag=True, help="Put prompts into the model's chat template."),
        option(["--backend"], default="auto", metavar="NAME", help="auto, local, ndif, ndif:here, ndif:URL."),
        option(["--timeout"], type=click.FloatRange(0, min_open=True), metavar="SECONDS",
               help="Longest wait for a remote job; it goes on without you."),
        option(["--detach"], is_flag=True,
               help="Submit to a server, print the job's id and do not wait."),
        option(["--dry-run"], is_flag=True, help="Say what would run, and run nothing."),
        option(["--json", "as_json"], is_flag=True, help="The result as one JSON document."),
        option(["-q", "--quiet"], is_flag=True, help="Print the run's id only."),
        option(["--only"], metavar="FIGURE", help="Show one figure."),
        option(["--width"], type=click.IntRange(40), metavar="N", help="Columns of the output."),
        option(["--debug"], is_flag=True, hidden=True),
    ]  # fmt: skip


def recipe_command(card: Card) -> click.Command:
    """The command that runs one recipe."""
    options: list[click.Parameter] = [*shared_options()]
    taken = {name for option in options for name in option.opts}
    for param in card.parameters:
        flag = f"--{param.name.replace('_', '-')}"
        if flag not in taken:
            default = "" if param.required else f" [default: {param.default}]"
            options.append(click.Option([flag, f"recipe_{param.name}"], metavar=param.kind.upper(),
                                        help=f"{param.help} ({param.expected}){default}"))  # fmt: skip
    for name in INPUTS:
        options.append(click.Option([f"--{name}", f"text_{name}"], metavar="TEXT", hidden=True))
    text = card.doc.replace("\n\n", "\n\n\b\n")
    return click.Command(card.name, params=options, callback=_callback(card), help=text,
                         short_help=card.summary)  # fmt: skip


def _callback(card: Card) -> Any:
    def run_recipe(**options: Any) -> None:
        given = _given(options)
        texts = {k: given.pop(k) for k in INPUTS if k in given}
        choice = PromptChoice(options["phenomenon"], options["pairs"], texts,
                              options["size"], options["seed"])  # fmt: skip
        name = f"{card.path}:{card.name}" if card.origin == "file" else card.name
        job = make_job(name, _spec(options), choice, given, project_folder(),
                       options["drop_invalid"])  # fmt: skip
        if options["dry_run"]:
            dry_run(job, options["backend"], options["as_json"])
            return
        if options["detach"]:
            detach(job, options)
            return
        with watching(options["quiet"]) as watch:
            result = execute(job, options["backend"], options["timeout"], watch)
        present(result, options)

    return run_recipe


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Parameters and texts, from -p and from options of their own; none given twice."""
    given: dict[str, Any] = {}
    for item in options["param"]:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"-p {item!r} is not NAME=VALUE")
        if name in given:
            raise UsageError(f"{name!r} is given twice")
        given[name.strip()] = value
    for key, value in options.items():
        kind, _, name = key.partition("_")
        if kind in ("recipe", "text") and value is not None:
            if name in given:
                raise UsageError(f"{name!r} is given twice")
            given[name] = value
    return given


def _spec(options: dict[str, Any]) -> ModelSpec:
    names: dict[str, str] = {}
    if options["names"]:
        path = Path(options["names"])
        try:
            loaded = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise UsageError(f"cannot read the names mapping {path}: {error}") from None
        if not isinstance(loaded, dict) or not all(isinstance(v, str) for v in loaded.values()):
            raise UsageError(f"{path}: a names mapping is 'module path: portable name' lines")
        names = {str(k): v for k, v in loaded.items()}
    return ModelSpec(options["model"], options["revision"], options["dtype"],
                     options["quantization"], options["attention"], options["device"],
                     options["device_map"], options["bos"], options["chat"], names)  # fmt: skip


def detach(job: Job, options: dict[str, Any]) -> None:
    """Submit and print the job's id, or show the result that is already there."""
    from remote_mi.remote_jobs import hand_over_detached

    with watching(options["quiet"]) as watch:
        handed = hand_over_detached(job, options["backend"], watch)
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
        id8 = result.run_id.rsplit("-", 1)[-1]
        say(f"\nkept in {_short(result.path)}")
        say(f"next: remote-mi view {id8} --plain")
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
        outputs[name] = {"dims": list(found.dims), "coords": dict(found.coords),
                         "values": plain(found.values)}  # fmt: skip
        if found.low is not None and found.high is not None:
            outputs[name].update(low=plain(found.low), high=plain(found.high))
    return {
        "run": result.run_id or None,
        "path": str(result.path) if result.path else None,
        "recipe": result.recipe["name"],
        "outputs": outputs,
        "each": {name: [plain(a.values) for a in result.each(name)] for name in result.outputs}
        if len(result.prompts) > 1
        else {},
        "vocabulary": result.document["vocabulary"],
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
    plan = choose(backend, job.model, job.project)
    try:
        hit = look_up(job, plan)
        state = f"already there: run {hit.run_id}" if hit else "not computed yet"
    except RemoteMIError as error:
        hit, state = None, str(error)
    if json_wanted:
        print_json({"key": job.key, "hit": hit.run_id if hit else None, "plan": str(plan),
                    "job": job.described})  # fmt: skip
        return
    shown = ", ".join(f"{k}={v}" for k, v in job.parameters.items()) or "none"
    example = job.prompts.examples[0]
    rows = [
        ("recipe", f"{job.card.name} ({job.card.origin}, {job.card.path})"),
        ("parameters", shown),
        ("model", job.model.name),
        ("prompts", f"{len(job.prompts.examples)} from {job.prompts.origin}, "
                    f"the first: {example.clean!r}"),
        ("backend", str(plan)),
        ("key", job.key),
        ("result", state),
    ]  # fmt: skip
    for name, text in rows:
        print(f"{name:>10}  {text}")
    sys.stdout.flush()
    say("\nnothing was run; leave out --dry-run to run it")

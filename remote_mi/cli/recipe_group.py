"""Command groups in which each recipe is a command and its parameters are options.

`remote-mi run RECIPE …`, `plan RECIPE …` and `cache explain RECIPE …` take the same arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from remote_mi.backends.registry import option_values
from remote_mi.common.errors import UsageError, sanitize
from remote_mi.common.paths import project_folder
from remote_mi.common.text import line
from remote_mi.common.yaml_file import read_with_positions
from remote_mi.jobs.building import make_job
from remote_mi.jobs.job import Job
from remote_mi.models.embedded import EMBEDDED
from remote_mi.models.spec import ATTENTION, DTYPES, ModelSpec
from remote_mi.prompts.alignment import ALIGN
from remote_mi.prompts.choice import PromptChoice
from remote_mi.prompts.files.columns import parse_columns
from remote_mi.prompts.messages import parse_turns
from remote_mi.prompts.published import FORMATS
from remote_mi.recipes import catalog
from remote_mi.recipes.card import INPUTS, Card

Options = dict[str, Any]


class RecipeGroup(click.Group):
    """A group that builds a command for each recipe from its card.

    Args:
        act: called with the job that a command line describes and the values of all options.
        options: returns the group's own options, besides the ones that describe a job; called
            for each command, as click options cannot be shared.
        build: makes the job; `build_job` by default.
    """

    def __init__(
        self,
        *args: Any,
        act: Callable[[Job, Options], Any],
        options: Callable[[], Sequence[click.Option]],
        build: Callable[[Card, Options], Job] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(*args, subcommand_metavar="RECIPE [OPTIONS]", **more)
        self.act, self.own_options, self.build = act, options, build or build_job

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [card.name for card in catalog.all_cards(project_folder())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        card = catalog.find(cmd_name, project_folder())
        options: list[click.Parameter] = [*job_options(), *self.own_options()]
        taken = {name for option in options for name in option.opts}
        for param in card.parameters:
            flag = f"--{param.name.replace('_', '-')}"
            for option in options if flag in taken else ():
                if flag in option.opts and isinstance(option, click.Option):
                    option.help = f"{option.help} The recipe's own is -p {param.name}=…"
            if flag not in taken:
                default = "" if param.required else f" [default: {param.default_text}]"
                options.append(
                    click.Option(
                        [flag, f"recipe_{param.name}"],
                        metavar=param.kind.upper(),
                        help=sanitize(f"{param.help} ({param.expected}){default}"),
                    )
                )
        for name in INPUTS:
            options.append(click.Option([f"--{name}", f"text_{name}"], metavar="TEXT", hidden=True))
        text = sanitize(card.doc).replace("\n\n", "\n\n\b\n")  # \b is click's own mark

        def command(**given: Any) -> Any:
            return self.act(self.build(card, given), given)

        return click.Command(
            card.name, params=options, callback=command, help=text, short_help=line(card.summary)
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        cards = catalog.all_cards(project_folder())
        with formatter.section(f"Recipes (`{ctx.command_path} RECIPE --help` lists their options)"):
            formatter.write_dl([(card.name, line(card.summary)) for card in cards])


def job_options() -> list[click.Option]:
    """The options that describe a job, for any recipe."""
    return [
        *_prompt_options(),
        *_model_options(),
        progress_option(),
        click.Option(["--debug"], is_flag=True, hidden=True),
    ]


def progress_option() -> click.Option:
    """`--progress json`, as commands that compute have it."""
    return click.Option(
        ["--progress"],
        type=click.Choice(["json"]),
        help="Report progress on stderr as lines of JSON.",
    )


def _prompt_options() -> list[click.Option]:
    option = click.Option
    return [
        option(
            ["-p", "--param", "param"],
            multiple=True,
            metavar="NAME=VALUE",
            help="A parameter or prompt text, e.g. -p prompt='...'.",
        ),
        option(["--phenomenon"], metavar="NAME[:TEMPLATE]", help="A set of prompts."),
        option(
            ["--pairs"],
            metavar="FILE",
            help="Prompts or pairs: JSON, CSV, TSV, Parquet, Excel; or hf:… for a dataset.",
        ),
        option(
            ["--columns"],
            multiple=True,
            metavar="FIELD=COLUMN,…",
            help="Columns of the file by field, e.g. clean=question,answer=label.",
        ),
        option(
            ["--format"],
            default="",
            metavar="NAME",
            help=f"Published format of the file: {', '.join(FORMATS)}.",
        ),
        option(
            ["--turn"],
            multiple=True,
            metavar="ROLE=TEXT",
            help="A turn of a conversation: system, user, or the beginning of assistant's answer.",
        ),
        option(
            ["--corrupt-turn"],
            multiple=True,
            metavar="ROLE=TEXT",
            help="A turn of the corrupt conversation of a pair.",
        ),
        option(
            ["--thinking"],
            type=click.Choice(["on", "off"]),
            help="Switch the chat template's thinking, if it knows enable_thinking.",
        ),
        option(
            ["--align"],
            type=click.Choice(ALIGN),
            help="Take pairs of unequal length, aligned by labels, or by how they begin and end.",
        ),
        option(["-n", "size"], type=int, metavar="N", help="Number of prompts."),
        option(["--seed"], type=int, metavar="N", help="Seed of the phenomenon's prompts."),
        option(
            ["--drop-invalid"],
            is_flag=True,
            help="Leave out records and prompts that do not fit, and report them.",
        ),
    ]


def _model_options() -> list[click.Option]:
    """The options that describe the model of a job, and where it runs."""
    option = click.Option
    return [
        option(
            ["--model"],
            default=EMBEDDED,
            show_default=True,
            metavar="ID|FOLDER|FILE",
            help="Model to run on; a file is one in GGUF.",
        ),
        option(["--revision"], metavar="REV", help="Branch, tag or commit of a hub id."),
        option(
            ["--adapter"],
            metavar="ID|FOLDER",
            help="PEFT adapter to merge into the weights; ID@REV names a revision.",
        ),
        option(
            ["--tokenizer"],
            metavar="ID|FOLDER|ids",
            help="In place of the model's own; ids: prompts are token ids.",
        ),
        option(["--dtype"], default="auto", metavar="|".join(DTYPES), help="Dtype of the weights."),
        option(["--quantization"], metavar="NAME", help="Quantization of the weights: nf4, int8."),
        option(
            ["--attention"],
            default="auto",
            metavar="|".join(ATTENTION),
            help="Attention implementation.",
        ),
        option(["--device"], default="auto", metavar="DEV", help="auto, cpu, cuda, cuda:1, mps."),
        option(["--device-map"], metavar="MAP", help="auto: spread over several devices."),
        option(["--names"], metavar="FILE", help="Module names of an unknown architecture."),
        option(
            ["--bos"],
            default="auto",
            metavar="auto|always|never",
            help="Whether a BOS token is prepended.",
        ),
        option(["--chat"], is_flag=True, help="Put prompts into the model's chat template."),
        option(
            ["--backend"],
            default="auto",
            metavar="NAME",
            help=f"Where to run: {', '.join(option_values())}.",
        ),
    ]


def build_job(card: Card, options: Options) -> Job:
    """Build the job that a command line describes; raises as `remote_mi.jobs.building.make_job`."""
    return make_job(card, *job_arguments(options))


def job_arguments(
    options: Options,
) -> tuple[ModelSpec, PromptChoice, dict[str, Any], Path, bool]:
    """What `make_job` takes besides the recipe, as a command line gives it."""
    values = _collect_values(options)
    texts = {k: v for k, v in values.items() if k in INPUTS}
    texts.update(_conversations(options, texts))
    choice = PromptChoice(
        options["phenomenon"],
        options["pairs"],
        texts,
        options["size"],
        options["seed"],
        parse_columns(options["columns"]),
        options["format"],
        {"on": True, "off": False}.get(options["thinking"] or ""),
        options["align"] or "",
    )
    parameters = {k: v for k, v in values.items() if k not in INPUTS}
    return (
        _build_model_spec(options),
        choice,
        parameters,
        project_folder(),
        options["drop_invalid"],
    )


def _conversations(options: Options, texts: Mapping[str, Any]) -> dict[str, Any]:
    """The prompts that turns on the command line make, by field."""
    clean = parse_turns(options["turn"], "--turn")
    corrupt = parse_turns(options["corrupt_turn"], "--corrupt-turn")
    if corrupt and not clean:
        raise UsageError("--corrupt-turn needs the clean conversation", "give --turn ROLE=TEXT")
    made = {"clean": clean, "corrupt": corrupt} if corrupt else {"messages": clean} if clean else {}
    for name in ("prompt", *made) if made else ():
        if name in texts:
            raise UsageError(f"{name!r} is given twice: as a text and by --turn", "leave one out")
    return made


def _collect_values(options: Options) -> dict[str, Any]:
    """Parameters and texts, from -p and from their own options; none may be given twice."""
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


def _build_model_spec(options: Options) -> ModelSpec:
    """The model that a command line describes."""
    names: dict[str, str] = {}
    if options["names"]:
        path = Path(options["names"])
        loaded = read_with_positions(path).data
        if not isinstance(loaded, dict) or not all(isinstance(v, str) for v in loaded.values()):
            raise UsageError(f"{path}: a names file has lines of 'module path: portable name'")
        names = {str(k): v for k, v in loaded.items()}
    return ModelSpec(
        options["model"],
        options["revision"],
        options["dtype"],
        options["quantization"],
        options["attention"],
        options["device"],
        options["device_map"],
        options["bos"],
        options["chat"],
        names,
        options["adapter"],
        options["tokenizer"],
    )

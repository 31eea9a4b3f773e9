"""Entry point: finds and runs a command, and turns every error into one message and an exit code."""

from __future__ import annotations

import os
import sys
from pkgutil import resolve_name
from typing import Any

import click

from remote_mi.common.authors_code import ProcessEnded, exits_contained
from remote_mi.common.errors import (
    Detached,
    OutputError,
    RemoteMIError,
    UsageError,
    nearest,
    system_error,
)
from remote_mi.common.streams import ReaderGone, discard_output, set_up_streams, stdout_reserved
from remote_mi.common.version import __version__

#: Command → "module:attribute" and its line in the help, so that help imports no command.
COMMANDS = {
    "demo": ("remote_mi.cli.demo:demo", "Show a first result, on the embedded model."),
    "run": ("remote_mi.cli.run:run", "Run a recipe and show its figures."),
    "plan": ("remote_mi.cli.plan:plan", "Show where a job would run, and why."),
    "study": ("remote_mi.cli.study:study", "Run many jobs described in one file."),
    "view": ("remote_mi.cli.view:view", "Show the figures of a run."),
    "compare": ("remote_mi.cli.compare:compare", "Compare two runs, or a run across backends."),
    "report": ("remote_mi.cli.report:report", "Write a report of runs, to complete and hand in."),
    "export": ("remote_mi.cli.export:export", "Save a figure or table of a run to a file."),
    "reproduce": ("remote_mi.cli.reproduce:reproduce", "Recompute runs from their folders."),
    "recipes": ("remote_mi.cli.recipes:recipes", "List, explain, create and check recipes."),
    "phenomena": ("remote_mi.cli.phenomena:phenomena", "List, show and create sets of prompts."),
    "models": ("remote_mi.cli.models:models", "List the embedded model, or a server's models."),
    "login": ("remote_mi.cli.login:login", "Save the NDIF key."),
    "config": ("remote_mi.cli.config:config", "Show the settings, and where they come from."),
    "doctor": ("remote_mi.cli.doctor:doctor", "Check this machine, the key and a server."),
    "ndif": ("remote_mi.cli.ndif:ndif", "Run a personal NDIF server on this machine."),
    "jobs": ("remote_mi.cli.jobs:jobs", "List, wait for, fetch or forget jobs on servers."),
    "runs": ("remote_mi.cli.runs:runs", "List, tag or remove the runs of this project."),
    "artifacts": ("remote_mi.cli.artifacts:artifacts", "What one run makes and another takes."),
    "cache": ("remote_mi.cli.cache:cache", "Inspect, verify or shrink the cache of results."),
}

#: Characters of a message about a mistyped command; it quotes what was given.
_LONGEST = 600


class LazyGroup(click.Group):
    """A group that imports each command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return resolve_name(COMMANDS[cmd_name][0])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            close = nearest(args[0], COMMANDS)
            hint = f"; did you mean {close!r}?" if close else ""
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="remote-mi")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Interpretability experiments on language models, locally or on a server.

    \b
    Start with:  remote-mi demo
    Then:        remote-mi recipes ls
    """


def main() -> None:
    """Run the command line and exit with its code."""
    set_up_streams()
    debug = "--debug" in sys.argv or bool(os.environ.get("REMOTE_MI_DEBUG"))
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    code = run_command(arguments, debug)
    try:
        sys.stdout.flush()
    except (OSError, OutputError, ReaderGone):  # the error was reported, or is not the first one
        discard_output()
    sys.exit(code)


def run_command(arguments: list[str], debug: bool = False) -> int:
    """Run one command; returns the exit code."""
    try:
        _check_encoding(arguments)
        with stdout_reserved(), exits_contained():
            code = cli.main(arguments, prog_name="remote-mi", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, click.Abort) as stopped:
        detached = stopped if isinstance(stopped, Detached) else stopped.__cause__
        if isinstance(detached, Detached):
            _say(str(detached))
        else:
            _say("interrupted; finished work is kept, and the same command continues from there")
        return 130
    except (BrokenPipeError, ReaderGone):
        # Whoever was reading our output has gone: there is nobody to report to.
        discard_output()
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        _say(error.format_message())
        return 2
    except click.ClickException as error:
        where = f"\n  try `{error.ctx.command_path} --help`" if getattr(error, "ctx", None) else ""  # type: ignore[attr-defined]
        message = error.format_message()
        message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
        _say(f"error: {message}{where}")
        return 2
    except (RemoteMIError, OSError) as error:
        if debug:
            raise
        reported = error if isinstance(error, RemoteMIError) else system_error(error)
        _say(f"error: {reported}")
        return reported.exit_code
    except ProcessEnded as error:
        if debug:
            raise
        _say(f"error: {error}")
        return 1
    except Exception as error:
        if debug:
            raise
        _say(
            f"error: unexpected {type(error).__name__}: {error}\n"
            "  this is a bug in remote_mi; --debug shows the traceback for a bug report"
        )
        return 1


def _check_encoding(arguments: list[str]) -> None:
    """Refuse arguments that are not text in the terminal's encoding, which nothing could store.

    Raises:
        UsageError: naming the first of them.
    """
    for argument in arguments:
        if argument.isascii():
            continue
        from remote_mi.common.text import encoding_problem  # imported here: help does not need it

        if encoding_problem(argument):
            raise UsageError(
                f"the argument {argument!r} is not text in {sys.getfilesystemencoding()}",
                "set the terminal to UTF-8; a file or folder must have a name in it, too",
            )


def _say(text: str) -> None:
    from remote_mi.cli.output import say  # imported here because help does not need it

    try:
        say(text)
    except (OSError, ValueError):
        pass


if __name__ == "__main__":
    main()

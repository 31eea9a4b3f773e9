"""The command line that makes a run, reconstructed from its lock."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from remote_mi.common.errors import RemoteMIError, sanitize
from remote_mi.common.paths import project_folder
from remote_mi.models.in_hand import OBJECT
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.parameter import as_given, has_name
from remote_mi.recipes import catalog
from remote_mi.store.lock import read_lock
from remote_mi.store.provenance import ArtifactFacts

#: Fields of a model → options of `remote-mi run`.
_MODEL_OPTIONS = {
    "revision": "--revision",
    "adapter": "--adapter",
    "tokenizer": "--tokenizer",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "attention": "--attention",
    "device": "--device",
    "device_map": "--device-map",
    "bos": "--bos",
}
_TEXTS = ("prompt", "target", "clean", "corrupt", "answer", "wrong")


def command_for_run(folder: Path, backend: str = "") -> str | None:
    """The command that makes the run in a folder; None if no command line can.

    Args:
        backend: as for `run_command`.
    """
    try:
        lock = read_lock(folder)
        recipe = lock["recipe"]
        try:
            catalog.find(recipe["name"], project_folder())
        except RemoteMIError:  # the recipe was given as a file
            lock = {**lock, "recipe": {**recipe, "name": recipe.get("file") or recipe["name"]}}
        return run_command(lock, backend)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # a foreign run may lack these; `reproduce` reports what is wrong


def run_command(lock: Mapping[str, Any], backend: str = "") -> str | None:
    """`remote-mi run …` with everything that affects the numbers.

    Args:
        lock: config.lock.yaml of the run. backend: value of `--backend`; "" omits it.

    Returns:
        None if the command line cannot express it: prompts, models and tokenizers given from
        Python, module names of an unknown architecture, a comma within a list, control characters.
        `remote-mi reproduce` handles these too.
    """
    prompts, parameters = _prompts(lock), _parameters(_with_artifacts(lock))
    prompts = prompts and [*prompts, *_of_all(lock["prompts"].get("examples", []))]
    if prompts is None or parameters is None or lock["model"].get("names"):
        return None
    if any(str(lock["model"].get(what)).startswith(OBJECT) for what in ("name", "tokenizer")):
        return None
    words = ["remote-mi", "run", str(lock["recipe"]["name"])]
    words += [*_model(lock["model"]), *prompts, *parameters]
    if lock.get("drop_invalid"):
        words.append("--drop-invalid")
    if backend:
        words += ["--backend", backend]
    command = shlex.join(words)
    return command if command == sanitize(command) else None


def _model(model: Mapping[str, Any]) -> list[str]:
    """The model, and its fields that differ from the default."""
    usual = {f.name: f.default for f in fields(ModelSpec)}
    words = ["--model", str(model["name"])]
    for name, option in _MODEL_OPTIONS.items():
        value = model.get(name)
        if value is not None and value != usual.get(name):
            words += [option, str(value)]
    return [*words, "--chat"] if model.get("chat") else words


def _with_artifacts(lock: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, with each artifact named by its run and output, or as its user did."""
    named = dict(lock["parameters"])
    for parameter, record in lock.get("artifacts", {}).items():
        facts = ArtifactFacts(
            run=record.get("run"), output=record.get("output"), at=record.get("at") or {}
        )
        named[parameter] = facts.name if facts.run and "file" not in record else record["named"]
    return named


def _parameters(given: Mapping[str, Any]) -> list[str] | None:
    """Every parameter; empty lists are omitted, as they were not given."""
    words = []
    for name, of in given.items():
        value = as_given(of)
        if value is not of and not has_name(of):
            return None
        if isinstance(value, list):
            if any("," in str(item) for item in value):
                return None
            value = ",".join(str(item) for item in value)
            if not value:
                continue
        words += ["-p", f"{name}={'none' if value is None else value}"]
    return words


def _prompts(lock: Mapping[str, Any]) -> list[str] | None:
    """The options that select the prompts; None if no options can."""
    given = lock["prompts"]
    origin, examples = str(given.get("origin", "")), given.get("examples", [])
    if not examples:
        return []
    if origin == "list":
        return None
    if origin == "command line":
        return _texts(examples[0])
    count = str(given.get("of_pairs", len(examples)))  # of a pair, both prompts may be examples
    if "seed" in given:
        name = f"{origin}:{given['template']}" if given.get("template") else origin
        return ["--phenomenon", name, "-n", count, "--seed", str(given["seed"])]
    columns = given.get("columns") or {}
    if any("," in str(column) for column in columns.values()):
        return None
    words = ["--pairs", origin, "-n", count]
    if columns:
        words += ["--columns", ",".join(f"{name}={column}" for name, column in columns.items())]
    return [*words, "--format", str(given["format"])] if given.get("format") else words


def _of_all(examples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The options that switch thinking and align pairs, if these are alike for all prompts."""
    words = []
    for name in ("thinking", "align"):
        given = {example.get(name) for example in examples}
        value = given.pop() if len(given) == 1 else None
        if value is not None:
            words += [f"--{name}", {True: "on", False: "off"}.get(value) or str(value)]
    return words


def _texts(example: Mapping[str, Any]) -> list[str]:
    """One example as given on the command line."""
    texts = dict(example)
    if texts.get("corrupt") is None:
        texts = {"prompt": texts.get("clean"), "target": texts.get("answer")}
    words: list[str] = []
    for option, turns in (("--turn", "turns"), ("--corrupt-turn", "corrupt_turns")):
        for role, content in example.get(turns) or ():
            words += [option, f"{role}={content}"]
    if example.get("behaviour"):
        words += ["-p", f"behaviour={json.dumps(example['behaviour'], ensure_ascii=False)}"]
    for name in _TEXTS:
        if example.get("turns") and name in ("prompt", "clean", "corrupt"):
            continue
        if isinstance(texts.get(name), str):
            words += ["-p", f"{name}={texts[name]}"]
    return words

"""What the benchmarks share: the model, the pair, alternating measurements and the report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PAIR = {
    "clean": "When Mary and John went to the store, John gave a drink to",
    "corrupt": "When Mary and John went to the store, Mary gave a drink to",
    "answer": " Mary",
    "wrong": " John",
}
"""One pair of the indirect object identification task (Wang et al. 2022)."""


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    return parser


def at_least_one(text: str) -> int:
    """A count as argparse reads it."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is not at least 1")
    return count


def load_embedded(threads: int, attention: str = "auto") -> Any:
    """The embedded model in float32 on this machine's CPU, prompts without BOS.

    Args:
        attention: "eager" for the one that gives its weights.

    Returns:
        `remote_mi.models.load.LoadedModel`.
    """
    import torch

    from remote_mi.common.progress import Silent
    from remote_mi.models.load import load

    torch.set_num_threads(threads)
    return load(_spec(attention), Silent())


def _spec(attention: str = "auto") -> Any:
    from remote_mi.models.spec import ModelSpec

    return ModelSpec(dtype="float32", device="cpu", bos="never", attention=attention)


def tokenized(model: Any, over: str) -> Any:
    """`PAIR` as a recipe's body gets it.

    Args:
        over: "pair", or "prompt" for the clean prompt alone, with the answer as its target.
    """
    texts = PAIR if over == "pair" else {"prompt": PAIR["clean"], "target": PAIR["answer"]}
    return tokenized_all(model, over, [texts])[0]


def tokenized_all(model: Any, over: str, texts: Sequence[Mapping[str, str]]) -> list[Any]:
    """Prompts or pairs as a recipe's body gets them.

    Args:
        over: "pair" or "prompt".
        texts: the fields of each, as in a file of prompts.
    """
    from remote_mi.prompts.examples import PromptSet, parse_example
    from remote_mi.prompts.tokens import tokenize

    prompts = PromptSet(tuple(parse_example(dict(one)) for one in texts), "benchmark")
    return tokenize(model.tokenizer, prompts, _spec(), over, model.context).prompts


def work_of(recipe: str, *calls: Any, **parameters: Any) -> Any:
    """Calls of a built-in recipe, as a backend executes them.

    Args:
        parameters: those that are not to have their defaults; a prompt's tokens as a `Prompt`.
    """
    from remote_mi.backends.base import Work
    from remote_mi.interventions import Prompt
    from remote_mi.recipes import catalog, loading

    nowhere = Path(__file__).parent  # a project without recipes of its own
    card = catalog.find(recipe, nowhere)
    function = loading.load_function(card, nowhere)
    prompts = {name: value for name, value in parameters.items() if isinstance(value, Prompt)}
    given = {name: value for name, value in parameters.items() if name not in prompts}
    parameters = {**card.resolve(given), **prompts}
    return Work(card, function, list(calls), parameters, "benchmark", together=calls)


def seconds(task: Callable[[], Any]) -> tuple[float, float]:
    """How long a task takes by the clock on the wall, and the CPU time this process used for it."""
    begun, busy = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - begun, time.process_time() - busy


def alternate(tasks: Mapping[str, Callable[[], Any]], repeat: int) -> dict[str, list[float]]:
    """Seconds of each task in each round; a round runs all, and each begins with another one."""
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    names = list(tasks)
    for index in range(repeat):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(seconds(tasks[name])[0])
    return taken


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of one time over another of the same round.

    Other work on the machine slows both times of a round, so this moves less than the medians.
    """
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def spread(times: Sequence[float]) -> str:
    """Smallest and largest, to see how quiet the machine was."""
    return f"{min(times):.3g}–{max(times):.3g}"


def conditions(*packages: str) -> dict[str, Any]:
    """The machine, how busy it is as this is called, and versions."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "load_before": load,
        "python": platform.python_version(),
        "versions": found,
    }


def report(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    notes: Sequence[str],
    figures: Mapping[str, Any],
    target: Path | None,
) -> None:
    """Print a table and its notes, and write the figures as JSON where asked."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    print(f"\n{title}")
    for row in cells:
        first, *others = [
            cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(row)
        ]
        print("  ".join([first, *others]).rstrip())
    for note in notes:
        print(note)
    if target is not None:
        try:
            target.write_text(json.dumps({"title": title, **figures}, indent=1) + "\n")
        except OSError as error:
            print(f"not written: {error}", file=sys.stderr)


def describe(found: Mapping[str, Any]) -> str:
    """`conditions` in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{found['system']} {found['machine']}, {found['cpus']} CPUs, load {found['load_before']} "
        f"before; Python {found['python']}, {versions}"
    )

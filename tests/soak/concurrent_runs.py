"""Runs of one program from many threads and from asyncio, every number held against transformers'.

    python tests/soak/concurrent_runs.py [--runs 500] [--threads 16] [--seed 0]

Two tiny models, five recipes, prompts of one length (so that a wrong one would have the right
shape), refusals and hits among them. In the end every result is what transformers gives and, bit by
bit, what the same job gives alone; every refusal is the one of its own input; stdout is alive; no
entry of the cache and no run is of another prompt.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import remote_mi as mi  # noqa: E402
from remote_mi.common.errors import UsageError  # noqa: E402
from remote_mi.models.tiny_models import configuration, set_biases  # noqa: E402
from tests.conftest import save_tokenizer  # noqa: E402

NAMES = ("Mary", "John", "Tom", "Anna", "Paul", "Mark", "Lucy")
FAMILIES = ("llama", "gpt2")
#: Prompts that fit no tokenizer, and what is said of them.
BAD = {"   ": "the prompt text is empty", "Mary and John Mary" * 40: "tokens, the model takes 64"}


def models(folder: Path) -> dict[str, tuple[Path, Any, Any]]:
    """Family → folder, model and tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = {}
    for family in FAMILIES:
        home = folder / family
        home.mkdir()
        size = save_tokenizer(home)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            configuration(family, size), attn_implementation="eager"
        )
        set_biases(model)
        model.eval().save_pretrained(home)
        made[family] = (home, model, AutoTokenizer.from_pretrained(home))
    return made


def jobs(count: int, generator: random.Random) -> list[tuple[str, str, dict[str, Any]]]:
    """(recipe, family, what is asked): about a third of them more than once, some of them bad."""
    every = []
    for family in FAMILIES:
        for a in NAMES:
            for b in NAMES:
                if a == b:
                    continue
                clean = f"When {a} and {b} went to the store, {b} gave a drink to"
                pair = {
                    "clean": clean,
                    "corrupt": clean.replace(f", {b}", f", {a}"),
                    "answer": f" {a}",
                    "wrong": f" {b}",
                }
                every += [
                    ("logit_lens", family, {"prompt": clean}),
                    ("attention_patterns", family, {"prompt": clean}),
                    ("baseline", family, {"pairs": [pair]}),
                    ("activation_patching", family, {"pairs": [pair]}),
                    ("saliency", family, {"prompt": clean, "target": f" {a}"}),
                ]
    chosen = generator.sample(every, min(len(every), 2 * count // 3))
    while len(chosen) < count:
        bad = ("logit_lens", generator.choice(FAMILIES), {"prompt": generator.choice(list(BAD))})
        chosen.append(bad if generator.random() < 0.1 else generator.choice(every))
    generator.shuffle(chosen)
    return chosen


def is_right(made: Any, job: tuple[str, str, dict[str, Any]], result: mi.Result) -> bool:
    """Whether a result is what transformers gives of its very prompt."""
    recipe, family, asked = job
    _, model, tokenizer = made[family]
    text = asked.get("prompt") or asked["pairs"][0]["clean"]
    if result.prompts[0]["clean"] != text or result.recipe["name"] != recipe:
        return False
    with torch.no_grad():
        out = model(**tokenizer(text, return_tensors="pt"), output_attentions=True)
    logits = out.logits[0]
    if recipe == "logit_lens":
        got, expected = result["top_prob"].values[-1, :, 0], logits.softmax(-1).max(-1).values
    elif recipe == "attention_patterns":
        got, expected = result["pattern"].values, torch.stack(out.attentions)[:, 0]
    elif recipe == "saliency":
        return bool(np.isfinite(result["gradient_norm"].values).all())
    else:
        pair = asked["pairs"][0]
        right, wrong = (tokenizer(pair[k]).input_ids[0] for k in ("answer", "wrong"))
        got = result["logit_diff" if recipe == "baseline" else "clean"].values
        expected = logits[-1, right] - logits[-1, wrong]
    return bool(np.allclose(got, expected.numpy(), atol=1e-4))


def main() -> None:
    """Run, compare, and exit with 1 where anything is not as it should be."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=500)
    options.add_argument("--threads", type=int, default=16)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(soak(Path(temporary), asked))


def soak(folder: Path, asked: argparse.Namespace) -> int:
    """The exit code."""
    made = models(folder)
    wanted = jobs(asked.runs, random.Random(asked.seed))
    os.environ["REMOTE_MI_CACHE"] = str(folder / "cache")
    project, alone = folder / "project", folder / "alone"
    project.mkdir()
    alone.mkdir()
    stdout, begun = sys.stdout, time.perf_counter()

    def work(job: tuple[str, str, dict[str, Any]]) -> Any:
        recipe, family, given = job
        try:
            return mi.run(recipe, model=made[family][0], project=project, **given)
        except BaseException as error:
            return error

    async def half(part: list[Any]) -> list[Any]:
        return list(await asyncio.gather(*(asyncio.to_thread(work, job) for job in part)))

    middle = len(wanted) // 2
    with ThreadPoolExecutor(asked.threads) as pool:
        futures = [pool.submit(work, job) for job in wanted[:middle]]
        found = asyncio.run(half(wanted[middle:]))
        found = [future.result() for future in futures] + found
    seconds = time.perf_counter() - begun
    os.environ["REMOTE_MI_CACHE"] = str(folder / "another cache")
    counts: Counter[str] = Counter()
    for job, answer in zip(wanted, found, strict=True):
        counts[verdict(made, job, answer, alone)] += 1
    counts["stdout is dead"] += sys.stdout is not stdout
    damaged = checks(folder, project)
    print(
        f"{len(wanted)} runs from {asked.threads} threads and asyncio in {seconds:.1f} s: "
        + ", ".join(f"{n} {what}" for what, n in sorted(counts.items()) if n)
    )
    print(damaged)
    good = counts["right"] + counts["refused, rightly"]
    return (
        0 if good == len(wanted) and counts["stdout is dead"] == 0 and "0 damaged" in damaged else 1
    )


def verdict(made: Any, job: tuple[str, str, dict[str, Any]], answer: Any, alone: Path) -> str:
    """What is to be said of one answer."""
    recipe, family, given = job
    said = BAD.get(given.get("prompt", ""))
    if said is not None:
        good = isinstance(answer, UsageError) and said in str(answer)
        return "refused, rightly" if good else f"bad input taken: {answer!r}"
    if isinstance(answer, BaseException):
        return f"failed: {type(answer).__name__}: {str(answer)[:80]}"
    if not is_right(made, job, answer):
        return "WRONG"
    same = mi.run(recipe, model=made[family][0], project=alone, **given)
    equal = all(
        np.array_equal(a, same.arrays[n], equal_nan=a.dtype.kind == "f")
        for n, a in answer.arrays.items()
    )
    return "right" if equal else "NOT AS ALONE"


def checks(folder: Path, project: Path) -> str:
    """How many kept entries and runs are not whole."""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "remote_mi", "cache", "verify", "--runs", "-q"],
        env={
            **os.environ,
            "REMOTE_MI_CACHE": str(folder / "cache"),
            "REMOTE_MI_PROJECT": str(project),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return f"cache verify --runs: exit {done.returncode}, " + (
        "0 damaged" if done.returncode == 0 else done.stdout + done.stderr
    )


if __name__ == "__main__":
    main()

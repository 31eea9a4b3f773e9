"""How much faster prompts are continued together than one by one, and that the texts are the same.

    python tests/benchmarks/batched_generation.py [--prompts 100] [--steps 32] [--model NAME]

Prompts of 5 to 30 tokens, greedy, no row ends early. Both ways use the recipe kit's `generate`; the
time of transformers' own `generate`, one by one, is given beside them.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import nnsight
import torch

from remote_mi.common.progress import Silent
from remote_mi.interventions import generate, generation
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec


def continued(lm: Any, rows: list[list[int]], steps: int) -> tuple[list[list[int]], float]:
    began = time.perf_counter()
    with torch.no_grad(), lm.session():
        found = nnsight.save(generate(lm, rows, steps))
    return found.tolist(), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--model", default="smollm2-135m-q4_1")
    asked = parser.parse_args()
    lm = load(ModelSpec(asked.model), Silent()).lm
    generation.end_tokens = lambda lm: []  # every text has all its tokens
    drawn = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 31, (asked.prompts,), generator=drawn).tolist()
    size = int(lm.lm_head.weight.shape[0])
    rows = [torch.randint(3, size, (n,), generator=drawn).tolist() for n in lengths]
    continued(lm, rows[:2], 2)
    together, batched = continued(lm, rows, asked.steps)
    alone, single, plain = [], 0.0, 0.0
    for row in rows:
        found, seconds = continued(lm, [row], asked.steps)
        alone += found
        single += seconds
        began = time.perf_counter()
        with torch.no_grad():
            lm._module.generate(
                torch.tensor([row]),
                max_new_tokens=asked.steps,
                min_new_tokens=asked.steps,
                do_sample=False,
                pad_token_id=0,
            )
        plain += time.perf_counter() - began
    same = sum(a == b for a, b in zip(together, alone, strict=True))
    print(f"{asked.prompts} prompts × {asked.steps} tokens, {lm._module.dtype}:")
    print(f"together {batched:.1f} s, one by one {single:.1f} s: {single / batched:.1f} times")
    print(f"transformers, one by one: {plain:.1f} s: {plain / batched:.1f} times")
    print(f"{same} of {asked.prompts} texts are the same")


if __name__ == "__main__":
    main()

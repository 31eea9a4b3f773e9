"""What a CUDA device saves: the same jobs on it and on the CPU, in one run, on a random model.

    python tests/benchmarks/cuda_paths.py [--layers 30] [--width 576]

The model has the shape of the embedded one; its weights are random, so the numbers mean nothing and
their differences between the devices do. Each job is run once to warm up, then timed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import remote_mi as mi
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts import phenomena

JOBS: list[tuple[str, dict[str, Any]]] = [
    ("baseline", {"n": 16}),
    ("logit_lens", {"n": 1}),
    ("activation_patching", {"n": 1, "control_draws": 0}),
    ("activation_patching", {"n": 1, "control_draws": 1}),
    ("head_patching", {"n": 4}),
    ("attribution_patching", {"n": 4}),
    ("ablation", {"n": 4}),
    ("steering", {"n": 4, "steps": 32}),
]


def make(folder: Path, layers: int, width: int) -> None:
    """A random Llama of this size with a tokenizer of the words of IOI."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.conftest import save_tokenizer

    save_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        max_position_embeddings=2048,
        initializer_range=0.02,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).eval().save_pretrained(folder)


def timed(recipe: str, given: dict[str, Any], model: ModelSpec, home: Path) -> tuple[float, Any]:
    """Seconds of the second run, and its result."""
    for index in (0, 1):
        os.environ["REMOTE_MI_CACHE"] = str(home / f"cache-{time.monotonic_ns()}")
        project = home / f"project-{time.monotonic_ns()}"
        project.mkdir()
        begun = time.perf_counter()
        asked = {k: v for k, v in given.items() if k != "n"}
        result = mi.run(
            recipe, model=model, phenomenon="ioi:store", n=given["n"], project=project, **asked
        )
        seconds = time.perf_counter() - begun
        if index:
            return seconds, result
    raise AssertionError


def main() -> None:
    """Print a table: job, seconds on both, ratio, largest difference."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--layers", type=int, default=30)
    options.add_argument("--width", type=int, default=576)
    asked = options.parse_args()
    assert phenomena is not None
    devices = [("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")]
    if not torch.cuda.is_available():
        devices = devices[:1]
    print(torch.__version__, torch.cuda.get_device_name() if len(devices) > 1 else "no CUDA device")
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        (home / "model").mkdir()
        make(home / "model", asked.layers, asked.width)
        found: dict[tuple[int, str], tuple[float, Any]] = {}
        for device, dtype in devices:
            model = ModelSpec(str(home / "model"), device=device, dtype=dtype)
            for index, (recipe, given) in enumerate(JOBS):
                found[index, f"{device} {dtype}"] = timed(recipe, given, model, home)
        for index, (recipe, given) in enumerate(JOBS):
            cells = []
            first = found[index, "cpu float32"]
            for device, dtype in devices:
                seconds, result = found[index, f"{device} {dtype}"]
                name = result.names()[0]
                apart = float(
                    np.nanmax(
                        np.abs(
                            result.arrays[f"{next(iter(result.outputs))}@0"]
                            - first[1].arrays[f"{next(iter(result.outputs))}@0"],
                            dtype=np.float64,
                        )
                    )
                )
                cells.append(
                    f"{device} {dtype} {seconds:7.2f} s ({first[0] / seconds:5.1f}x, "
                    f"{name} apart {apart:.1e})"
                )
            print(f"{recipe:22} {given}  " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()

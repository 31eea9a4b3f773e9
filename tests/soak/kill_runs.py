"""Kill one job at many random moments and check that no half result is ever taken for whole.

    python tests/soak/kill_runs.py --times 30

Run by hand; the suite has three moments of the same test.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Make a tiny model, kill a job of it many times, print what was survived."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--times", type=int, default=30)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()

    import torch
    from transformers import AutoModelForCausalLM

    from remote_mi.models.tiny_models import configuration
    from tests.conftest import save_tokenizer
    from tests.fast.store.test_store import killed_at_random

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiny-llama"
        torch.manual_seed(0)
        size = save_tokenizer(model)
        AutoModelForCausalLM.from_config(configuration("llama", size)).save_pretrained(model)
        cache, project = Path(folder) / "cache", Path(folder) / "project"
        project.mkdir()
        os.environ["REMOTE_MI_CACHE"] = str(cache)
        os.environ["REMOTE_MI_PROJECT"] = str(project)
        begun = time.monotonic()
        killed_at_random(project, cache, model, times=given.times, seed=given.seed)
        print(
            f"{given.times} kills in {time.monotonic() - begun:.0f} s: the store stayed valid, "
            "no partial run was listed, and the final numbers are those of an undisturbed run"
        )


if __name__ == "__main__":
    main()

"""Kill a study of forty jobs at many random moments and count what ran.

    python tests/soak/kill_studies.py --times 30

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
    """Make a tiny model, kill a study on it many times, print what was survived."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--times", type=int, default=30)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()

    import torch
    from transformers import AutoModelForCausalLM

    from remote_mi.models.tiny_models import configuration
    from tests.conftest import save_tokenizer
    from tests.fast.jobs.test_studies import calls, killed_at_random

    with tempfile.TemporaryDirectory() as folder:
        model, project = Path(folder) / "tiny-llama", Path(folder) / "project"
        torch.manual_seed(0)
        size = save_tokenizer(model)
        AutoModelForCausalLM.from_config(configuration("llama", size)).save_pretrained(model)
        project.mkdir()
        os.environ["REMOTE_MI_CACHE"] = str(Path(folder) / "cache")
        os.environ["REMOTE_MI_PROJECT"] = str(project)
        begun = time.monotonic()
        killed_at_random(project, model, times=given.times, seed=given.seed)
        print(
            f"{given.times} kills in {time.monotonic() - begun:.0f} s: 40 jobs, 40 runs, "
            f"{sum(calls(project).values())} calls"
        )


if __name__ == "__main__":
    main()

"""Kill clients of a genuine server at random moments; check that no job is lost or sent unseen.

    python tests/soak/kill_clients.py --times 20

Run by hand; the suite has three moments of the same test. Each command is killed twice before it
may come to its end, at moments between the start of the process and the end of the job.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

NAMES = ["Mary", "John", "Jack", "Lucy", "Kate"]
PROMPTS = [f"When {a} and {b} went to the store" for a in NAMES for b in NAMES if a != b]


def command(prompt: str) -> list[object]:
    """A command that runs the recipe on the server."""
    from tests.ndif.conftest import TINY_LLAMA

    return [
        "run",
        "slow",
        "--model",
        TINY_LLAMA,
        "--backend",
        "ndif",
        "-p",
        f"prompt={prompt}",
        "--json",
    ]


def killed(terminal, prompts: list[str], times: int, seed: int) -> list[str]:
    """Kill each command twice; returns what each kill left behind.

    The first kill comes within a quarter of a second after the job is written down, which is
    when it is sent; the second at any moment of the command.
    """
    generator, found = random.Random(seed), []
    whole = 0.0
    for prompt in ("When John went", "When Mary went"):  # the first one has the model deployed
        begun = time.monotonic()
        assert terminal.run(*command(prompt)).returncode == 0
        whole = time.monotonic() - begun
    for index in range(times):
        before = len(terminal.ledger.all())
        process = terminal.start(*command(prompts[index // 2]))
        if index % 2 == 0:
            until = time.monotonic() + 30
            while len(terminal.ledger.all()) == before and time.monotonic() < until:
                time.sleep(0.002)
            time.sleep(generator.uniform(0, 0.25))
        else:
            time.sleep(generator.uniform(0.3, 1.0) * whole)
        process.kill()
        process.communicate(timeout=10)
        entries = terminal.ledger.all()
        newest = entries[-1]
        found.append(f"{newest.state} {newest.status}".strip().lower())
    return found


def checked(terminal, prompts: list[str], model: Path) -> None:
    """Every command ends well, with the numbers of a local run."""
    import numpy as np

    import remote_mi as mi

    for prompt in prompts:
        done = terminal.run(*command(prompt))
        assert done.returncode == 0, done.stderr
        values = json.loads(done.stdout)["outputs"]["norm"]["values"]
        local = mi.run(
            "slow", model=str(model), prompt=prompt, backend="local", project=terminal.project
        )
        np.testing.assert_allclose(values, local["norm"].values, atol=1e-5)


def consistent(entries) -> Counter[str]:
    """Check the ledger; returns how many entries are in which state."""
    by_key: dict[str, list] = {}
    for entry in entries:
        by_key.setdefault(entry.key, []).append(entry)
    for same in by_key.values():
        assert [e.state for e in same].count("done") == 1, same
        assert same[-1].state == "done"
        for before, after in pairwise(same):
            assert before.state == "failed" and before.error["kind"] == "SubmissionUnknown", before
            assert before.created <= after.created
    return Counter(e.state for e in entries)


def main() -> None:
    """Start a server, kill clients of it, print what was survived."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--times", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()

    import torch
    from transformers import AutoModelForCausalLM

    from remote_mi.backends.ndif_server import Server, ensure_venv
    from remote_mi.common.paths import server_folder
    from remote_mi.common.progress import Silent
    from remote_mi.models.tiny_models import configuration
    from tests.conftest import save_tokenizer
    from tests.ndif.conftest import TINY_LLAMA, Terminal
    from tests.ndif.surgery import Slow

    venv = ensure_venv(server_folder(), Silent())
    with tempfile.TemporaryDirectory() as folder:
        model, project = Path(folder) / "tiny-llama", Path(folder) / "project"
        torch.manual_seed(0)
        size = save_tokenizer(model)
        AutoModelForCausalLM.from_config(configuration("llama", size)).save_pretrained(model)
        project.mkdir()
        os.environ["REMOTE_MI_CACHE"] = str(Path(folder) / "cache")
        os.environ["REMOTE_MI_PROJECT"] = str(project)
        slow = Slow(project, seconds=1.5)
        prompts = PROMPTS[: (given.times + 1) // 2]
        begun = time.monotonic()
        with Server(Path(folder) / "server", venv=venv).start({TINY_LLAMA: model}) as server:
            terminal = Terminal(server, project)
            try:
                found = killed(terminal, prompts, given.times, given.seed)
                checked(terminal, prompts, model)
                states = consistent(terminal.ledger.all())
            finally:
                terminal.end_collector()
        done = states["done"]
        assert done == len(prompts) + 2 and slow.runs == done, (states, slow.runs)
        print(
            f"{given.times} kills in {time.monotonic() - begun:.0f} s; they left their "
            f"jobs {dict(Counter(found))}"
        )
        print(
            f"{done} jobs: every one ran once and gave the numbers of a local run; "
            f"{states['failed']} submissions were cut off and noted as not arrived"
        )


if __name__ == "__main__":
    main()

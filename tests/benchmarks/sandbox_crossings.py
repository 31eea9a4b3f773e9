"""What a job costs on a server, and what the sandbox of its untrusted users adds.

The residual patching sweep (30×14) of one pair, on the embedded model, with as many threads each:

    local      in this process
    plain      as one job of a server that checks no keys
    sandbox    as one job of an ordinary key: the recipe runs in a process of its own there, and
               every activation that it reads or writes is sent from one to the other and back

The servers are genuine ones on this machine. A process for a job is started in advance; each job
waits until that is done (`--pause`), so the time of a job is that of a server at rest. The
goals: plain at most 1.15 × local + 0.5 s, sandbox at most 3 × plain. What the three give is
compared. At last, the cost of one read inside the sandbox is taken apart, from passes that read
every layer's output and passes that read none, with small activations and with large ones.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from _common import (
    arguments,
    at_least_one,
    conditions,
    describe,
    load_embedded,
    report,
    spread,
    tokenized,
    work_of,
)

REPO_ID = "remote-mi/smollm2-135m-q4_1"
WORKER = Path(__file__).with_name("_crossings_worker.py")
TOLERANCE = 1e-5


class Client:
    """A process that sends jobs to one server, one at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), REPO_ID],
            env={**os.environ, **environment},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to one request (see the worker's own docstring)."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline() or '{"error": "the client ended"}')
        if "error" in answer:
            sys.exit(f"the job failed: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)


@contextmanager
def served(state: Path, folder: Path, threads: int, auth: bool) -> Iterator[Client]:
    """A client of a server that is started for it."""
    from remote_mi.backends.ndif_server import Server

    print(f"starting {state.name}", file=sys.stderr)
    with Server(state, auth=auth, threads=threads).start({REPO_ID: folder}) as server:
        client = Client(server.client_env())
        try:
            yield client
        finally:
            client.close()


def measure(
    lm: Any, work: Any, clients: dict[str, Client], repeat: int, pause: float, scratch: Path
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each way in each round, and how far its outputs are from the local ones."""
    from remote_mi.backends.session import run_session

    taken: dict[str, list[float]] = {"local": [], **{name: [] for name in clients}}
    apart = dict.fromkeys(clients, 0.0)
    for index in range(-1, repeat):  # the first round is the warm-up
        with torch.no_grad():
            begun = time.perf_counter()
            outputs = run_session(lm, work)[0]
            times = {"local": time.perf_counter() - begun}
        for name, client in clients.items():
            to = scratch / f"{name}.pt"
            times[name] = client.ask("sweep", to=str(to))["seconds"]
            given = torch.load(to, weights_only=True)
            apart[name] = max(apart[name], _difference(outputs, given))
            time.sleep(pause)
        if index >= 0:
            for name, took in times.items():
                taken[name].append(took)
    return taken, apart


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[n].double() - theirs[n].double()).abs().max()) for n in ours)


def cost_of_a_read(probed: dict[str, Any]) -> tuple[float, float]:
    """Milliseconds of reading an activation, there and back: fixed, and for each megabyte."""
    costs = []
    for taken in probed["seconds"]:
        without, reading = (min(column) for column in zip(*taken, strict=True))
        costs.append(1000 * (reading - without) / probed["layers"])
    small, large = (number / 1e6 for number in probed["bytes"])
    per_megabyte = (costs[1] - costs[0]) / (large - small)
    return costs[0] - per_megabyte * small, per_megabyte


def main() -> None:
    from remote_mi.common.progress import Silent
    from remote_mi.models.embedded import ensure_embedded

    parser = arguments(__doc__)
    parser.add_argument("--repeat", type=at_least_one, default=7, help="rounds [%(default)s]")
    parser.add_argument("--threads", type=at_least_one, default=2, help="[%(default)s]")
    parser.add_argument(
        "--pause",
        type=float,
        default=8,
        metavar="S",
        help="seconds of rest after each job [%(default)s]",
    )
    args = parser.parse_args()
    model = load_embedded(args.threads)
    work = work_of("activation_patching", tokenized(model, "pair"))
    folder = ensure_embedded(Silent())
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crossings-")))
        clients = {
            name: stack.enter_context(served(scratch / name, folder, args.threads, auth))
            for name, auth in (("plain", False), ("sandbox", True))
        }
        time.sleep(args.pause)
        found = conditions("nnsight", "transformers", "torch")
        times, apart = measure(model.lm, work, clients, args.repeat, args.pause, scratch)
        probed = clients["sandbox"].ask("probe", rows=[1, 96], tokens=8, repeat=7)
    fixed, per_megabyte = cost_of_a_read(probed)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    ratios = {
        "plain": medians["plain"] / medians["local"],
        "sandbox": medians["sandbox"] / medians["plain"],
    }
    rows = [["local", f"{medians['local']:.3f}", spread(times["local"]), "", "", ""]]
    for name, other in (("plain", "local"), ("sandbox", "plain")):
        least = min(times[name]) / min(times[other])
        rows.append(
            [
                name,
                f"{medians[name]:.3f}",
                spread(times[name]),
                f"{ratios[name]:.2f}",
                f"{least:.2f}",
                f"{apart[name]:.1e}",
            ]
        )
    report(
        f"one sweep of 30×14 cells, median seconds of {args.repeat} rounds",
        ["where", "seconds", "range", "over the one above", "of minima", "max |difference|"],
        rows,
        [
            f"a read in the sandbox, there and back: {fixed:.2f} ms and {per_megabyte:.2f} ms/MB",
            f"goals: plain ≤ {1.15 * medians['local'] + 0.5:.3f} s, sandbox ≤ 3 × plain; "
            f"{args.threads} threads",
            describe(found),
        ],
        {
            "conditions": found,
            "threads": args.threads,
            "seconds": times,
            "medians": medians,
            "ratios": ratios,
            "max_difference": apart,
            "read_ms": fixed,
            "read_ms_per_megabyte": per_megabyte,
            "probe": probed,
        },
        args.json,
    )
    if max(apart.values()) > TOLERANCE:
        sys.exit(f"the outputs differ by {max(apart.values()):.1e}")


if __name__ == "__main__":
    main()

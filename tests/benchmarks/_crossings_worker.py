"""A client of one NDIF server in a process of its own: reads one JSON request a line, answers.

Its libraries read the server's address when they are imported, hence the process.

    {"do": "sweep", "to": FILE}      the residual sweep as one job: seconds; its outputs in FILE
    {"do": "probe", "rows": [1, 96], "tokens": 8, "repeat": 5}
                                     what reading an activation costs inside a job, by batch size
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any

import nnsight
import torch
from _common import seconds, tokenized, work_of
from nnsight.intervention.backends.remote import RemoteBackend

from remote_mi.backends.session import run_session
from remote_mi.common.progress import Silent
from remote_mi.models.load import build_weightless
from remote_mi.models.spec import ModelSpec


def time_reads(lm: Any, rows: int, tokens: int, repeat: int) -> list[list[float]]:
    """Seconds of a pass in which nothing is read, and of one that reads every layer's output.

    Returns:
        [repeat, 2].
    """
    ids = torch.full((rows, tokens), 17)
    taken = []
    for _ in range(repeat):
        both = []
        for layers in ((), lm.layers):
            begun = time.perf_counter()
            with lm.trace(input_ids=ids, use_cache=False):
                for layer in layers:
                    layer.output  # noqa: B018 - that it is read is the point
                lm.lm_head.skip(torch.empty(0))
                lm.output = None
            both.append(time.perf_counter() - begun)
        taken.append(both)
    return taken


class Worker:
    """Holds the model's description between requests."""

    def __init__(self, repo_id: str) -> None:
        spec = ModelSpec(repo_id, bos="never")
        self.model = build_weightless(spec, Silent())
        self.work = work_of("activation_patching", tokenized(self.model, "pair"))

    def sweep(self, to: str) -> dict[str, Any]:
        """Send the job and wait for its result."""
        outputs: list[Any] = []
        taken, busy = seconds(lambda: outputs.extend(self._job()))
        torch.save(outputs[0], to)
        return {"seconds": taken, "cpu_seconds": busy}

    def _job(self) -> list[Any]:
        return run_session(self.model.lm, self.work, self._backend())

    def probe(self, rows: list[int], tokens: int, repeat: int) -> dict[str, Any]:
        """For each number of rows, the bytes of an activation and `time_reads`, timed there."""
        lm, found = self.model.lm, []
        with lm.session(backend=self._backend()):
            found = [time_reads(lm, number, tokens, repeat) for number in rows]
            nnsight.save(found)
        width = 4 * lm.config.hidden_size
        return {
            "bytes": [number * tokens * width for number in rows],
            "seconds": found,
            "layers": len(lm.layers),
        }

    def _backend(self) -> RemoteBackend:
        lm = self.model.lm
        return RemoteBackend(lm.to_model_key(), env=lm._remoteable_get_env())


def main() -> None:
    """Answer until the requests end."""
    # Libraries print; only answers may reach the other side.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(sys.argv[1])
    actions = {"sweep": worker.sweep, "probe": worker.probe}
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        with contextlib.suppress(KeyboardInterrupt):
            try:
                answer = actions[request.pop("do")](**request)
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

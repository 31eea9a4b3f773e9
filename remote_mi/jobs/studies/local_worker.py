"""A separate process that runs the local jobs of a study on one model, one after the other.

Command line: `python -m remote_mi.jobs.studies.local_worker PROJECT`. It reads jobs as lines of
JSON from stdin, and reports their progress on stdout. The model is loaded once, its memory is freed
when the process exits, and a crash affects only the current job. It exits as soon as its parent
does, so that no job is still being computed when the study is run again.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from remote_mi.common.errors import RemoteMIError
from remote_mi.common.valid_json import to_json
from remote_mi.jobs.building import make_job
from remote_mi.jobs.runner import execute
from remote_mi.jobs.studies.points import Point
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.choice import PromptChoice

MODULE = "remote_mi.jobs.studies.local_worker"


def job_message(point: Point, key: str, backend: str) -> dict[str, Any]:
    """The message that sends a point to a lane.

    Args:
        key: the expected key of its job. backend: where it runs.
    """
    return {
        "job": point.index,
        "recipe": f"{point.card.path}:{point.card.name}",
        "model": asdict(point.model),
        "choice": asdict(point.choice),
        "parameters": dict(point.parameters),
        "key": key,
        "backend": backend,
    }


class _LaneReporter:
    """Reports the progress of a job on the real stdout; also the runner's `Watch`."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.job = out, -1

    def send(self, **what: Any) -> None:
        self.out.write(to_json({"job": self.job, **what}) + "\n")
        self.out.flush()

    def stage(self, text: str) -> None:
        self.send(stage=text)

    def advance(self, done: int, total: int, unit: str) -> None:
        self.send(done=done, total=total, unit=unit)

    def note(self, text: str) -> None:
        pass


def serve(project: Path, out: TextIO) -> None:
    """Run jobs from stdin until there are no more."""
    waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            message = json.loads(line)
            waiting.put(message or None)
        if waiting.empty() or waiting.queue[-1] is not None:
            os._exit(1)  # the parent is gone, and sent no end message

    threading.Thread(target=listen, daemon=True).start()
    reports = _LaneReporter(out)
    while (message := waiting.get()) is not None:
        reports.job = message["job"]
        try:
            job = make_job(
                message["recipe"],
                ModelSpec(**message["model"]),
                PromptChoice(**message["choice"]),
                message["parameters"],
                project,
            )
            if job.key != message["key"]:
                reports.send(
                    state="failed",
                    error=f"{job.card.name} has changed since the study was "
                    "planned; run the study again",
                )
                continue
            result = execute(job, message["backend"], None, reports)
            reports.send(state="done", run=result.run_id)
        except RemoteMIError as error:
            reports.send(state="failed", error=str(error))
        except Exception as error:  # a bug must not affect the other jobs
            reports.send(state="failed", error=f"unexpected {type(error).__name__}: {error}")


def main() -> None:
    """Serve, with libraries' output redirected from stdout to stderr."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(Path(sys.argv[1]), out)
    out.close()
    os._exit(0)  # the listening thread never returns


if __name__ == "__main__":
    main()

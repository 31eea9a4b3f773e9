"""A process of its own in which the local jobs of a study on one model run, one after the other.

Started as `python -m remote_mi.jobs.studies.local_worker PROJECT`; it takes jobs as lines of JSON on
stdin, and says on stdout how they go. The model is loaded once, its memory is given back when the process ends, and
a crash takes down no more than the job at hand. It ends at once when its parent does, so that
nobody else finds one of its jobs still being computed.
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
from remote_mi.jobs.building import make_job
from remote_mi.jobs.runner import execute
from remote_mi.jobs.studies.points import Point
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.choice import PromptChoice

MODULE = "remote_mi.jobs.studies.local_worker"


def job_message(point: Point, key: str, backend: str) -> dict[str, Any]:
    """What a lane is told of a point.

    Args:
        key: that its job should have. backend: where it runs.
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


class _Reports:
    """Says on the real stdout how a job goes; a watch for the runner, too."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.job = out, -1

    def say(self, **what: Any) -> None:
        self.out.write(json.dumps({"job": self.job, **what}) + "\n")
        self.out.flush()

    def stage(self, text: str) -> None:
        self.say(stage=text)

    def advance(self, done: int, total: int, unit: str) -> None:
        self.say(done=done, total=total, unit=unit)

    def note(self, text: str) -> None:
        pass


def serve(project: Path, out: TextIO) -> None:
    """Take jobs from stdin until there are no more."""
    waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            told = json.loads(line)
            waiting.put(told or None)
        if waiting.empty() or waiting.queue[-1] is not None:
            os._exit(1)  # the parent is gone, and did not say that this was all

    threading.Thread(target=listen, daemon=True).start()
    reports = _Reports(out)
    while (told := waiting.get()) is not None:
        reports.job = told["job"]
        try:
            job = make_job(
                told["recipe"],
                ModelSpec(**told["model"]),
                PromptChoice(**told["choice"]),
                told["parameters"],
                project,
            )
            if job.key != told["key"]:
                reports.say(
                    state="failed",
                    error=f"{job.card.name} changed since the study was "
                    "planned; run the study again",
                )
                continue
            result = execute(job, told["backend"], None, reports)
            reports.say(state="done", run=result.run_id)
        except RemoteMIError as error:
            reports.say(state="failed", error=str(error))
        except Exception as error:  # a mistake of ours must not take the other jobs along
            reports.say(state="failed", error=f"unexpected {type(error).__name__}: {error}")


def main() -> None:
    """Serve, with everything that libraries print kept off the channel."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(Path(sys.argv[1]), out)
    out.close()
    os._exit(0)  # the thread that listens never returns


if __name__ == "__main__":
    main()

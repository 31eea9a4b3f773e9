"""Starting the collector: one small process a project that outlives terminals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from remote_mi.backends.ledger import Ledger

_MODULE = "remote_mi.jobs.collector"


def start(project: Path) -> None:
    """See to it that a collector runs for the project; of several, all but one end at once.

    It gets no key: what it asks a server for needs none.
    """
    folder = Ledger(project).folder
    environment = {k: v for k, v in os.environ.items() if k != "NDIF_API_KEY"}
    try:
        with (folder / "collector.log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(project)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=project,
                start_new_session=True,
            )
    except OSError:
        pass  # without it, the next command collects

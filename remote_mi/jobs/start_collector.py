"""Starting the collector: one small process per project that outlives terminals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from remote_mi.backends.ledger import Ledger
from remote_mi.backends.registry import kinds

_MODULE = "remote_mi.jobs.collector"


def start(project: Path) -> None:
    """Start a collector for the project; it exits at once if another one is running.

    Secrets that a backend does not need for collecting are removed from its environment.
    """
    folder = Ledger(project).folder
    secrets = {name for kind in kinds() for name in kind.secrets}
    environment = {k: v for k, v in os.environ.items() if k not in secrets}
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
        pass  # without a collector, the next command collects

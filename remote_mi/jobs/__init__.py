"""From a job to its result: build, look up, plan, execute, save. Backends do the computing.

The package is callable as `remote_mi.jobs()`, which lists the jobs on servers: a package and a
function of the same name would hide each other, depending on which was imported last.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remote_mi.jobs.remote import RemoteJob


class _Jobs(ModuleType):
    def __call__(self, project: str | Path | None = None) -> list[RemoteJob]:
        """The remote jobs of a project, oldest first; forgotten ones are left out.

        Args:
            project: folder that contains runs/; the working folder by default.
        """
        from remote_mi.jobs.api import list_jobs

        return list_jobs(project)


sys.modules[__name__].__class__ = _Jobs

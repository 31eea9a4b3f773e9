"""A backend as another package brings one: each job in a process that outlives its terminal.

The whole of it is this file and the entry point beside it.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from remote_mi.backends.base import Backend, Work
from remote_mi.backends.checking import Check
from remote_mi.backends.detached import COMPLETED, DetachedBackend
from remote_mi.backends.errors import JobFailed
from remote_mi.backends.kind import BackendKind, ModelColumn, ModelList
from remote_mi.backends.ledger import Entry
from remote_mi.backends.local.backend import LocalBackend
from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Silent, Watch
from remote_mi.models.spec import ModelSpec
from remote_mi.store.environment import PACKAGES, Environment, installed_version


class BoxKind(BackendKind):
    """Processes of this machine, in a box or in one of several: `box`, `box:NAME`."""

    name = "box"
    detaches = True
    is_server = True
    secrets = ("BOX_PASSWORD",)

    @property
    def option_values(self) -> tuple[str, ...]:
        return ("box", "box:NAME")

    def normalize_where(self, where: str) -> str:
        if not where.isalnum():
            raise UsageError(f"{where!r} is the name of no box", "a name has letters and digits")
        return where.lower()

    def backend(self, where: str, project: Path, rows_bytes: int | None = None) -> Backend:
        return Box(f"box {where}".strip(), project)

    def checks(self, where: str, spec: ModelSpec | None) -> Iterator[Check]:
        yield Check("processes", "ok", f"{len(psutil.pids())} run beside the box {where}".strip())

    def models(self, where: str) -> ModelList:
        columns = (ModelColumn("model"), ModelColumn("size", 8, right=True))
        return ModelList([("any", "?")], {"models": ["any"]}, "remote-mi demo", columns)


class CrateKind(BackendKind):
    """The least that a kind can be: it runs while it is waited for, and there is one of it."""

    name = "crate"

    def backend(self, where: str, project: Path, rows_bytes: int | None = None) -> Backend:
        return Crate(rows_bytes)


class Crate(LocalBackend):
    """Executes here, under a name of its own, where its results are no others'."""

    name = "crate"

    def environment(self, spec: ModelSpec) -> Environment:
        return Environment("crate", *(installed_version(package) for package in PACKAGES))

    def environments(self, spec: ModelSpec) -> list[Environment]:
        return [self.environment(spec)]

    def actual_environment(self, spec: ModelSpec, record: Mapping[str, Any]) -> Environment:
        return self.environment(spec)


class Box(DetachedBackend):
    """Executes in a process of its own."""

    def environment(self, spec: ModelSpec) -> Environment:
        return Environment(self.name, *(installed_version(package) for package in PACKAGES))

    def send(self, entry: Entry, model: Any, work: Work, watch: Watch) -> None:
        if work.card.path is None:
            raise UsageError("a box takes recipes of files", "write it into one")
        folder = self._folder(entry)
        folder.mkdir(parents=True)
        told = (work.card, work.calls, dict(work.parameters), work.project, work.spec)
        (folder / "work").write_bytes(pickle.dumps(told))
        with (folder / "log").open("wb") as log:
            started = subprocess.Popen(
                [sys.executable, __file__, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (folder / "pid").write_text(str(started.pid))

    def was_received(self, entry: Entry) -> bool:
        return (self._folder(entry) / "pid").exists()

    def poll(self, entry: Entry, watch: Watch) -> None:
        folder = self._folder(entry)
        if (folder / "outputs.npz").exists():
            self.set_status(entry, COMPLETED)
        elif _runs(int((folder / "pid").read_text())):
            self.set_status(entry, "RUNNING")
        elif not (folder / "outputs.npz").exists():  # it may just have ended
            last = [*(folder / "log").read_text().strip().splitlines(), "it ended"][-2:][0]
            raise self.mark_failed(
                entry, JobFailed(f"job {entry.id[:8]} failed in its box: {last}")
            )

    def outputs(self, entry: Entry) -> Iterator[Mapping[str, Any]]:
        with np.load(self._folder(entry) / "outputs.npz") as kept:
            for call in range(entry.calls):
                names = [name for name in kept.files if name.startswith(f"{call}/")]
                yield {name.partition("/")[2]: kept[name] for name in names}

    def stop(self, entry: Entry) -> None:
        pid = int((self._folder(entry) / "pid").read_text())
        if _runs(pid):
            psutil.Process(pid).kill()

    def _folder(self, entry: Entry) -> Path:
        return self.ledger.folder / "box" / entry.id


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main(folder: Path) -> None:
    """Run the job of a folder, and leave what it gives beside it."""
    from remote_mi.backends.session import run_session
    from remote_mi.models.load import load
    from remote_mi.recipes.loading import load_function

    card, calls, parameters, project, spec = pickle.loads((folder / "work").read_bytes())
    work = Work(card, load_function(card, project), calls, parameters, "", project, spec)
    given = run_session(load(spec, Silent()).lm, work)
    arrays = {
        f"{call}/{name}": np.asarray(value)
        for call, outputs in enumerate(given)
        for name, value in outputs.items()
    }
    with (folder / "partial").open("wb") as file:
        np.savez(file, **arrays)
    (folder / "partial").replace(folder / "outputs.npz")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

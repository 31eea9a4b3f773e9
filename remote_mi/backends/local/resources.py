"""This machine's resources: the memory of its devices. Measured without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from remote_mi.models.spec import local_device

#: Columns queried from NVIDIA's driver.
_GPU_QUERY = "index,uuid,name,memory.total,memory.free"
_QUERY_TIMEOUT_S = 10.0
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Device:
    """A device that can hold a model.

    Attributes:
        name: as torch names it: "cpu", "cuda:0", "mps". total, free: bytes.
        label: product name, e.g. "NVIDIA H100 80GB HBM3".
    """

    name: str
    total: int
    free: int
    label: str = ""

    @property
    def kind(self) -> str:
        """Class of device: "cpu", "cuda" or "mps"."""
        return self.name.split(":")[0]


@dataclass(frozen=True)
class Resources:
    """What this machine has.

    Attributes:
        devices: those that can compute, best first; always includes the CPU.
        disk_free: bytes free where downloaded models are stored.
    """

    devices: tuple[Device, ...]
    disk_free: int

    def of_kind(self, kind: str) -> list[Device]:
        """The devices of a class, in order."""
        return [device for device in self.devices if device.kind == kind]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(model_cache: Path) -> Resources:
    """The current resources of this machine.

    Args:
        model_cache: where downloaded models are stored; it need not exist.
    """
    total, free = main_memory()
    devices = [Device("cpu", total, free, "main memory")]
    kind = local_device()
    if kind == "cuda":
        devices = [*gpus(), *devices]
    elif kind == "mps":  # shares the main memory
        devices = [Device("mps", total, free, "Apple GPU"), *devices]
    existing = next(p for p in (model_cache, *model_cache.parents) if p.exists())
    return Resources(tuple(devices), shutil.disk_usage(existing).free)


def main_memory() -> tuple[int, int]:
    """Total and available main memory in bytes, within a container's limit if there is one."""
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit = _read_int(_CGROUP / "memory.max")
    used = _read_int(_CGROUP / "memory.current")
    if limit is not None and used is not None and limit < total:
        cache = _inactive_file()
        total, free = limit, min(free, max(0, limit - used + cache))
    return total, free


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no container, or "max"
        return None


def _inactive_file() -> int:
    """Bytes of cached files in the container's count, which are freed when memory is needed."""
    try:
        for line in (_CGROUP / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "inactive_file":
                return int(value)
    except (OSError, ValueError):
        pass
    return 0


def gpus() -> list[Device]:
    """The CUDA devices visible to torch, as the driver reports them; [] if it does not answer."""
    try:
        output = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_QUERY_TIMEOUT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return visible_gpus(output, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible_gpus(output: str, visible: str | None) -> list[Device]:
    """Parse the CUDA devices from the driver's output.

    Args:
        output: one line per device, in the columns of `_GPU_QUERY`, memory in MiB.
        visible: CUDA_VISIBLE_DEVICES: indices or the beginnings of UUIDs, in the order in which
            torch numbers them; None for all. As in CUDA, entries after an invalid one are ignored.
    """
    found: list[tuple[str, str, str, int, int]] = []
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        try:
            index, uuid, name, total, free = cells
            found.append((index, uuid, name, int(total) << 20, int(free) << 20))
        except ValueError:
            continue
    chosen = found if visible is None else _select_visible(found, visible.split(","))
    return [
        Device(f"cuda:{i}", total, free, name) for i, (_, _, name, total, free) in enumerate(chosen)
    ]


def _select_visible(
    found: Sequence[tuple[str, str, str, int, int]], wanted: Sequence[str]
) -> list[tuple[str, str, str, int, int]]:
    chosen = []
    for word in (w.strip() for w in wanted):
        gpu = next((g for g in found if word and (g[0] == word or g[1].startswith(word))), None)
        if gpu is None:
            break
        chosen.append(gpu)
    return chosen

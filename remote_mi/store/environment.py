"""Where a result is computed: the class of machine and the versions that decide its numbers."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

from remote_mi.common.digests import digest
from remote_mi.common.versions import major_minor

PACKAGES = ("nnsight", "transformers", "torch")


@dataclass(frozen=True)
class Environment:
    """An environment; results of one are taken for another only when `id` is the same.

    Attributes:
        kind: "local-cpu", "local-cuda", "local-mps", or "ndif " + host.
        nnsight, transformers, torch: versions there.
    """

    kind: str
    nnsight: str
    transformers: str
    torch: str

    @functools.cached_property
    def id(self) -> str:
        """Short identity by kind and minor versions."""
        minors = [major_minor(getattr(self, name)) for name in PACKAGES]
        return digest([self.kind, *minors])[:16]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.kind} (nnsight {self.nnsight}, transformers {self.transformers}, torch {self.torch})"


@functools.cache
def installed(package: str) -> str:
    """Version of an installed package, found without importing it; "none" when absent."""
    from importlib.metadata import PackageNotFoundError, version  # slow, and not always needed

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def local_environment(device: str) -> Environment:
    """The environment of a run on this machine on a device such as "cpu" or "cuda:0"."""
    return Environment(f"local-{device.split(':')[0]}", *(installed(p) for p in PACKAGES))

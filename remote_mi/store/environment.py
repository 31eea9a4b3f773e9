"""The environment a result is computed in: class of machine, and versions that affect numbers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from remote_mi.common.digests import digest
from remote_mi.common.versions import major_minor

PACKAGES = ("nnsight", "transformers", "torch")


@dataclass(frozen=True)
class Environment:
    """An environment; a result is reused in another one only if both have the same `id`.

    Attributes:
        kind: "local-cpu", "local-cuda", "local-mps", or "ndif " + host.
        nnsight, transformers, torch: the versions installed there.
    """

    kind: str
    nnsight: str
    transformers: str
    torch: str

    @functools.cached_property
    def id(self) -> str:
        """Short hash of the kind and the major_minor versions."""
        minors = [major_minor(getattr(self, name)) for name in PACKAGES]
        return digest([self.kind, *minors])[:16]

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> Environment:
        """An environment from the output of `to_json`; what another version added is ignored.

        Raises:
            KeyError, TypeError: if `data` is not one.
        """
        return cls(**{item.name: data[item.name] for item in fields(cls)})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.kind} (nnsight {self.nnsight}, transformers {self.transformers}, torch {self.torch})"


@functools.cache
def installed_version(package: str) -> str:
    """The version of an installed package, read without importing it; "none" if absent."""
    from importlib.metadata import PackageNotFoundError, version  # slow, and not always needed

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def local_environment(device: str) -> Environment:
    """The environment of runs on a device of this machine, such as "cpu" or "cuda:0"."""
    return Environment(f"local-{device.split(':')[0]}", *(installed_version(p) for p in PACKAGES))

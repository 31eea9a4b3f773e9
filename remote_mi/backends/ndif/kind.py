"""NDIF servers as a kind of backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_mi.backends.kind import BackendKind, KeyStore, ModelList
from remote_mi.backends.settings.values import normalize_host
from remote_mi.common.errors import RemoteMIError, StoreError
from remote_mi.models.spec import ModelSpec

if TYPE_CHECKING:
    from remote_mi.backends.checking import Check
    from remote_mi.backends.detached import DetachedBackend
    from remote_mi.backends.ledger import Entry
    from remote_mi.backends.ndif.backend import NdifBackend
    from remote_mi.backends.settings.values import Settings


class NdifKind(BackendKind):
    """NDIF servers: the one that nnsight is configured for, the personal one, any by its address."""

    name = "ndif"
    detaches = True
    is_server = True
    secrets = ("NDIF_API_KEY",)

    @property
    def option_values(self) -> tuple[str, ...]:
        return ("ndif", "ndif:here", "ndif:URL")

    def normalize_where(self, where: str) -> str:
        return normalize_host(where)

    def auto_candidates(self, settings: Settings) -> list[str]:
        """The hosts in the settings; else a running personal server and the configured one."""
        if settings.hosts is not None:
            return [f"ndif:{host}" for host in settings.hosts]
        from remote_mi.backends.ndif_server import personal

        running = [f"ndif:{personal.HERE}"] if personal.running_server(personal.HERE) else []
        return [*running, "ndif"]

    def backend(self, where: str, project: Path, rows_bytes: int | None = None) -> NdifBackend:
        from remote_mi.backends.ndif.backend import NdifBackend

        return NdifBackend.for_host(where or None, project)

    def backend_of(self, entry: Entry, project: Path) -> DetachedBackend:
        from remote_mi.backends.ndif.backend import NdifBackend
        from remote_mi.backends.ndif.hosts import Host, is_address

        if not is_address(entry.url):
            raise StoreError(
                f"the ledger has {entry.url!r:.80} as the address of job {entry.id[:8]}",
                "run its command again",
            )
        return NdifBackend(Host(entry.url, entry.host), project)

    def error_of(self, record: Mapping[str, Any]) -> RemoteMIError:
        import remote_mi.backends.ndif.errors  # noqa: F401 - defines the error classes

        return super().error_of(record)

    def checks(self, where: str, spec: ModelSpec | None) -> Iterator[Check]:
        from remote_mi.backends.ndif.checks import checks

        return checks(where or None, spec)

    def models(self, where: str) -> ModelList:
        from remote_mi.backends.ndif.models import list_models

        return list_models(where or None)

    def keys(self, where: str) -> KeyStore:
        from remote_mi.backends.ndif.keys import NdifKeys

        return NdifKeys(where or None)

"""This machine as a kind of backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from remote_mi.backends.kind import BackendKind, ModelList
from remote_mi.common.errors import BackendUnavailable
from remote_mi.models import embedded
from remote_mi.models.spec import ModelSpec, local_device

if TYPE_CHECKING:
    from remote_mi.backends.base import Backend


class LocalKind(BackendKind):
    """This machine."""

    name = "local"

    def backend(self, where: str, project: Path, rows_bytes: int | None = None) -> Backend:
        from remote_mi.backends.local.backend import LocalBackend

        return LocalBackend(rows_bytes)

    def spec_for_rerun(
        self, spec: ModelSpec, commit: str | None, environment: str | None, run: str
    ) -> ModelSpec:
        """The recorded commit, and the recorded device unless another place is requested."""
        spec = replace(spec, revision=commit or spec.revision)
        kind = environment or ""
        if spec.device == "auto" and kind.startswith("local-"):
            device = kind.removeprefix("local-")
            if device not in ("cpu", local_device()):
                raise BackendUnavailable(
                    f"{run} was computed on {device}, which this machine lacks",
                    "--backend local   computes it on what this machine has",
                )
            spec = replace(spec, device=device)
        return spec

    def models(self, where: str) -> ModelList:
        ready, folder = embedded.is_ready(), embedded.embedded_folder()
        state = f"ready, {folder}" if ready else "not fetched yet (93 MB)"
        shown = {"name": embedded.EMBEDDED, "ready": ready, "path": str(folder)}
        return ModelList(
            [(embedded.EMBEDDED, state)],
            {"models": [shown]},
            "remote-mi demo" if ready else "remote-mi models fetch",
        )

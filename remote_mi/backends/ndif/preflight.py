"""What is checked before a job is sent: its source, and what it would give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from remote_mi.backends.base import Work
from remote_mi.backends.ndif.dry_run import expect
from remote_mi.backends.ndif.source_checks import check_source, refuse
from remote_mi.progress import Watch

if TYPE_CHECKING:
    from remote_mi.models.load import LoadedModel


def check(
    model: LoadedModel, work: Work, packages: Mapping[str, str], watch: Watch
) -> tuple[list[dict[str, Any]] | None, str]:
    """Refuse what would fail on the server, and find out what would come back.

    Args:
        packages: distribution → version of what the server has.

    Returns:
        Per call, output → [shape, dtype], or None where it is not known beforehand; and in words
        how much will come back.

    Raises:
        UsageError, RunFailed: naming the recipe's file and line.
    """
    refuse(check_source(work.card, work.function, work.project, packages))
    watch.stage(f"checking {work.card.name} without weights")
    expected = expect(model, work)
    if expected.outputs is None:
        return None, f"how much comes back is not known beforehand: {expected.reason}"
    return expected.to_json()["outputs"], f"expecting {expected.bytes:,} bytes of numbers back"

"""Checks before a job is sent: its source, its expected outputs, where it would run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from remote_mi.backends.base import Work
from remote_mi.backends.capabilities import Place, depends_on_trust, unmet_needs
from remote_mi.backends.dry_run import expected_outputs
from remote_mi.backends.ndif import facts
from remote_mi.backends.ndif.client import Client
from remote_mi.backends.ndif.errors import CannotDo
from remote_mi.backends.ndif.source_checks import check_source, raise_mistakes
from remote_mi.backends.settings import load
from remote_mi.common.progress import Watch
from remote_mi.common.sizes import format_size

if TYPE_CHECKING:
    from remote_mi.models.load import LoadedModel


def check(
    model: LoadedModel, work: Work, packages: Mapping[str, str], watch: Watch
) -> tuple[list[dict[str, Any]] | None, str]:
    """Refuse a job that would fail on the server, and predict its outputs.

    Args:
        packages: distribution → version of what the server has.

    Returns:
        Per call, output → [shape, dtype], or None if not known beforehand; and the expected size
        in words.

    Raises:
        UsageError, RunFailed: naming the recipe's file and line.
        CannotDo: if the outputs are larger than the project's settings allow.
    """
    function, *metrics = work.sent_functions
    raise_mistakes(check_source(work.card, function, work.project, packages, metrics))
    watch.stage(f"checking {work.card.name} without weights")
    expected = expected_outputs(model, work)
    if expected.outputs is None:
        return None, f"how much comes back is not known beforehand: {expected.reason}"
    limit = load(work.project).limits.results
    if expected.bytes is not None and expected.bytes > limit:
        raise CannotDo(
            f"{work.card.name} would return {format_size(expected.bytes)}, and the limit "
            f"'limits.results' is {format_size(limit)}",
            "raise it in remote-mi.yaml, or use fewer prompts",
        )
    return expected.to_json()["outputs"], f"expecting {expected.bytes:,} bytes of numbers back"


def check_upload(work: Work, size: int) -> None:
    """Refuse to send more than the project's settings allow.

    Args:
        size: of the payload, in bytes.

    Raises:
        CannotDo: naming the limit, and the artifacts that it contains.
    """
    limit = load(work.project).limits.upload
    if size <= limit:
        return
    artifacts = [
        f"{name} ({format_size(value.nbytes)})"
        for name, value in work.parameters.items()
        if hasattr(value, "nbytes")
    ]
    raise CannotDo(
        f"{work.card.name} would send {format_size(size)}"
        + (f", with {', '.join(artifacts)}" if artifacts else "")
        + f", and the limit 'limits.upload' is {format_size(limit)}",
        "raise it in remote-mi.yaml, or "
        + ("choose a part, e.g. RUN:output@layer=14" if artifacts else "use fewer prompts"),
    )


def check_sandbox(work: Work, client: Client, key: str) -> None:
    """Refuse work that needs the model's process if the server would run it in its sandbox.

    Args:
        key: of the model, as the server knows it.

    Raises:
        CannotDo: if the server would run the job in its sandbox, and the recipe needs gradients, or
            attention weights of a server that does not switch the implementation for a job.
    """
    if not depends_on_trust(work.card.needs) or not facts.sandboxes(client, key):
        return
    place = Place("sandboxed", facts.packages(client).get("nnsight", ""))
    needs = unmet_needs(work.card.needs, place)
    if not needs:
        return
    raise CannotDo(
        f"recipe {work.card.name!r} needs {needs[0].replace('_', ' ')}, and {client.host.url} runs "
        "the jobs of this key in its sandbox, where they cannot be read",
        "use a key with the tag 'trusted', a server of your own (`remote-mi ndif up`), "
        "or --backend local; patching recipes need neither",
    )

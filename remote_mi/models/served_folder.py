"""Finding the folder of a model to be served, fetching it first if necessary."""

from __future__ import annotations

from pathlib import Path

from remote_mi.common.errors import (
    BackendUnavailable,
    NotFound,
    UsageError,
    first_line,
    nearest,
)
from remote_mi.common.progress import Watch
from remote_mi.models.embedded import EMBEDDED, ensure_embedded
from remote_mi.models.spec import ModelSpec

_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "tokenizer*"]
#: Other formats of the same weights, and weights under their authors' own names.
_UNWANTED = ["*/*", "consolidated*", "*.md"]


def ensure_folder(model: str, watch: Watch) -> Path:
    """The folder of a model to be served, fetched if necessary.

    Args:
        model: the embedded model's name, a folder, or a hub id.
        watch: shows the progress of a download.

    Raises:
        UsageError: the folder holds no model, or the hub id no weights in safetensors.
        NotFound, BackendUnavailable: the hub does not have it, or cannot be reached.
    """
    if model == EMBEDDED:
        return ensure_embedded(watch)
    folder = ModelSpec(model).folder
    if folder is None:
        if "/" not in model and nearest(model, [EMBEDDED]):
            raise NotFound(
                f"no model named {model!r}",
                f"did you mean {EMBEDDED!r}? "
                "Other models are named by hub id (org/model) or folder",
            )
        folder = _fetch_snapshot(model, watch)
    folder = folder.expanduser().resolve()  # a link's target may change while it is served
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", "name a hub id or an existing folder")
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{model} is not a model: it has no config.json",
            "name a folder written by save_pretrained, or a hub id",
        )
    return folder


def _fetch_snapshot(repo_id: str, watch: Watch) -> Path:
    """Fetch a hub id into the ordinary cache and return the folder of its files."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub import utils as hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    watch.stage(f"fetching {repo_id} from the hub")
    bars_enabled = not hub.are_progress_bars_disabled()
    hub.disable_progress_bars()  # our own bar uses the same line
    try:
        snapshot = Path(
            snapshot_download(repo_id, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
        )
    except GatedRepoError:
        raise NotFound(
            f"{repo_id} is gated: the hub requires a token with access to it",
            "accept its terms on the hub, then `hf auth login`",
        ) from None
    except RepositoryNotFoundError:
        raise NotFound(
            f"the hub has no model {repo_id!r}", "check the spelling of org/model"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise BackendUnavailable(
            f"{repo_id} could not be fetched from the hub: {first_line(error)}",
            f"check the network, or name a folder or the embedded model: --model {EMBEDDED}",
        ) from None
    finally:
        if bars_enabled:
            hub.enable_progress_bars()
    if not any(snapshot.glob("*.safetensors")):
        raise UsageError(
            f"{repo_id} has no weights in safetensors on the hub",
            "load it yourself and serve the folder that save_pretrained writes",
        )
    return snapshot

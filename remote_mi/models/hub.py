"""Whether the hub can be asked for what is not on this machine."""

from __future__ import annotations

from remote_mi.common.errors import BackendUnavailable
from remote_mi.models.embedded import EMBEDDED

#: What to do without a model.
NAME_A_FOLDER = f"name a folder, or the embedded model: --model {EMBEDDED}"
#: In seconds. Its own library tries again for half a minute before it says so.
TIMEOUT_S = 10.0


def need_hub(repo: str, file: str, revision: str | None, named: str, hint: str) -> None:
    """Return if a file of a repository is cached or the hub answers; whatever it answers.

    Args:
        named: what is looked for, in a message. hint: what to do instead.

    Raises:
        BackendUnavailable: if the file is not on this machine and the hub cannot be reached.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if isinstance(try_to_load_from_cache(repo, file, revision=revision), str):
            return
        HfApi().model_info(repo, revision=revision, timeout=TIMEOUT_S)
    except (HfHubHTTPError, HFValidationError):
        return
    except Exception as error:  # of the libraries below: connection, name, proxy, certificate
        raise unreachable(named, hint) from error


def unreachable(named: str, hint: str) -> BackendUnavailable:
    """The error for what is not on this machine while the hub cannot be reached."""
    return BackendUnavailable(f"{named} is not on this machine and the hub cannot be reached", hint)

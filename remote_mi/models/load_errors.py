"""What goes wrong when a model is loaded, in the user's terms."""

from __future__ import annotations

from remote_mi.common.errors import (
    NotFound,
    RunFailed,
    UsageError,
    first_line,
)
from remote_mi.models.hub import NAME_A_FOLDER, unreachable
from remote_mi.models.spec import ModelSpec


def explain_load_error(spec: ModelSpec, error: Exception, other: str = "") -> Exception:
    """Explain an error of the hub or the file system in the user's terms.

    Args:
        other: what could not be loaded, if not the model: "tokenizer 'NAME'".
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"the {other}" if other else f"the model {spec.name!r}"
    name = what if other else spec.name
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)  # type: ignore[arg-type]
    if any(isinstance(e, GatedRepoError) for e in chain):
        return NotFound(
            f"{name} is gated: the hub requires a token with access to it",
            "accept its terms on the hub, then `hf auth login`",
        )
    if any(isinstance(e, RevisionNotFoundError) for e in chain):
        revision = "that revision" if other else f"revision {spec.revision!r}"
        return NotFound(f"{name} has no {revision}")
    if any(isinstance(e, RepositoryNotFoundError) for e in chain):
        return NotFound(
            f"the hub has no {other}" if other else f"the hub has no model {spec.name!r}",
            "check the spelling of org/name" if other else "check the spelling of org/model",
        )
    offline = ("connect", "offline", "resolve", "Max retries", "couldn't", "on the Hub")
    if (other or not spec.is_local) and any(w in str(e) for e in chain for w in offline):
        return unreachable(what, "name a folder" if other else NAME_A_FOLDER)
    kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
    return UsageError(
        f"{what} cannot be loaded: {kind}{first_line(error)}",
        "its files may be incomplete or damaged: copy or download them again",
    )


def out_of_memory(error: BaseException) -> RunFailed | None:
    """An error in the user's terms if the original one means out of memory, else None."""
    import torch

    text = str(error)
    is_memory = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(
        sign in text for sign in ("can't allocate memory", "out of memory", "std::bad_alloc")
    )
    if not is_memory:
        return None
    return RunFailed(
        "out of memory: " + (text.splitlines()[0] if text else "the system provided no memory"),
        "reduce what it needs: a smaller --model, --dtype bfloat16, shorter prompts or fewer pairs "
        "(-n), or a server (--backend ndif)",
    )

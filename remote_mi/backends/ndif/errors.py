"""Errors of remote jobs, and how a server's messages are classified.

A server reports a failed job as prose. `job_error` classifies it by the sentences that NDIF 0.1.2
uses; anything else becomes a `JobFailed` that carries the text verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import httpx

from remote_mi.backends.errors import (
    Evicted,
    ExecutionTimeout,
    JobFailed,
    OutOfMemory,
    RecipeFailed,
    ServerDown,
    with_server_text,
)
from remote_mi.backends.recipe_mistakes import explain
from remote_mi.common.errors import (
    AuthenticationError,
    BackendUnavailable,
    RemoteMIError,
    UsageError,
    sanitize,
)

LOGIN = "`remote-mi login` stores a key; get one at https://login.ndif.us"


class KeyRefused(AuthenticationError):
    """The key is missing, malformed or unknown to the server, or may not be sent to it."""


class VersionRefused(BackendUnavailable):
    """The server requires another version of nnsight or Python, or reads the model differently."""


class NotHosted(BackendUnavailable):
    """The server does not have the model and will not deploy it."""


class NotNdif(BackendUnavailable):
    """Something answers at the address, but it is not an NDIF server."""


class CannotDo(BackendUnavailable):
    """The server would run the job in a way that does not work for the recipe."""


class RequestRefused(UsageError):
    """The server does not accept the request as sent."""


class ModulesDiffer(JobFailed):
    """The server builds the model from other modules than this machine: versions differ."""


class PayloadRefused(JobFailed):
    """The server could not read what was sent."""

    retryable = True


#: NDIF's sentences, the error each means, and advice. The first match counts.
_SENTENCES: list[tuple[str, type[JobFailed] | type[RemoteMIError], str]] = [
    (
        "exceeded the execution timeout",
        ExecutionTimeout,
        "fewer pairs per job (-n), shorter prompts, or a server that allows more time",
    ),
    ("Replica was evicted", Evicted, "the same command submits it again"),
    ("cancelled or preempted by the server", Evicted, "the same command submits it again"),
    ("Error submitting request to model deployment", Evicted, "the same command submits it again"),
    (
        "Error starting model",
        Evicted,
        "the same command submits it again; `remote-mi models --backend ndif` shows its state",
    ),
    (
        "Error provisioning model",
        Evicted,
        "the same command submits it again; `remote-mi models --backend ndif` shows its state",
    ),
    ("Request cancelled by operator", Evicted, "ask the server's operators before trying again"),
    ("Critical server error", Evicted, "try again in a few minutes; `remote-mi doctor` checks"),
    (
        "Could not deploy this model",
        NotHosted,
        "`remote-mi models --backend ndif` lists what is deployed",
    ),
    ("request payload could not be read", PayloadRefused, "the same command sends it again"),
    (
        "model architecture on this server doesn't match",
        ModulesDiffer,
        "`remote-mi doctor` compares the versions here and there",
    ),
    ("CUDA out of memory", OutOfMemory, "fewer pairs per job (-n), shorter prompts"),
    ("OutOfMemoryError", OutOfMemory, "fewer pairs per job (-n), shorter prompts"),
]


def job_error(
    job_id: str, host: str, answer: Mapping[str, Any], recipe_file: str | None
) -> RemoteMIError:
    """The error for a job whose status is ERROR.

    Args:
        answer: the server's response, with `description` and perhaps `meta`.
        recipe_file: name of the recipe's file, to find its line in the server's traceback.
    """
    said = sanitize(str(answer.get("description") or "")[-100_000:]).strip()
    last = said.splitlines()[-1].strip() if said else "no reason given"
    if "Traceback" not in said:
        last = " ".join(said.split("\n\n")[0].split()) or last
    last = last if len(last) <= 500 else f"{last[:500]}…"
    where = f"job {job_id[:8]} failed on {host}"
    for sentence, kind, advice in _SENTENCES:
        if sentence in said:
            extra = _shortfall(answer.get("meta")) if kind is OutOfMemory else ""
            return with_server_text(kind(f"{where}: {last}{extra}", advice), said)
    in_recipe = _traceback_line(said, recipe_file)
    if in_recipe is not None:
        return with_server_text(
            RecipeFailed(
                f"{recipe_file}:{in_recipe}: {explain(last)}",
                f"on {host}; the server's traceback: remote-mi jobs show {job_id[:8]}",
            ),
            said,
        )
    return with_server_text(
        JobFailed(f"{where}: {last}", f"in full: remote-mi jobs show {job_id[:8]}"), said
    )


def _traceback_line(said: str, recipe_file: str | None) -> int | None:
    """The last line of the recipe's file in a traceback, or None."""
    if not recipe_file:
        return None
    name = re.escape(PurePath(recipe_file).name)
    lines = re.findall(rf'File "[^"\n]*{name}", line (\d+)', said)
    return int(lines[-1]) if lines else None


def _shortfall(meta: Any) -> str:
    """How much memory was missing, as measured by the server."""
    found = meta.get("alloc_shortfall_by_gpu") if isinstance(meta, Mapping) else None
    if not isinstance(found, Mapping):
        return ""
    short = {gpu: value for gpu, value in found.items() if isinstance(value, (int, float))}
    return "".join(f"; GPU {gpu} lacked {value / 2**30:.2f} GiB" for gpu, value in short.items())


def response_error(host: str, response: httpx.Response) -> RemoteMIError:
    """The error for an HTTP status of 400 or more."""
    said = _detail(response)
    text = f"{host} refused ({response.status_code}): {said}"
    code = response.status_code
    if code in (401, 403) or (code == 400 and "API key" in said):
        return KeyRefused(_without_key(text), LOGIN)
    if code == 400 and "version" in said.lower():
        return VersionRefused(text, "`remote-mi doctor` compares the versions here and there")
    if code in (400, 413, 422):
        return RequestRefused(text, "is `remote_mi` up to date? `remote-mi doctor` checks")
    if code in (429, 500, 502, 503, 504):
        return ServerDown(text, "try again in a few minutes; `remote-mi doctor` checks")
    return NotNdif(
        f"{host} does not answer as an NDIF server ({code})",
        "name its base address: --backend ndif:https://host",
    )


def _detail(response: httpx.Response) -> str:
    try:
        body = response.json()
        said = body.get("detail", body) if isinstance(body, dict) else body
        if isinstance(said, list):  # as pydantic lists them
            said = "; ".join(str(e.get("msg", e)) if isinstance(e, dict) else str(e) for e in said)
    except ValueError:
        said = response.text
    return " ".join(sanitize(str(said)).split())[:500]


def _without_key(text: str) -> str:
    """Remove a malformed key, which a server repeats in its answer."""
    return re.sub(r"(key format): .*?(\. API keys|$)", r"\1\2", text)

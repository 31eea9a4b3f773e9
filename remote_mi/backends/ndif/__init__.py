"""An NDIF server: the block is sent as source, run there as one job, and its result fetched.

Jobs are non-blocking: submitted by one POST, polled at /response/{id}, and the result downloaded
from the URL that COMPLETED carries. Results are loaded with `weights_only=True`, so nothing that
comes over the network is executed. The key leaves over https or to this machine only.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import httpx

from remote_mi.backends.base import Outputs, Ticket, Work, checked, labelled
from remote_mi.environment import Environment
from remote_mi.errors import (
    AuthenticationError,
    BackendUnavailable,
    RunFailed,
    WaitTimeout,
    first_line,
)
from remote_mi.models.load import LoadedModel, build_weightless
from remote_mi.models.spec import ModelSpec
from remote_mi.paths import cache_root
from remote_mi.progress import Watch
from remote_mi.recipe import outputs_from_json
from remote_mi.store.files import write_whole

DEFAULT_HOST = "https://api.ndif.us"
POLL_FIRST_S, POLL_LAST_S = 0.05, 5.0
HTTP_TIMEOUT = httpx.Timeout(10.0, read=60.0)
DEFAULT_TIMEOUT_S = 3600.0
#: A result may not be larger than this once decompressed.
RESULT_LIMIT_BYTES = 4 << 30
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class NdifBackend:
    """Executes on an NDIF server.

    Args:
        host: base URL; by default the one nnsight is configured for (`NDIF_HOST`).
    """

    def __init__(self, host: str | None = None) -> None:
        self.host = (host or os.environ.get("NDIF_HOST") or DEFAULT_HOST).rstrip("/")
        self.name = f"ndif {self.host}"
        parts = urlsplit(self.host)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BackendUnavailable(f"{self.host!r} is not the address of a server",
                                     f"e.g. --backend ndif:{DEFAULT_HOST}")  # fmt: skip
        self._key_may_leave = parts.scheme == "https" or parts.hostname in _LOOPBACK

    def environment(self, spec: ModelSpec) -> Environment | None:
        """The server's versions as last seen; None before the first job there."""
        try:
            known = json.loads(_environments_file().read_text())[self.host]
            return Environment(self.name, **known)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def open(self, spec: ModelSpec, watch: Watch) -> LoadedModel:
        watch.stage(f"describing {spec.name} (configuration and tokenizer only)")
        self._see_environment()
        return build_weightless(spec)

    def submit(self, model: LoadedModel, work: Work, watch: Watch) -> Ticket:
        from remote_mi.backends.ndif.payload import model_key, serialize

        blob = serialize(model.lm, work)
        watch.stage(f"submitting to {self.host} ({len(blob):,} bytes)")
        job_id = str(uuid.uuid4())
        envelope = {
            "id": job_id,
            "model_key": model_key(model.lm),
            "session_id": "",
            "compress": True,
            "env": model.lm._remoteable_get_env(),
        }
        headers = {
            **self._headers(),
            "ndif-timestamp": repr(time.time()),
            "nnsight-version": version("nnsight"),
            "python-version": sys.version,
        }
        answer = self._request(
            "POST", "/request", data={"data": json.dumps(envelope)}, headers=headers,
            files={"blob": ("request", blob, "application/octet-stream")},
        )  # fmt: skip
        ticket = Ticket(self.name, str(answer["id"]), {
            "calls": len(work.calls),
            "recipe": labelled(work.card),
            "returns": work.card.shown()["returns"],
        })  # fmt: skip
        ticket.record.update(host=self.host, job_id=ticket.id, bytes_up=len(blob), timeline=[])
        return ticket

    def collect(
        self, ticket: Ticket, watch: Watch, timeout: float | None = None
    ) -> Iterator[Outputs]:
        started = time.monotonic()
        done = self._wait(ticket, watch, started + (timeout or DEFAULT_TIMEOUT_S))
        watch.stage("fetching the result")
        content = self._download(done["data"])
        ticket.record.update(
            bytes_down=len(content),
            seconds=round(time.monotonic() - started, 3),
            meta=done.get("meta"),
        )
        outputs = _load(content).get("outputs")
        if not isinstance(outputs, list) or len(outputs) != ticket.data["calls"]:
            raise RunFailed(f"job {ticket.id}: the server's result lacks the declared outputs")
        declared = outputs_from_json(ticket.data["returns"])
        for returned in outputs:
            yield checked(ticket.data["recipe"], declared, returned)

    def _wait(self, ticket: Ticket, watch: Watch, deadline: float) -> dict[str, Any]:
        """Poll until COMPLETED; every new status is noted."""
        pause, last = POLL_FIRST_S, ""
        while True:
            answer = self._request("GET", f"/response/{ticket.id}", headers=self._headers(),
                                   missing_is_none=True)  # fmt: skip
            status = str(answer.get("status", "")) if answer else ""
            if status and status != last:
                last, pause = status, POLL_FIRST_S
                ticket.record["timeline"].append([status, round(time.time(), 3)])
                watch.stage(
                    f"{self.host}: {status.lower()} {answer.get('description') or ''}".strip()
                )
            if status == "COMPLETED":
                return answer
            if status == "ERROR":
                said = str(answer.get("description") or "no reason given").strip()
                raise RunFailed(f"job {ticket.id} failed on {self.host}: {said}")
            if time.monotonic() > deadline:
                raise WaitTimeout(f"job {ticket.id} on {self.host} is still {last or 'unheard of'}")
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(pause * 1.5, POLL_LAST_S)

    def _headers(self) -> dict[str, str]:
        """The key, where nnsight keeps it; refused over plain http beyond this machine."""
        from nnsight.schema.config import CONFIG

        if not CONFIG.API.APIKEY:
            return {}
        if not self._key_may_leave:
            raise AuthenticationError(
                f"the API key is not sent to {self.host}: plain http beyond this machine",
                "use https, or unset NDIF_API_KEY",
            )
        return {"ndif-api-key": CONFIG.API.APIKEY}

    def _request(
        self, method: str, path: str, missing_is_none: bool = False, **options: Any
    ) -> dict[str, Any]:
        try:
            with httpx.Client(timeout=HTTP_TIMEOUT) as client:
                response = client.request(method, f"{self.host}{path}", **options)
        except httpx.HTTPError as error:
            raise BackendUnavailable(f"{self.host} cannot be reached: {error}",
                                     "is the server up? `--backend local` runs here") from None  # fmt: skip
        if response.status_code == 404 and missing_is_none:
            return {}
        if response.status_code >= 400:
            raise self._refused(response)
        try:
            return response.json()
        except ValueError:
            raise BackendUnavailable(
                f"{self.host}{path} does not answer as an NDIF server"
            ) from None

    def _refused(self, response: httpx.Response) -> Exception:
        try:
            body = response.json()
            said = body.get("detail", body) if isinstance(body, dict) else body
        except ValueError:
            said = response.text[:300]
        text = f"{self.host} refused ({response.status_code}): {said}"
        if response.status_code in (401, 403):
            return AuthenticationError(text, "set NDIF_API_KEY to a valid key")
        return BackendUnavailable(text)

    def _download(self, url: str) -> bytes:
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise RunFailed(f"{self.host} gave no address for the result")
        received = bytearray()
        try:
            with httpx.stream("GET", url, timeout=HTTP_TIMEOUT) as response:
                response.raise_for_status()
                for chunk in response.iter_bytes():
                    received += chunk
                    if len(received) > RESULT_LIMIT_BYTES:
                        raise RunFailed("the result is larger than the limit of 4 GiB")
        except httpx.HTTPError as error:
            raise BackendUnavailable(f"the result could not be fetched: {error}") from None
        return bytes(received)

    def _see_environment(self) -> None:
        """Remember the server's versions, under which its results are kept."""
        packages = self._request("GET", "/env", headers=self._headers()).get("packages", {})
        seen = {name: str(packages.get(name, "unknown"))
                for name in ("nnsight", "transformers", "torch")}  # fmt: skip
        path = _environments_file()
        try:
            known = json.loads(path.read_text())
        except (OSError, ValueError):
            known = {}
        if known.get(self.host) != seen:
            try:
                content = json.dumps({**known, self.host: seen}).encode()
                write_whole(path, content, cache_root() / "tmp")
            except OSError:
                pass  # Forgotten versions cost a hit, nothing else.


def _environments_file() -> Any:
    return cache_root() / "ndif-environments.json"


def _load(content: bytes) -> dict[str, Any]:
    """A result's bytes as tensors, numbers, texts, lists and dicts; never as code."""
    import torch
    import zstandard

    try:
        reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content))
        plain = reader.read(RESULT_LIMIT_BYTES + 1)
        if len(plain) > RESULT_LIMIT_BYTES:
            raise RunFailed("the result is larger than the limit of 4 GiB")
        loaded = torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)
    except RunFailed:
        raise
    except Exception as error:  # whatever a damaged or hostile result makes the reader say
        raise RunFailed(f"the server's result is refused: {first_line(error)}",
                        "it may hold tensors, numbers, texts, lists and dicts only") from None  # fmt: skip
    if not isinstance(loaded, dict):
        raise RunFailed("the server's result is refused: it is not a dict of saved values")
    return loaded

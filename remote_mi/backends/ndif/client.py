"""The protocol of an NDIF server, and nothing else: one method per request.

The key is sent only with requests that need it (submissions, /env, /status and /whoami), to the
server itself and never after a redirect. Polls and downloads carry none. Every request has a
deadline.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from remote_mi.backends.errors import ResultExpired, ResultRefused, ServerDown
from remote_mi.backends.ndif.errors import NotNdif, response_error
from remote_mi.backends.ndif.hosts import Host
from remote_mi.common.errors import StoreError, first_line
from remote_mi.common.progress import Watch

TIMEOUT = httpx.Timeout(10.0, read=60.0, write=120.0)
#: How long to wait for the answer to a poll.
POLL_TIMEOUT_S = 20.0
#: The largest answer accepted, results apart.
ANSWER_LIMIT_BYTES = 64 << 20
#: What an object store answers for an expired address.
_GONE = (400, 403, 404, 410)
DOWNLOAD_TRIES = 5
#: After this time, a download that is slower than this on average is given up.
STALL_S, SLOWEST_BYTES_S = 60.0, 1000
#: The pause before the second try; the next ones are twice as long each.
DOWNLOAD_PAUSE_S = 0.2


class ReplyLost(Exception):
    """The connection broke after a submission was sent: the server may or may not have it."""


_clients_lock = threading.Lock()
_clients: dict[bool, httpx.Client] = {}


def _shared_client(trust_env: bool) -> httpx.Client:
    """The HTTP client shared by this process: creating one reads all certificates."""
    with _clients_lock:
        if trust_env not in _clients:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
            _clients[trust_env] = httpx.Client(timeout=TIMEOUT, trust_env=trust_env, limits=limits)
        return _clients[trust_env]


class Client:
    """Talks to one server; safe for several threads."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def get_json(self, path: str, with_key: bool = False) -> Any:
        """The JSON answer to a GET.

        Raises:
            ServerDown, KeyRefused, NotNdif, RemoteMIError: depending on the answer, or lack of one.
        """
        headers = self.host.key_headers() if with_key else {}
        return self._parse(path, self._get(path, headers))

    def status_code(self, path: str, headers: dict[str, str]) -> int:
        """The HTTP status of a GET with these headers."""
        return self._get(path, headers).status_code

    def job_response(self, job_id: str, patience: float = POLL_TIMEOUT_S) -> dict[str, Any] | None:
        """The latest status of a job; None while the server has stored none.

        Args:
            patience: seconds in which the server has to answer.

        Raises:
            ServerDown, NotNdif: as for `get_json`.
        """
        path = f"/response/{job_id}"
        response = self._get(path, {}, patience)
        if response.status_code == 404:
            if "json" not in response.headers.get("content-type", ""):
                raise self._not_ndif(path)
            return None
        if 400 <= response.status_code < 500 and response.status_code != 429:
            raise self._not_ndif(path)  # sent without a key: it is not the user who is refused
        answer = self._parse(path, response)
        if not isinstance(answer, dict) or not isinstance(answer.get("status"), str):
            raise self._not_ndif(path)
        return answer

    def submit(self, envelope: dict[str, Any], blob: bytes) -> str:
        """Send a job; returns the server's id for it.

        Raises:
            ReplyLost: if the job may have arrived.
            ServerDown: if it has not.
            KeyRefused, VersionRefused, RequestRefused, NotNdif: depending on the answer.
        """
        headers = {
            **self.host.key_headers(),
            "ndif-timestamp": repr(time.time()),
            "nnsight-version": version("nnsight"),
            "python-version": sys.version,
        }
        try:
            response = self._client().post(
                f"{self.host.url}/request",
                data={"data": json.dumps(envelope)},
                headers=headers,
                files={"blob": ("request", blob, "application/octet-stream")},
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise self._unreachable(error) from None
        except httpx.HTTPError as error:
            raise ReplyLost(first_line(error)) from None
        if response.status_code in (500, 502, 504):
            raise ReplyLost(f"status {response.status_code}")
        answer = self._parse("/request", response)
        job_id = answer.get("id") if isinstance(answer, dict) else None
        if not isinstance(job_id, str) or not re.fullmatch(r"[\w.:-]{1,200}", job_id, re.ASCII):
            raise self._not_ndif("/request")
        return job_id

    def download(self, url: Any, target: Path, limit: int, watch: Watch) -> int:
        """Stream a result into a file; returns its size in bytes. Retries if interrupted.

        Args:
            url: from the COMPLETED status. limit: the maximum size in bytes.
            watch: shows the progress in bytes, if the total is known.

        Raises:
            ResultExpired: if the address has expired. ResultRefused: if the result is too large,
            or `url` is not an address. ServerDown: if it cannot be fetched. StoreError: if the
            disk is full.
        """
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise ResultRefused(f"{self.host.url} gave no address for the result")
        pause = DOWNLOAD_PAUSE_S
        for attempt in range(DOWNLOAD_TRIES):
            try:
                return self._download_once(url, target, limit, watch)
            except (httpx.InvalidURL, UnicodeError):
                raise ResultRefused(f"{self.host.url} gave no address for the result") from None
            except OSError as error:
                raise StoreError(
                    f"the result cannot be written to {target.parent}: {error.strerror}",
                    "make room",
                ) from None
            except httpx.HTTPError as error:
                if attempt == DOWNLOAD_TRIES - 1:
                    raise ServerDown(
                        f"the result cannot be fetched from {self.host.url}: {first_line(error)}",
                        "try again: the job is done there",
                    ) from None
            time.sleep(pause)
            pause *= 2
        raise AssertionError

    def is_gone(self, url: Any) -> bool:
        """Whether the address of a result has expired; False if that cannot be determined."""
        try:
            with self._client().stream("GET", str(url), timeout=POLL_TIMEOUT_S) as response:
                return response.status_code in _GONE
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError):
            return False

    def _download_once(self, url: str, target: Path, limit: int, watch: Watch) -> int:
        with self._client().stream("GET", url) as response:
            if response.status_code in _GONE:
                raise ResultExpired(
                    f"the result is no longer there ({response.status_code})",
                    "the same command submits the job again",
                )
            if response.status_code != 200:
                raise httpx.HTTPError(f"status {response.status_code}")
            length = response.headers.get("content-length", "")
            total = int(length) if length.isdigit() else None
            received, begun = 0, time.monotonic()
            with target.open("wb") as file:
                for chunk in response.iter_raw():
                    received += len(chunk)
                    if max(received, total or 0) > limit:
                        raise ResultRefused(
                            f"the result has more than the {limit:,} bytes it may have"
                        )
                    passed = time.monotonic() - begun
                    if passed > STALL_S and received < passed * SLOWEST_BYTES_S:
                        raise httpx.ReadTimeout("it comes too slowly")
                    file.write(chunk)
                    if total:
                        watch.advance(received, total, "bytes")
        return received

    def _get(
        self, path: str, headers: dict[str, str], patience: float | None = None
    ) -> httpx.Response:
        url, timeout = self.host.url + path, TIMEOUT if patience is None else patience
        until = time.monotonic() + (patience or 2 * POLL_TIMEOUT_S)
        try:
            with self._client().stream("GET", url, headers=headers, timeout=timeout) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > ANSWER_LIMIT_BYTES:
                        raise self._not_ndif(path)
                    if time.monotonic() > until:
                        raise httpx.ReadTimeout("its answer comes too slowly")
                return httpx.Response(
                    response.status_code,
                    content=bytes(body),
                    headers={"content-type": response.headers.get("content-type", "")},
                )
        except (httpx.HTTPError, UnicodeError) as error:  # UnicodeError: an invalid DNS name
            raise self._unreachable(error) from None

    def _parse(self, path: str, response: httpx.Response) -> Any:
        if 300 <= response.status_code < 400:
            raise NotNdif(
                f"{self.host.url} redirects elsewhere, and a key is not sent along",
                "name its actual address: --backend ndif:https://host",
            )
        if response.status_code >= 400:
            raise response_error(self.host.url, response)
        try:
            return response.json()
        except (ValueError, RecursionError):
            raise self._not_ndif(path) from None

    def _client(self) -> httpx.Client:
        # The user's proxy would look for a loopback server on the proxy's own machine.
        return _shared_client(trust_env=not self.host.is_loopback)

    def _unreachable(self, error: Exception) -> ServerDown:
        return ServerDown(
            f"{self.host.url} cannot be reached: {first_line(error)}",
            "is the server up? `remote-mi doctor` checks; `--backend local` runs here",
        )

    def _not_ndif(self, path: str) -> NotNdif:
        return NotNdif(
            f"{self.host.url}{path} does not answer as an NDIF server",
            "name its base address: --backend ndif:https://host",
        )

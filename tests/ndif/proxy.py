"""A proxy on loopback in front of a genuine server, for faults of the network between them.

    with Proxy(server.url) as proxy:
        proxy.drop_next_reply("POST", "/request")   # the server has the job, the client no reply
        ...  # NDIF_HOST = proxy.url
        proxy.refuse(); ...; proxy.accept()         # nobody listens, then somebody does again

Downloads pass through it too: the address of the result in an answer is replaced by one of the
proxy's, and asked for with the Host it was signed for. Each connection carries one request, so
that nothing of an earlier one is in the way of a fault.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import urlsplit

from .scripted import Loopback, Seen

_ELSEWHERE = "/elsewhere/"
_TIMEOUT = 120  # seconds that anything here waits at most
_OWN = ("connection", "transfer-encoding", "content-length", "keep-alive", "host")

Kind = Literal["request", "reply", "download"]


@dataclass
class _Fault:
    """What happens to the next requests that match."""

    kind: Kind
    method: str
    path: str
    times: int
    at: float = 0.0
    seconds: float = 0.0


class Proxy:
    """The proxy; a context manager."""

    def __init__(self, target: str) -> None:
        """target: base address of the server."""
        parts = urlsplit(target)
        assert parts.hostname and parts.port, f"{target} names no port"
        self.target = (parts.hostname, parts.port)
        #: What arrived here, whether or not it went on.
        self.requests: list[Seen] = []
        #: How often a fault of each kind has struck.
        self.struck: dict[str, int] = {"request": 0, "reply": 0, "download": 0, "delay": 0}
        self._faults: list[_Fault] = []
        self._delays: list[_Fault] = []
        self._stores: set[str] = set()
        self._lock = threading.Lock()
        self._running = threading.Event()
        self._running.set()
        self._http: Loopback | None = None
        self.port = 0
        self.accept()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self._running.set()
        self.refuse()

    def refuse(self) -> None:
        """From now on nobody listens; what is under way is cut."""
        http, self._http = self._http, None
        if http is not None:
            http.end()

    def accept(self) -> None:
        """Listen again, on the same port."""
        if self._http is not None:
            return
        self._http = Loopback(self.port, _Handler, self)
        self.port = self._http.server_port

    def pause(self) -> None:
        """Requests are taken and then wait, in both directions."""
        self._running.clear()

    def resume(self) -> None:
        """End of the pause."""
        self._running.set()

    def drop_next_request(self, method: str, path: str, times: int = 1) -> None:
        """The connection ends before the request reaches the server."""
        self._faults.append(_Fault("request", method, path, times))

    def drop_next_reply(self, method: str, path: str, times: int = 1) -> None:
        """The server gets the request and answers it; the connection ends without the answer."""
        self._faults.append(_Fault("reply", method, path, times))

    def cut_next_download(self, at: float = 0.5, times: int = 1) -> None:
        """A result is announced in full and ends after this share of it."""
        self._faults.append(_Fault("download", "GET", _ELSEWHERE, times, at=at))

    def delay_next(self, method: str, path: str, seconds: float, times: int = 1) -> None:
        """The reply is kept back for a while."""
        self._delays.append(_Fault("reply", method, path, times, seconds=seconds))

    def count(self, method: str, path: str = "/") -> int:
        """How many requests of this method to paths that begin so have arrived."""
        return len(self.seen(method, path))

    @property
    def downloads(self) -> int:
        """How often a result was asked for."""
        return self.count("GET", _ELSEWHERE)

    def seen(self, method: str, path: str = "/") -> list[Seen]:
        """Those requests. Downloads begin with /elsewhere/."""
        with self._lock:
            return [s for s in self.requests if s.method == method and s.path.startswith(path)]

    def wait_for(self, method: str, path: str, times: int = 1, timeout: float = 240) -> None:
        """Return once that many such requests have arrived.

        Raises:
            TimeoutError: they have not.
        """
        deadline = time.monotonic() + timeout
        while self.count(method, path) < times:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.count(method, path)} of {times} {method} {path}")
            time.sleep(0.02)

    def note(self, seen: Seen) -> None:
        """Write down a request."""
        with self._lock:
            self.requests.append(seen)

    def strike(self, kind: Kind, seen: Seen) -> _Fault | None:
        """The fault of this kind that is due for a request; it counts as having struck."""
        with self._lock:
            fault = _take(self._faults, seen, kind)
            self.struck[kind] += fault is not None
        return fault

    def delay_of(self, seen: Seen) -> float:
        """Seconds by which the reply to a request is late."""
        with self._lock:
            fault = _take(self._delays, seen, "reply")
            self.struck["delay"] += fault is not None
        return fault.seconds if fault else 0.0

    def wait_while_paused(self) -> None:
        """Return at once, or at the end of the pause."""
        self._running.wait(_TIMEOUT)

    def route(self, target: str) -> tuple[str, str]:
        """(host:port, path) that a request is for."""
        if not target.startswith(_ELSEWHERE):
            return "{}:{}".format(*self.target), target
        store, _, path = target.removeprefix(_ELSEWHERE).partition("/")
        if store not in self._stores:
            raise ValueError(f"no answer has named {store}")
        return store, "/" + path

    def through_here(self, body: bytes) -> bytes:
        """An answer whose address of a result leads through this proxy."""
        found = re.search(rb'"data": ?"(http://([^/"]+))/', body)
        if found is None:
            return body
        self._stores.add(found[2].decode())
        here = (self.url + _ELSEWHERE).encode() + found[2]
        return body[: found.start(1)] + here + body[found.end(1) :]


def _take(faults: list[_Fault], seen: Seen, kind: Kind) -> _Fault | None:
    for fault in faults:
        if (fault.kind, fault.method) == (kind, seen.method) and seen.path.startswith(fault.path):
            fault.times -= 1
            if fault.times <= 0:
                faults.remove(fault)
            return fault
    return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT
    server: Loopback

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        proxy = self.server.owner
        self.close_connection = True
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length") or 0))
        seen = Seen(self.command, self.path, headers, body)
        proxy.note(seen)
        proxy.wait_while_paused()
        if proxy.strike("request", seen):
            return
        try:
            status, answered, content = self._forward(seen)
        except (OSError, http.client.HTTPException):
            return  # the server ended the connection: so does the proxy
        time.sleep(proxy.delay_of(seen))
        proxy.wait_while_paused()
        if not proxy.strike("reply", seen):
            self._send(seen, status, answered, content)

    do_POST = do_HEAD = do_PUT = do_DELETE = do_GET

    def _forward(self, seen: Seen) -> tuple[int, list[tuple[str, str]], bytes]:
        host, path = self.server.owner.route(seen.target)
        headers = {name: value for name, value in seen.headers.items() if name not in _OWN}
        upstream = http.client.HTTPConnection(host, timeout=_TIMEOUT)
        try:
            # The Host is the server's own: a presigned address is signed for it.
            upstream.request(seen.method, path, seen.body or None, {**headers, "Host": host})
            reply = upstream.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            upstream.close()

    def _send(
        self, seen: Seen, status: int, answered: list[tuple[str, str]], content: bytes
    ) -> None:
        proxy = self.server.owner
        if seen.path.startswith("/response/"):
            content = proxy.through_here(content)
        fault = proxy.strike("download", seen)
        self.send_response_only(status)
        for name, value in answered:
            if name.lower() not in _OWN:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: int(len(content) * fault.at)] if fault else content)

"""A scripted server on loopback, for what a genuine NDIF server cannot be made to do.

    with Scripted(post=[DOWN, accept], response=["QUEUED", "RUNNING", completed],
                  result=[cut(blob), Reply(body=blob)]) as server:
        ...  # NDIF_HOST = server.url
    assert server.count("POST", "/request") == 2

It speaks NDIF 0.1.2's protocol for non-blocking jobs. Each of `post`, `response` and `result` is a
script: what is answered the first time, the second time, and so on; the last entry for ever. `post`
and `result` count for the whole server, `response` for each job. An entry is a `Reply`, a function
`(server, seen) -> Reply`, or, in `response`, the name of a status. `routes` replaces any path.
What goes wrong on a genuine server, in its own words, and what can be wrong with a result, is in
`replies.py`.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from itertools import repeat
from typing import Any
from urllib.parse import urlsplit

_SEND_TIMEOUT = 60  # seconds after which a client that does not read is given up


@dataclass(frozen=True)
class Seen:
    """A request that arrived. Header names are in lower case; `target` is path and query.

    `envelope` and `blob` are the two parts of a submitted job, None in other requests.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)
    envelope: dict[str, Any] | None = None
    blob: bytes | None = None

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def size(self) -> int:
        return len(self.body)

    def holds(self, text: str) -> bool:
        """Whether the text is anywhere in the request: address, headers or body."""
        return text in self.target or text in str(self.headers) or text.encode() in self.body


@dataclass(frozen=True)
class Reply:
    """What is answered.

    Attributes:
        body: all of it, or its pieces as they are made (any size, never held as a whole).
        length: the Content-Length; by default the body's. Pieces without one end the connection.
        share: how much of the body is sent before the connection is closed.
        delay: seconds before anything is sent. pace: seconds between two pieces.
        lost: nothing is sent at all; the connection is closed.
    """

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    kind: str = "application/octet-stream"
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    share: float = 1.0
    delay: float = 0.0
    pace: float = 0.0
    lost: bool = False


Made = Callable[["Scripted", Seen], Reply]
Entry = Reply | str | Made


def as_json(value: Any, status: int = 200, **more: Any) -> Reply:
    """A reply of JSON."""
    return Reply(status, json.dumps(value).encode(), "application/json", **more)


def refused(status: int, detail: Any) -> Reply:
    """A refusal as FastAPI words it; `replies.py` has the genuine ones."""
    return as_json({"detail": detail}, status)


def slow(entry: Entry, seconds: float) -> Made:
    """The same, after a delay."""
    return lambda server, seen: replace(_made(entry, server, seen), delay=seconds)


def cut(body: bytes, share: float = 0.5) -> Reply:
    """A download that ends early, though its full length was announced."""
    return Reply(body=body, share=share)


def corrupted(body: bytes, at: float = 0.5) -> Reply:
    """The same number of bytes, some of them others."""
    middle = int(len(body) * at)
    spoilt = bytes(byte ^ 0xFF for byte in body[middle : middle + 16])
    return Reply(body=body[:middle] + spoilt + body[middle + 16 :])


def endless(said: int | None = None, piece: bytes = b"\0" * (1 << 16)) -> Made:
    """A download without an end, made while it is read; `said` is the length it claims."""
    return lambda server, seen: Reply(body=repeat(piece), length=said)


def redirect(url: str, status: int = 307) -> Made:
    """Sends the client to the same path on another host."""
    return lambda server, seen: Reply(status, headers={"Location": url + seen.target})


def accept(server: Scripted, seen: Seen) -> Reply:
    """Takes the job under the id that the client chose, or a new one, as NDIF 0.1.2 does."""
    return as_json(server.stored(server.add(seen), "RECEIVED"))


def accept_as(job_id: str) -> Made:
    """Takes the job under another id than the client's."""
    return lambda server, seen: as_json(server.stored(server.add(seen, job_id), "RECEIVED"))


def accept_and_lose(server: Scripted, seen: Seen) -> Reply:
    """Takes the job; the reply never arrives."""
    server.add(seen)
    return Reply(lost=True)


#: The request arrives, the job is not taken, and no reply comes.
LOSE = Reply(lost=True)


def status(name: str, description: str | None = None, **more: Any) -> Made:
    """A stored status. more: `data` and `meta`."""
    return lambda server, seen: as_json(server.stored(job_id_of(seen), name, description, **more))


def completed(server: Scripted, seen: Seen) -> Reply:
    """COMPLETED, with an address of the result on this server."""
    job_id = job_id_of(seen)
    return as_json(server.stored(job_id, "COMPLETED", data=server.result_url(job_id), meta=META))


def failed(description: str, meta: dict[str, Any] | None = None) -> Made:
    """ERROR with these words."""
    return status("ERROR", description, meta=meta or META)


def missing(server: Scripted, seen: Seen) -> Reply:
    """The server has stored nothing for this job."""
    return refused(404, f"No response for request {job_id_of(seen)}.")


#: What a completed job says of its cost on a server without a GPU.
META = {"runtime": 0.031, "max_memory_usage": 0, "max_mem_by_gpu": {}, "max_mem_pct_by_gpu": {}}

_DESCRIPTIONS = {
    "RECEIVED": "Your job has been received and is waiting to be queued.",
    "QUEUED": "Added to Queue at position 1.",
    "PROVISIONING": "Model Provisioning...",
    "DEPLOYING": "Model Deploying...",
    "DISPATCHED": "Your job has been sent to the model deployment.",
    "RUNNING": "Your job has started running.",
    "COMPLETED": "Your job has been completed.",
}


class Scripted:
    """The server; a context manager. Stopped, it refuses connections.

    Args:
        post, response, result: the scripts, see above.
        routes: path → script, e.g. `{"/env": [DOWN]}`; these count for the whole server.
        everything: answers every request in place of all else.
    """

    def __init__(
        self,
        *,
        post: Sequence[Entry] = (accept,),
        response: Sequence[Entry] = ("QUEUED", "RUNNING", completed),
        result: Sequence[Entry] = (Reply(404),),
        routes: Mapping[str, Sequence[Entry]] | None = None,
        everything: Entry | None = None,
    ) -> None:
        self.post, self.response, self.result = list(post), list(response), list(result)
        self.routes = {path: list(script) for path, script in (routes or {}).items()}
        self.everything = everything
        self.requests: list[Seen] = []
        #: id → envelope of every job that was taken.
        self.jobs: dict[str, dict[str, Any]] = {}
        self._asked: dict[str, int] = {}
        self._lock = threading.RLock()
        self._http = Loopback(0, _Handler, self)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.end()

    def count(self, method: str, path: str = "/") -> int:
        """How many requests of this method to paths that begin so have arrived."""
        return len(self.seen(method, path))

    def seen(self, method: str, path: str = "/") -> list[Seen]:
        """Those requests."""
        with self._lock:
            return [s for s in self.requests if s.method == method and s.path.startswith(path)]

    def add(self, seen: Seen, job_id: str | None = None) -> str:
        """Take a job; returns its id."""
        envelope = seen.envelope or {}
        job_id = job_id or str(envelope.get("id") or f"scripted-{len(self.jobs)}")
        self.jobs[job_id] = envelope
        return job_id

    def stored(
        self,
        job_id: str,
        name: str,
        description: str | None = None,
        data: Any = None,
        meta: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A status in the form in which NDIF gives it."""
        said = _DESCRIPTIONS.get(name, "") if description is None else description
        return {"id": job_id, "status": name, "description": said, "data": data, "meta": meta}

    def result_url(self, job_id: str) -> str:
        """The address that COMPLETED gives, signed as S3's are."""
        return (
            f"{self.url}/result/{job_id}.pt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
            f"&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature={'0' * 64}"
        )

    def answer(self, seen: Seen) -> Reply:
        """What the scripts say to a request."""
        path = seen.path
        with self._lock:
            self.requests.append(seen)
            if self.everything is not None:
                return _made(self.everything, self, seen)
            if path in self.routes:
                return self._next(self.routes[path], path, seen)
            if (seen.method, path) == ("POST", "/request"):
                return self._next(self.post, "post", seen)
            if path.startswith("/response/"):
                if job_id_of(seen) not in self.jobs:
                    return missing(self, seen)
                return self._next(self.response, path, seen)
            if path.startswith("/result/"):
                return self._next(self.result, "result", seen)
            known = _PATHS.get(path)
            return as_json(known()) if known else refused(404, "Not Found")

    def _next(self, script: list[Entry], counter: str, seen: Seen) -> Reply:
        asked = self._asked.get(counter, 0)
        self._asked[counter] = asked + 1
        return _made(script[min(asked, len(script) - 1)], self, seen)


def _made(entry: Entry, server: Scripted, seen: Seen) -> Reply:
    if isinstance(entry, Reply):
        return entry
    if isinstance(entry, str):
        return (completed if entry == "COMPLETED" else status(entry))(server, seen)
    return entry(server, seen)


def job_id_of(seen: Seen) -> str:
    return seen.path.rsplit("/", 1)[-1].removesuffix(".pt")


def _environment() -> dict[str, Any]:
    names = ("nnsight", "transformers", "torch")
    return {"python_version": sys.version, "packages": {name: version(name) for name in names}}


_PATHS: dict[str, Callable[[], Any]] = {
    "/ping": lambda: "pong",
    "/connected": lambda: {"status": "connected"},
    "/whoami": lambda: {"email": None, "tags": []},
    "/env": _environment,
    "/status": lambda: {"deployments": {}},
}


class Loopback(ThreadingHTTPServer):
    """A server in threads, whose connections end with it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler], owner: Any) -> None:
        """owner: whom the handler asks. It listens at once; port 0 is any that is free."""
        self.owner = owner
        self._open: set[Any] = set()
        super().__init__(("127.0.0.1", port), handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """A connection has come."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """A connection is over."""
        self._open.discard(request)
        super().shutdown_request(request)

    def end(self) -> None:
        """Stop listening, and cut every connection."""
        self.shutdown()
        self.server_close()
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are expected here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SEND_TIMEOUT
    server: Loopback

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length") or 0))
        parts = parts_of(headers.get("content-type", ""), body)
        envelope = None
        with suppress(KeyError, ValueError):
            envelope = json.loads(parts["data"])
        seen = Seen(
            self.command, self.path, headers, body, envelope=envelope, blob=parts.get("blob")
        )
        self._send(self.server.owner.answer(seen))

    do_POST = do_HEAD = do_PUT = do_DELETE = do_GET

    def _send(self, reply: Reply) -> None:
        time.sleep(reply.delay)
        if reply.lost:
            self.close_connection = True
            return
        whole = isinstance(reply.body, bytes)
        length = len(reply.body) if whole and reply.length is None else reply.length  # type: ignore[arg-type]
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if not whole or reply.share < 1:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        for piece in _pieces(reply):
            self.wfile.write(piece)
            if reply.pace:
                time.sleep(reply.pace)


def _pieces(reply: Reply) -> Iterable[bytes]:
    if not isinstance(reply.body, bytes):
        return reply.body
    content = reply.body[: int(len(reply.body) * reply.share)]
    size = max(1, len(content) // 8) if reply.pace else max(1, len(content))
    return (content[at : at + size] for at in range(0, len(content), size))


def parts_of(kind: str, body: bytes) -> dict[str, bytes]:
    """The named parts of a multipart form; {} where it is none."""
    boundary = re.search(r'boundary="?([^";]+)', kind)
    parts: dict[str, bytes] = {}
    for part in body.split(b"--" + boundary[1].encode()) if boundary else []:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]+)"', head)
        if name:
            parts[name[1].decode()] = content.removesuffix(b"\r\n")
    return parts

"""A stand-in for the model hub: serves folders of this machine as if they were hub repositories.

Run by the server's own Python, on loopback, with nothing but the standard library:

    python -I hub.py PORT|fd:N repo_id=folder [repo_id=folder ...]

`fd:N` serves on the already bound socket with that inherited file descriptor. It answers what
`huggingface_hub` asks when it describes a model and downloads its files: model information, file
listings, and files, whole or in ranges. Nothing can be written, and nothing but the files inside
the named folders is ever sent.

A filled cache with the hub's client offline would not do: nnsight asks the hub for a model's id in
the client, in the server and in every sandboxed process, and offline that question is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_TASKS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForConditionalGeneration": "text2text-generation",
}
_WHOLE = 64 << 20  # files up to this many bytes are identified by their whole content
_CHUNK = 1 << 20


class NoSuch(Exception):
    """The requested item does not exist: the hub's error code and message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Repo:
    """One folder, seen as a hub repository with a single commit."""

    def __init__(self, repo_id: str, folder: Path) -> None:
        self.repo_id = repo_id
        self.folder = folder
        self._identified: dict[Path, tuple[str, str]] = {}

    def files(self) -> dict[str, Path]:
        """Name inside the repository → file, hidden ones left out."""
        found = {
            path.relative_to(self.folder).as_posix(): path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        return {name: path for name, path in found.items() if not name.startswith(".")}

    def identity(self, path: Path) -> str:
        """A digest that changes when the file does. Clients cache the file under it."""
        stat = path.stat()
        # Includes ctime: a copy can preserve mtime.
        version = f"{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
        known = self._identified.get(path)
        if known and known[0] == version:
            return known[1]
        digest = hashlib.sha256(str(stat.st_size).encode())
        with path.open("rb") as file:
            if stat.st_size <= _WHOLE:
                digest.update(file.read())
            else:
                # Reading gigabytes of weights would delay the first request by seconds; the
                # file's metadata stands in for the middle.
                digest.update(version.encode() + file.read(_CHUNK))
        self._identified[path] = (version, digest.hexdigest())
        return digest.hexdigest()

    def commit(self) -> str:
        """The commit id, which changes whenever any file does.

        Clients trust a cached file of a known commit without asking, so an id that stayed the
        same would serve them the files of an earlier model.
        """
        digest = hashlib.sha1(self.repo_id.encode(), usedforsecurity=False)
        for name, path in self.files().items():
            digest.update(f"\0{name}\0{self.identity(path)}".encode())
        return digest.hexdigest()

    def check_revision(self, revision: str) -> None:
        """Refuse any revision other than the only one.

        Raises:
            NoSuch: it is neither "main" nor the commit.
        """
        if revision not in ("main", self.commit()):
            raise NoSuch("RevisionNotFound", f"Invalid rev id: {revision}")

    def information(self) -> dict[str, Any]:
        """What `model_info()` reads."""
        commit = self.commit()
        info: dict[str, Any] = {
            "_id": commit[:24],
            "id": self.repo_id,
            "modelId": self.repo_id,
            "sha": commit,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": ["transformers"],
            "library_name": "transformers",
            "pipeline_tag": self._task(),
            "createdAt": "2026-01-01T00:00:00.000Z",
            "lastModified": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": name} for name in self.files()],
        }
        counts = self._parameters()
        if counts:  # as on the hub, absent where no weights are in safetensors
            info["safetensors"] = {"parameters": counts, "total": sum(counts.values())}
        return info

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """The entries of a folder of the repository ("" is its root)."""
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for name, path in self.files().items():
            if not name.startswith(prefix):
                continue
            head, slash, _ = name[len(prefix) :].partition("/")
            if slash and not recursive:
                directory = prefix + head
                entries[directory] = {"type": "directory", "path": directory, "size": 0}
                entries[directory]["oid"] = hashlib.sha256(directory.encode()).hexdigest()[:40]
                continue
            size = path.stat().st_size
            entries[name] = {"type": "file", "path": name, "size": size}
            entries[name]["oid"] = self.identity(path)[:40]
        return list(entries.values())

    def _task(self) -> str:
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return "feature-extraction"
        for architecture in config.get("architectures") or []:
            for ending, task in _TASKS.items():
                if architecture.endswith(ending):
                    return task
        return "feature-extraction"

    def _parameters(self) -> dict[str, int]:
        """Parameters by dtype, from the headers of the safetensors files."""
        counts: dict[str, int] = {}
        for path in self.files().values():
            if path.suffix != ".safetensors":
                continue
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for tensor in header.values():
                size = 1
                for extent in tensor["shape"]:
                    size *= extent
                counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + size
        return counts


class Hub(ThreadingHTTPServer):
    """The repositories behind one port."""

    def __init__(self, where: str, repos: list[Repo]) -> None:
        # The hub's names are looked up without regard to case, and answered as they are written.
        self.repos = {repo.repo_id.lower(): repo for repo in repos}
        inherited = re.fullmatch(r"fd:(\d+)", where)
        port = 0 if inherited else int(where)
        super().__init__(("127.0.0.1", port), Handler, bind_and_activate=not inherited)
        if inherited:
            self.socket.close()
            self.socket = socket.socket(fileno=int(inherited[1]))
            self.server_address = self.socket.getsockname()

    def split(self, path: str) -> tuple[Repo, str]:
        """The repository a path begins with, and what follows its name.

        Raises:
            NoSuch: there is no such repository.
        """
        parts = path.split("/")
        for length in (2, 1):  # "owner/name" before the old names without an owner
            repo = self.repos.get("/".join(parts[:length]).lower())
            if repo:
                return repo, "/".join(parts[length:])
        raise NoSuch("RepoNotFound", "Repository not found")


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        """The server this connection belongs to."""
        assert isinstance(self.server, Hub)
        return self.server

    def log_message(self, format: str, *args: Any) -> None:
        sys.stderr.write(f"{self.command} {self.path} {args[1] if len(args) > 1 else ''}\n")

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def do_POST(self) -> None:
        """Nothing can be written."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._refuse(NoSuch("EntryNotFound", "this hub is read-only"))

    def do_GET(self) -> None:
        """Model information, a listing, or a file."""
        url = urlsplit(self.path)
        path = unquote(url.path).strip("/")
        try:
            if path.startswith("api/models/"):
                recursive = parse_qs(url.query).get("recursive", [""])[0].lower() == "true"
                self._api(path.removeprefix("api/models/"), recursive)
            else:
                self._file(path)
        except NoSuch as error:
            self._refuse(error)
        except BrokenPipeError:  # the client has left
            self.close_connection = True

    def _api(self, path: str, recursive: bool) -> None:
        repo, rest = self.hub.split(path)
        verb, _, rest = rest.partition("/")
        revision, _, folder = rest.partition("/")
        if verb in ("revision", "tree"):
            repo.check_revision(revision)
        if verb in ("", "revision"):
            self._json(repo.information())
        elif verb == "tree":
            entries = repo.tree(folder.strip("/"), recursive)
            if folder and not entries:
                raise NoSuch("EntryNotFound", f"no folder {folder}")
            self._json(entries)
        else:
            raise NoSuch("EntryNotFound", f"this hub does not know {verb!r}")

    def _file(self, path: str) -> None:
        repo, rest = self.hub.split(path)
        verb, _, rest = rest.partition("/")
        revision, _, name = rest.partition("/")
        if verb != "resolve":
            raise NoSuch("EntryNotFound", "Entry not found")
        repo.check_revision(revision)
        # Looked up among the listed names, never joined to a path: ".." leads nowhere.
        file = repo.files().get(name)
        if file is None:
            raise NoSuch("EntryNotFound", "Entry not found")
        size = file.stat().st_size
        first, last, status = 0, size - 1, 200
        headers = {
            "X-Repo-Commit": repo.commit(),
            "ETag": f'"{repo.identity(file)}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if asked and any(asked.groups()):
            first, last, status = *_range(asked[1], asked[2], size), 206
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            if first > last:
                status, first, last = 416, 0, -1
                headers["Content-Range"] = f"bytes */{size}"
        self._head(status, headers, last - first + 1)
        if self.command == "HEAD" or first > last:
            return
        with file.open("rb") as source:
            source.seek(first)
            left = last - first + 1
            while left and (chunk := source.read(min(_CHUNK, left))):
                self.wfile.write(chunk)
                left -= len(chunk)

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self._head(200, {"Content-Type": "application/json"}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, error: NoSuch) -> None:
        body = json.dumps({"error": str(error)}).encode()
        headers = {
            "X-Error-Code": error.code,
            "X-Error-Message": str(error),
            "Content-Type": "application/json",
        }
        self._head(404, headers, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def _range(first: str, last: str, size: int) -> tuple[int, int]:
    """The first and last byte that a Range header asks for; first > last if there is none."""
    if not first:  # "the last n bytes"
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1


def main(arguments: list[str]) -> None:
    """Serve until ended."""
    repos = []
    for argument in arguments[1:]:
        repo_id, _, folder = argument.partition("=")
        repos.append(Repo(repo_id, Path(folder)))
    Hub(arguments[0], repos).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])

"""Starts Python processes that have torch and transformers imported already.

A command that needs them spends most of its time on importing them. Here one process has imported
torch, and each command is a fork of that one: a process of its own, with its own arguments,
environment, folder, streams, signals and exit code. transformers reads variables of the environment
at import: the second command with the same ones has a process made that has imported it with them,
and is a fork of that, as all further ones are. nnsight is imported by each command itself.

    python warm.py serve SOCKET          until its stdin ends
    python warm.py start SOCKET -m remote_mi --help

`python()` is what stands before `-m`, `-c` or a file. The second line stands for the command: it
hands its streams over, passes signals on, and ends as the command does; if it is killed, the
command is.
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import signal
import socket
import sys

_serving: list[list[str]] = []
#: Beginnings of the names of variables that nothing reads that is imported before a fork.
_READ_LATER = (
    "REMOTE_MI_",
    "NDIF_",
    "NNSIGHT_",
    "PYTEST_CURRENT",
    "PWD",
    "OLDPWD",
    "COLUMNS",
    "LINES",
    "_",
)
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def python() -> list[str]:
    """The beginning of a command line, in place of the interpreter alone."""
    if not _serving:
        import atexit
        import shlex
        import subprocess
        import tempfile

        folder = tempfile.TemporaryDirectory(prefix="remote-mi-warm-")
        address = os.path.join(folder.name, "socket")
        server = subprocess.Popen(
            [sys.executable, __file__, "serve", address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is for the tests
        )
        assert server.stdin and server.stdout
        assert server.stdout.readline() == b"ready\n"
        atexit.register(folder.cleanup)
        atexit.register(server.stdin.close)
        begin = [sys.executable, "-S", "-E", __file__, "start", address]
        cold, warm = shlex.quote(sys.executable), shlex.join(begin)
        with open(_program(address), "w", encoding="utf-8") as script:  # options of Python: cold
            script.write(f'#!/bin/sh\ncase "$1" in -m | -c | *.py) exec {warm} "$@" ;; esac\n')
            script.write(f'exec {cold} "$@"\n')
        os.chmod(_program(address), 0o755)
        _serving.append(begin)
    return _serving[0]


def executable() -> str:
    """A program in place of the interpreter itself, for code that starts `sys.executable`."""
    return _program(python()[-1])


def _program(address: str) -> str:
    return os.path.join(os.path.dirname(address), "python")


def start(address: str, command: list[str]) -> None:
    """Have a command run, and end as it ends."""
    request = {"command": command, "environment": dict(os.environ), "folder": os.getcwd()}
    request["ignored"] = [n for n in PASSED_ON if signal.getsignal(n) is signal.SIG_IGN]
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(prepared(address) or address)
        ask(server, request, [0, 1, 2])
        for fd in range(3):
            os.close(fd)  # the command's alone: who reads them is told when it ends
        answers = server.makefile()
        pid = int(answers.readline())
        for number in PASSED_ON:
            signal.signal(number, lambda passed, _frame: os.kill(pid, passed))
        code = os.waitstatus_to_exitcode(int(answers.readline()))
    if code < 0:
        if -code in PASSED_ON:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def ask(server: socket.socket, request: dict, streams: list[int]) -> None:
    """Send a request with its streams."""
    socket.send_fds(server, [b"+"], streams)
    server.sendall(json.dumps(request).encode() + b"\n")


def prepared(address: str) -> str | None:
    """Where the process with these variables waits; it is made for the second command."""
    given = {k: v for k, v in os.environ.items() if not k.startswith(_READ_LATER)}
    digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12]
    own = f"{address}-{digest}"
    if os.path.exists(own):
        return own
    for mark in ("seen", "making"):
        try:
            os.close(os.open(f"{own}.{mark}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        if mark == "seen":
            return None
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(address)
            ask(server, {"prepare": own, "environment": dict(os.environ)}, [])
            return own if server.makefile().readline() == "ready\n" else None
    return own if os.path.exists(own) else None


def serve(address: str) -> None:
    """Wait for commands, and run each in a fork; in that process, returns to run it."""
    # Not this folder, whose modules have names of libraries.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    import torch  # noqa: F401

    import remote_mi.cli.run
    import remote_mi.models.load
    import remote_mi.report.terminal  # noqa: F401

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        print("ready", flush=True)
        attend(listening, _program(address))


def attend(listening: socket.socket, program: str) -> None:
    """Keep each command that comes in a fork; returns in that of the command."""
    import gc

    gc.freeze()  # what a fork collects is its own
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are not waited for
    waiting = selectors.DefaultSelector()
    waiting.register(listening, selectors.EVENT_READ)
    waiting.register(sys.stdin, selectors.EVENT_READ)
    while True:
        if any(key.fileobj is sys.stdin for key, _ in waiting.select()):
            os._exit(0)
        connection, _ = listening.accept()
        if os.fork() == 0:
            waiting.close()
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            keep(connection, program)
            return
        connection.close()


def prepare(client: socket.socket, request: dict, program: str) -> None:
    """Import what reads these variables, and what needs it; wait for commands of the same."""
    os.environ.clear()
    os.environ.update(request["environment"])
    import transformers.models.llama.modeling_llama
    import transformers.pipelines  # noqa: F401

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{request['prepare']}.bound")
        listening.listen(64)
        os.rename(f"{request['prepare']}.bound", request["prepare"])  # who finds it can connect
        client.sendall(b"ready\n")
        client.close()
        attend(listening, program)


def keep(client: socket.socket, program: str) -> None:
    """Run one command in a fork and say how it ended; returns in the fork."""
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    request = json.loads(client.makefile().readline())
    if "prepare" in request:
        prepare(client, request, program)
        return
    pid = os.fork()
    if pid == 0:
        client.close()
        become(request, streams, program)
        return
    for fd in streams:
        os.close(fd)
    client.sendall(b"%d\n" % pid)
    ended = os.pidfd_open(pid)
    waiting = selectors.DefaultSelector()
    waiting.register(ended, selectors.EVENT_READ)
    waiting.register(client, selectors.EVENT_READ)  # readable only when it is gone
    if all(key.fileobj is client for key, _ in waiting.select()):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    try:
        client.sendall(b"%d\n" % status)
    except OSError:
        pass  # it was killed
    os._exit(0)


def become(request: dict, streams: list[int], program: str) -> None:
    """Make this process what the command's own would be at its start."""
    for target, fd in enumerate(streams):
        os.dup2(fd, target)
        os.close(fd)
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else signal.SIG_DFL)
    if signal.SIGINT not in request["ignored"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for folder in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if folder and folder not in sys.path:
            sys.path.insert(1, folder)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    sys.argv = ["-c", *request["command"]]
    sys.executable = program  # what it starts begins warm, too


def run(command: list[str]) -> None:
    """As `python -m module …`, `python -c program …` and `python FILE …` do."""
    import runpy

    if command[0] not in ("-m", "-c"):
        sys.argv, sys.path[0] = command, os.path.dirname(command[0])
        runpy.run_path(command[0], run_name="__main__")
        return
    kind, what, *arguments = command
    sys.argv = [kind, *arguments]
    sys.path[0] = "" if kind == "-c" else os.getcwd()
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(what, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    role, address, *rest = sys.argv[1:]
    if role == "start":
        start(address, rest)
    serve(address)
    run(sys.argv[1:])

"""Build the environment NDIF runs in: a venv of its own, once per list of requirements."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from remote_mi.backends.ndif_server.errors import ServerUnavailable
from remote_mi.backends.ndif_server.record import lock
from remote_mi.common.progress import Watch

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
"""Everything NDIF needs, pinned exactly; NDIF itself is the last line."""

_EXISTING = "REMOTE_MI_NDIF_VENV"
_COMPLETE = "complete"
_MINUTES = 30


def ensure_venv(state: Path, watch: Watch) -> Path:
    """The environment NDIF is installed in, built first if necessary.

    A build takes about two minutes and 1.7 GB. It is stored under `state` by a digest of the
    requirements and of this Python's version, so a new version of either triggers a new build. An
    interrupted build is started again; of several processes, one builds and the others wait.

    The environment variable `REMOTE_MI_NDIF_VENV` names an environment to use instead.

    Args:
        state: folder to keep it in.
        watch: shows, in a few words, what is being done.

    Raises:
        ServerUnavailable: it cannot be built; the message ends with pip's output.
    """
    existing = os.environ.get(_EXISTING)
    if existing:
        venv = Path(existing).expanduser().absolute()
        if not (venv / "bin" / "gunicorn").exists():
            raise ServerUnavailable(f"{_EXISTING} names {venv}, where NDIF is not installed")
        return venv
    venv = state.expanduser().absolute() / "venvs" / _name()
    if not _is_complete(venv):
        with lock(venv.parent, timeout=_MINUTES * 60):
            if not _is_complete(venv):  # or another process has built it meanwhile
                _build(venv, watch)
    return venv


def _name() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    identity = "\0".join([REQUIREMENTS.read_text(), version, sys.platform, platform.machine()])
    return f"py{version}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _is_complete(venv: Path) -> bool:
    return (venv / _COMPLETE).exists()


def _build(venv: Path, watch: Watch) -> None:
    begun = time.monotonic()
    watch.stage("building the environment of the NDIF server (once; about two minutes, 1.7 GB)")
    # A venv contains its own path and cannot be moved into place: a marker, written last,
    # distinguishes a finished one from an interrupted one.
    shutil.rmtree(venv, ignore_errors=True)
    log = venv.with_name(f"{venv.name}.log")
    log.unlink(missing_ok=True)
    _run([sys.executable, "-m", "venv", str(venv)], log)
    pip = [str(venv / "bin" / "python"), "-I", "-m", "pip", "install", "--quiet"]
    pip += ["--disable-pip-version-check", "--no-input"]
    pins = [line for line in REQUIREMENTS.read_text().splitlines() if line[:1].isalpha()]
    (ndif,) = (pin for pin in pins if pin.startswith("ndif=="))
    watch.stage("installing torch, Ray and the rest")
    rest = venv / "requirements.txt"
    rest.write_text("\n".join(pin for pin in pins if pin != ndif) + "\n")
    _run([*pip, "-r", str(rest)], log)
    # NDIF asks for Python 3.12 but runs on 3.11. The check is waived for NDIF only: if waived for
    # its dependencies, pip could choose releases that do not run here.
    waived = ["--ignore-requires-python"] if sys.version_info < (3, 12) else []
    _run([*pip, "--no-deps", *waived, ndif], log)
    (venv / _COMPLETE).write_text("")
    watch.stage(f"built in {time.monotonic() - begun:.0f} s")


def _run(command: list[str], log: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        with log.open("ab") as output:
            subprocess.run(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_MINUTES * 60,
                check=True,
            )
    except (subprocess.SubprocessError, OSError) as error:
        said = log.read_text(errors="replace")[-1500:] if log.exists() else ""
        raise ServerUnavailable(
            f"the environment of the NDIF server could not be built: {error}\n{said}".rstrip()
        ) from None

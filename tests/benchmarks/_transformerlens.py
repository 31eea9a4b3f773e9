"""The environment TransformerLens is measured in, and the process that runs it there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from remote_mi.common.paths import cache_root

REQUIREMENTS = Path(__file__).with_name("transformerlens-requirements.txt")
CAPTUM = Path(__file__).with_name("captum-requirements.txt")
WORKER = Path(__file__).with_name("_transformerlens_worker.py")
EXISTING = "REMOTE_MI_TL_VENV"
#: What an environment must have exactly for its figures to be comparable.
DECISIVE = ("transformer-lens", "torch", "transformers")

_OURS = "made-for-remote_mi-benchmarks"
# On Linux, PyPI's torch brings several GB of CUDA libraries that this has no use for.
_TORCH_ON_CPU = "https://download.pytorch.org/whl/cpu"


class Unavailable(Exception):
    """TransformerLens cannot be measured here; the message says why."""


def default_venv() -> Path:
    """`REMOTE_MI_TL_VENV`, or a folder in the user's cache."""
    given = os.environ.get(EXISTING)
    own = cache_root().parent / "benchmarks" / "transformer-lens-venv"
    return Path(given).expanduser() if given else own


def ensure_venv(venv: Path) -> Path:
    """The Python of an environment with TransformerLens, built there if it is not yet (minutes).

    An environment that is there already is used when it has the decisive versions, and is left
    alone when it has others and was not made here. An interrupted build is gone on with.

    Raises:
        Unavailable: if it is somebody else's, or cannot be built.
    """
    venv = venv.absolute()
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pins = [line for line in REQUIREMENTS.read_text().splitlines() if line[:1].isalpha()]
    wanted = {name: number for name, _, number in (pin.partition("==") for pin in pins)}
    if _decisive(python) == [wanted[name] for name in DECISIVE]:
        return python
    if venv.exists() and any(venv.iterdir()) and not (venv / _OURS).exists():
        raise Unavailable(
            f"{venv} has not {', '.join(f'{n} {wanted[n]}' for n in DECISIVE)} and was not made "
            "by this benchmark; name another folder with --venv"
        )
    print(f"building the environment of TransformerLens in {venv} (once; minutes, 1.7 GB)")
    try:
        venv.mkdir(parents=True, exist_ok=True)
        (venv / _OURS).write_text("may be deleted\n")
    except OSError as error:
        raise Unavailable(
            f"cannot write {venv}: {error.strerror}; name another with --venv"
        ) from None
    _run([sys.executable, "-m", "venv", str(venv)])
    pip = [str(python), "-I", "-m", "pip", "install", "--quiet", "--no-input"]
    if sys.platform == "linux":
        cpu = ["--no-deps", "--extra-index-url", _TORCH_ON_CPU, "--retries", "1", "--timeout", "15"]
        try:
            _run([*pip, *cpu, f"torch=={wanted['torch']}"])
        except Unavailable:
            pass  # the next line takes torch from where everything else comes from
    _run([*pip, "-r", str(REQUIREMENTS)])
    return python


def ensure_captum(python: Path) -> None:
    """Put captum, and what it needs beyond TransformerLens, into an environment of `ensure_venv`.

    Raises:
        Unavailable: if it is not there and cannot be installed.
    """
    try:
        _run([str(python), "-I", "-c", "import captum.attr"])
    except Unavailable:
        pip = [str(python), "-I", "-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]
        _run([*pip, "-r", str(CAPTUM)])


def _decisive(python: Path) -> list[str] | None:
    """The decisive versions of an environment; None if it lacks one or is no environment."""
    code = f"from importlib.metadata import version as v; print(*map(v, {DECISIVE}))"
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return [number.partition("+")[0] for number in done.stdout.split()]


def _run(command: list[str]) -> None:
    try:
        subprocess.run(
            command,
            env=_environment(),
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=1800,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or "")[-1500:]
        raise Unavailable(f"the environment cannot be built: {error}\n{said}".rstrip()) from None


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


class Worker:
    """TransformerLens in its process, which lives until the `with` block ends.

    It computes only while `ask` waits for it, so the two sides never run at the same time.

    Args:
        script: what runs there, beside this file.
    """

    def __init__(self, python: Path, script: Path = WORKER) -> None:
        self._command = [str(python), str(script)]

    def __enter__(self) -> Worker:
        self._log = tempfile.TemporaryFile("w+")
        environment = {
            **_environment(),
            "HF_HUB_OFFLINE": "1",
            "TQDM_DISABLE": "1",
            "WANDB_MODE": "disabled",
        }
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._log.close()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to one request (see the worker's own docstring).

        Raises:
            Unavailable: if it failed or the process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            self._log.seek(0)
            raise Unavailable(f"{Path(self._command[1]).stem} ended:\n{self._log.read()[-1500:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise Unavailable(f"{Path(self._command[1]).stem} failed: {answer['error']}")
        return answer

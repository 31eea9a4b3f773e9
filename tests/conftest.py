"""Shared by all groups: tiny random models of several architectures, a project, a cache."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remote_mi.models import tiny_models
from remote_mi.models.tiny_models import ENCODERS, FAMILIES, OTHERS, PARALLEL

from .warm import executable, python

__all__ = ["ENCODERS", "FAMILIES", "OTHERS", "PARALLEL"]

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # several at a time: threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
#: Files in memory: a session writes and removes some hundred thousand small ones.
MEMORY = Path("/dev/shm")
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background, by a shell that has Ctrl-C ignored there; commands would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

GROUPS = ("fast", "ndif", "slow", "gpu")
#: The longest files outside tests/ndif, first in their group: short ones at the end let all workers
#: end together.
LONGEST = ("test_architecture_table.py", "test_phenomena_baselines.py")
#: Files of tests/ndif that use one server, `ndif_server`; one worker has all of them.
OF_ONE_SERVER = (
    "test_dispatch.py",
    "test_docs_examples.py",
    "test_jobs.py",
    "test_output_kinds.py",
    "test_parity.py",
    "test_recipe_check.py",
    "test_server_commands.py",
)
MARY = {
    "clean": "When Mary and John went to the store, John gave a drink to",
    "corrupt": "When Mary and John went to the store, Mary gave a drink to",
    "answer": " Mary",
    "wrong": " John",
}


#: Families whose tests in tests/fast run with the quick group; those of the others are slow.
QUICK = ("llama", "gpt2", "bert")


def _group(item: pytest.Item) -> str:
    """The group of a test: its folder, or slow if it is marked so or is one more family's."""
    group = item.path.relative_to(ROOT / "tests").parts[0]
    if group == "fast" and item.get_closest_marker("slow"):
        return "slow"
    callspec = getattr(item, "callspec", None)
    given = [v for v in callspec.params.values() if isinstance(v, str)] if callspec else []
    wider = any(value in FAMILIES and value not in QUICK for value in given)
    return "slow" if group == "fast" and wider else group


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test by its group, and run the quick ones first."""
    for item in items:
        group = _group(item)
        if group in ("slow", "ndif", "gpu"):
            item.add_marker(getattr(pytest.mark, group))
    items.sort(key=lambda i: (GROUPS.index(_group(i)), i.path.name not in LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files to a worker, as `--dist=loadfile` says; and all files of one server."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class OneServerEach(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            of_server = "/ndif/" in file and file.rpartition("/")[2] in OF_ONE_SERVER
            return "tests/ndif" if of_server else file

    return OneServerEach(config, log)


def save_tokenizer(folder: Path, masked: bool = False) -> int:
    """Save a tokenizer that knows the words of the built-in phenomena and of the tests."""
    return tiny_models.save_tokenizer(folder, _texts(), masked)


def _texts() -> list[str]:
    """Texts with every word, and its leading space, that built-in phenomena and tests use."""
    from remote_mi.prompts import phenomena

    texts = []
    for path in sorted((ROOT / "recipes" / "phenomena").glob("*.yaml")):
        found = phenomena.load(path)
        for example in found.prompts(16).examples:
            texts += [example.clean, example.corrupt or "", example.answer or ""]
        for entries in found.lists.values():
            for entry in entries:
                parts = entry.values() if isinstance(entry, dict) else [entry]
                texts += [f" {part}" for part in parts] + [str(part) for part in parts]
    return [*texts, "The Eiffel Tower is in the city of Paris Rome. Hello world!"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random model of a family, made once."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp("models") / f"tiny-{family}"
            tiny_models.save_tiny_model(family, folder, _texts())
            made[family] = folder
        return made[family]

    return make


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any]]:
    """A model of tests/families, loaded, and the same model for plain hooks; made once."""
    from remote_mi.common.progress import Silent
    from remote_mi.models.load import load
    from remote_mi.models.spec import ModelSpec

    from .families.encoder_decoders import FAMILIES as PAIRED
    from .families.encoders import FAMILIES, Plain
    from .families.multimodal import FAMILIES as PICTURED

    known = {**FAMILIES, **PAIRED, **PICTURED}
    made: dict[str, tuple[Any, Any]] = {}

    def make(name: str) -> tuple[Any, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp("encoders") / f"tiny-{name}"
            known[name].save(folder)
            model = load(ModelSpec(str(folder), attention="eager"), Silent())
            made[name] = (model, Plain(folder, known[name]))
        return made[name]

    return make


@pytest.fixture(scope="session")
def tiny_llama(tiny: Callable[[str], Path]) -> Path:
    return tiny("llama")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("REMOTE_MI_CACHE", str(folder))
    return folder


@pytest.fixture
def project(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project of the test's own, and its cache; the working folder is in it."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.setenv("REMOTE_MI_PROJECT", str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (exit code, stdout, stderr)."""
    from remote_mi.cli.main import run_command

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command([str(a) for a in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in a process of its own."""

    def run(*arguments: object, timeout: float = 480, **environment: str):
        return subprocess.run(
            [*python(), "-m", "remote_mi", *(str(a) for a in arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **environment},
        )

    return run


@pytest.fixture
def warm_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the package starts from this one begin with torch imported."""
    monkeypatch.setattr(sys, "executable", executable())


@pytest.fixture(scope="session")
def embedded_cache() -> Path:
    """The cache that keeps the embedded model between sessions; fetched when it is not there."""
    from remote_mi.common.progress import Silent
    from remote_mi.models.embedded import ensure_embedded

    folder = os.environ.get("REMOTE_MI_CACHE")
    ensure_embedded(Silent())
    from remote_mi.common.paths import cache_root

    assert folder is None or str(cache_root()).startswith(folder)
    return cache_root().parent

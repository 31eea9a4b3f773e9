"""The embedded model, and a cache of results that begins empty with each session of tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import remote_mi as mi
from remote_mi.common.progress import Silent
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec


@pytest.fixture(scope="module")
def embedded_cache(
    embedded_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A cache with the embedded model and with results of this session alone.

    A key says nothing of the code that computes a sweep: from a cache that outlives the session,
    numbers of yesterday's code would be tested. All files and workers of a session share it, since
    many ask for the same runs.
    """
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "embedded-cache"
    home.mkdir(exist_ok=True)
    for kept in embedded_cache.iterdir():  # v1
        if (kept / "models").is_dir():
            (home / kept.name).mkdir(exist_ok=True)
            with_models = home / kept.name / "models"
            if not with_models.is_symlink():
                try:
                    with_models.symlink_to(kept / "models")
                except FileExistsError:
                    pass  # the other worker has
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMOTE_MI_CACHE", str(home))
        yield home


@pytest.fixture(scope="module")
def embedded(
    embedded_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., mi.Result]:
    """Runs recipes on the embedded model, in a project of the module's own."""
    project = tmp_path_factory.mktemp("project")

    def run(recipe: str, **given: Any) -> mi.Result:
        return mi.run(recipe, project=project, **given)

    return run


@pytest.fixture(scope="module")
def model(embedded_cache: Path) -> Any:
    return load(ModelSpec(), Silent())

"""Locations of the user's cache, the project, and the recipes that come with the package."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

from remote_mi.common.errors import NotFound, system_error

CACHE_VERSION = "v1"


def cache_root() -> Path:
    """The cache folder for this format version, in `REMOTE_MI_CACHE` or the platform's default."""
    return _cache_folder() / CACHE_VERSION


def server_folder() -> Path:
    """Path of the personal NDIF server's state and environment."""
    return _cache_folder() / "ndif-server"


def _cache_folder() -> Path:
    given = os.environ.get("REMOTE_MI_CACHE")
    return Path(given) if given else user_cache_path("remote_mi", appauthor=False)


def project_folder() -> Path:
    """The project folder: `REMOTE_MI_PROJECT`, or the working folder.

    Raises:
        NotFound: if the working folder no longer exists.
    """
    try:
        return Path(os.environ.get("REMOTE_MI_PROJECT") or ".").absolute()
    except OSError as error:
        raise system_error(error) from None


def builtin_folder() -> Path:
    """The recipes that come with the package: inside it if installed, next to it in a checkout.

    Raises:
        NotFound: as `check_unpacked`.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "_builtin"
    found = inside if inside.is_dir() else package.parent / "recipes"
    return check_unpacked(found)


def check_unpacked(folder: Path) -> Path:
    """A folder that comes with the package.

    Raises:
        NotFound: if it is no folder, as when the package is imported from a zip file.
    """
    if not folder.is_dir():
        raise NotFound(
            f"there is no folder {folder}, which belongs to remote_mi",
            "remote_mi cannot be used from a zip file: install it unpacked, e.g. with pip",
        )
    return folder

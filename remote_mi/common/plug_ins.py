"""Entry points: what other installed packages register with this one."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints


def entry_points(group: str) -> EntryPoints:
    """The entry points of a group, of every package on `sys.path`."""
    return _all_groups(tuple(sys.path)).select(group=group)


def entry_point(group: str, name: str) -> EntryPoint | None:
    """The entry point of this name in a group, or None."""
    return next(iter(_all_groups(tuple(sys.path)).select(group=group, name=name)), None)


@functools.lru_cache(maxsize=4)
def _all_groups(path: tuple[str, ...]) -> EntryPoints:
    """Every entry point; all groups at once, since each reading opens a file of each package.

    Args:
        path: the current `sys.path`, as the key of the cache.
    """
    from importlib import metadata  # slow to import, and help does not need it

    return metadata.entry_points()  # type: ignore[return-value]

"""Warnings that a notebook's kernel should not show."""

from __future__ import annotations

from remote_mi.common.process_state import IgnoredWarnings, SharedSettings


def _widget_warnings() -> list[IgnoredWarnings]:
    from tqdm import TqdmWarning

    return [IgnoredWarnings(TqdmWarning)]


_quiet = SharedSettings(_widget_warnings)


def import_bars() -> None:
    """Import tqdm, whose progress bars the libraries use, without its warning of missing widgets.

    It warns once, when it is first imported in a kernel, i.e. in the first cell that loads a model.
    None of our progress is shown with its bars.
    """
    try:
        with _quiet.hold():
            import tqdm.auto  # noqa: F401
    except ImportError:
        pass

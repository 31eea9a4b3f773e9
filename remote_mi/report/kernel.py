"""What a notebook's kernel is kept from showing."""

from __future__ import annotations

from remote_mi.common.process_state import IgnoredWarnings, SharedSettings


def _word_on_widgets() -> list[IgnoredWarnings]:
    from tqdm import TqdmWarning

    return [IgnoredWarnings(TqdmWarning)]


_quiet = SharedSettings(_word_on_widgets)


def import_bars() -> None:
    """Import tqdm's bars, which the libraries draw in, without its word on the widgets it lacks.

    It warns once, when it is first imported in a kernel: at the head of the first cell that loads
    a model. None of its bars is shown of ours.
    """
    try:
        with _quiet.hold():
            import tqdm.auto  # noqa: F401
    except ImportError:
        pass

"""What a notebook's kernel is kept from showing."""

from __future__ import annotations

from remote_mi.common.process_state import Held, Ignored


def _widget_warnings() -> list[Ignored]:
    from tqdm import TqdmWarning

    return [Ignored(TqdmWarning)]


_quiet = Held(_widget_warnings)


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

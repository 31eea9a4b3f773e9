"""A panel of the viewer that shows a list instead of a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from remote_mi.common.text import line
from remote_mi.report.listing import Item, Listing, make_listing, wrap


def message_listing(text: str, width: int) -> Listing:
    """A message in place of a list."""
    return make_listing(
        [(piece, Item()) for part in text.splitlines() for piece in wrap(line(part), width, " ")]
    )


@dataclass(frozen=True)
class ListPanel:
    """A panel of lines: title, function that makes the lines for a width, and hint of its keys."""

    title: str
    make: Callable[[int], Listing]
    hint: str = ""

"""A figure's place in the viewer where there is a list instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from remote_mi.common.text import line
from remote_mi.report.listing import Item, Listing, make_listing, wrap


def message_listing(text: str, width: int) -> Listing:
    """A sentence or two in place of a list."""
    return make_listing(
        [(piece, Item()) for part in text.splitlines() for piece in wrap(line(part), width, " ")]
    )


@dataclass(frozen=True)
class ListPanel:
    """A panel of lines: its name, how they are made for a width, and what can be done there."""

    title: str
    make: Callable[[int], Listing]
    hint: str = ""

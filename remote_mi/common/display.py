"""How values show themselves: by renderers that are named here and imported when they are asked.

A result stands in a room above the renderers, so it cannot import them. Its class inherits from
`Displayed`; the door of the package says which functions render it (`RENDERERS`).
"""

from __future__ import annotations

import importlib

#: By the name of a class: the functions for its text and its HTML, as "module:function".
#: Without one for its text, a class says itself how it is printed.
RENDERERS: dict[str, tuple[str | None, str]] = {}


def _render(address: str, value: object) -> str:
    module, _, function = address.partition(":")
    return getattr(importlib.import_module(module), function)(value)


class Displayed:
    """What a console prints, and a notebook displays, by the class's renderers."""

    def __repr__(self) -> str:
        text = RENDERERS.get(type(self).__name__, (None, ""))[0]
        return _render(text, self) if text else object.__repr__(self)

    def _repr_html_(self) -> str | None:
        """HTML for a notebook; None where there is no renderer, and the text is taken."""
        html = RENDERERS.get(type(self).__name__, (None, ""))[1]
        return _render(html, self) if html else None

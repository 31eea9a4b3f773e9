"""How values are displayed: by renderers that are named here and imported on first use.

A result's package must not import the renderers. Its class inherits from `Displayed` instead, and
the top-level package registers the functions that render it (`RENDERERS`).
"""

from __future__ import annotations

from pkgutil import resolve_name

#: Class name → the functions for its text and its HTML, as "module:function".
#: A class without a text renderer defines its own `repr`.
RENDERERS: dict[str, tuple[str | None, str]] = {}


class Displayed:
    """Base of classes that consoles and notebooks display with registered renderers."""

    def __repr__(self) -> str:
        text = RENDERERS.get(type(self).__name__, (None, ""))[0]
        return resolve_name(text)(self) if text else object.__repr__(self)

    def _repr_html_(self) -> str | None:
        """HTML for a notebook; None if there is no renderer, so that the text is used."""
        html = RENDERERS.get(type(self).__name__, (None, ""))[1]
        return resolve_name(html)(self) if html else None

"""Templates: inserted text is escaped, and control characters are replaced."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from remote_mi.common.errors import sanitize
from remote_mi.common.text import line
from remote_mi.recipes.figures import Figure

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).parent
#: Templates of pages, and of the kinds of figures, next to the code that fills them.
_FOLDERS = (_HERE / "templates", _HERE / "kinds")


@dataclass(frozen=True)
class PagePlace:
    """The place of a figure in a page, and how much data it may embed.

    Attributes:
        id: id of the figure in its page; "" for a figure on its own.
        script: whether the page's script explains cells; otherwise their titles do.
        numbers: maximum number of numbers for which a figure embeds all its slices.
        titles: maximum number of cells for which each embeds its description.
    """

    id: str = ""
    script: bool = False
    numbers: int = 0
    titles: int = 3000

    @property
    def hints(self) -> str:
        """How cells are explained: by "script" or "title"."""
        return "script" if self.script else "title"


def environment(**filters: Callable[..., Any]) -> Environment:
    """A template environment with additional filters."""
    from jinja2 import Environment, FileSystemLoader  # not needed in a terminal

    made = Environment(
        loader=FileSystemLoader(_FOLDERS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    made.filters.update(filters)
    return made


def render(template: str, **values: Any) -> Markup:
    """Render a template with values, as markup."""
    return Markup(_default_environment().get_template(template).render(**values))


@functools.cache
def _default_environment() -> Environment:
    return environment()


@functools.cache
def read_asset(name: str) -> str:
    """The text of a style sheet or script of the package."""
    path = next(folder / name for folder in _FOLDERS if (folder / name).is_file())
    return path.read_text(encoding="utf-8")


def _harmless(value: Any) -> Any:
    """A value inserted by a template, without control characters unless it is our own markup."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return sanitize(value)


def render_figure(template: str, figure: Figure, place: PagePlace, **view: Any) -> Markup:
    """Render a figure with its kind's template, which takes everything from `view`."""
    named = {"name": line(figure.name), "unit": line(figure.unit)}
    return render(template, view={**named, **view}, id=place.id, hints=place.hints)

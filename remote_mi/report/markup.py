"""Templates: what they set is escaped, and every character that acts is replaced."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from remote_mi.common.errors import harmless
from remote_mi.common.text import line
from remote_mi.recipes.figures import Figure

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).parent
#: Of pages, and of the kinds of figures, beside the code that fills them.
_FOLDERS = (_HERE / "templates", _HERE / "kinds")


@dataclass(frozen=True)
class PagePlace:
    """Where in a page a figure stands, and how much it may carry.

    Attributes:
        id: of the figure in its page; "" alone. script: whether the page's script reads it; else
            what explains itself does so by its title.
        numbers: up to so many, one with more dimensions than it has room for carries all its slices.
        titles: up to so many cells, each carries its sentence.
    """

    id: str = ""
    script: bool = False
    numbers: int = 0
    titles: int = 3000

    @property
    def hints(self) -> str:
        """How things explain themselves: "script" or "title"."""
        return "script" if self.script else "title"


def environment(**filters: Callable[..., Any]) -> Environment:
    """Templates with some filters of their own."""
    from jinja2 import Environment, FileSystemLoader  # no terminal needs it

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
    """A template with its values, as markup."""
    return Markup(_default_environment().get_template(template).render(**values))


@functools.cache
def _default_environment() -> Environment:
    return environment()


@functools.cache
def asset(name: str) -> str:
    """The text of a style sheet or script that comes with the package."""
    path = next(folder / name for folder in _FOLDERS if (folder / name).is_file())
    return path.read_text(encoding="utf-8")


def _harmless(value: Any) -> Any:
    """Whatever a template writes, markup of our own apart, without characters that act."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return harmless(value)


def figure_markup(template: str, figure: Figure, place: PagePlace, **view: Any) -> Markup:
    """A figure by its kind's template, which finds all of it in `view`."""
    named = {"name": line(figure.name), "unit": line(figure.unit)}
    return render(template, view={**named, **view}, id=place.id, hints=place.hints)

"""The sections of a report that only its author can write, and the file that contains them.

    ## Question
    Do the heads that copy names …

    ## Discussion
    …

A report is regenerated from its runs and this file, so the author's text is never lost.
"""

from __future__ import annotations

import re
from pathlib import Path

from remote_mi.common.errors import UsageError, nearest
from remote_mi.common.text_files import read_text

#: Section → questions it should answer.
PLACES = {
    "question": (
        "What do you want to know, and why? Which outcome did you expect?",
        "Which observation would make the answer no?",
    ),
    "discussion": (
        "What do the results say about the question? Name the figure for each claim.",
        "Which effects are larger than their controls, and which intervals are too wide to tell?",
        "What else could explain them? What do the limits above leave open?",
        "What would you try next?",
    ),
}
_HEADING = re.compile(r"^##?\s+(.+?)\s*#*\s*$", re.M)


def read(path: Path) -> dict[str, str]:
    """Section → Markdown, from a file with a heading for each section.

    Raises:
        UsageError: if the file cannot be read, or has an unknown heading.
    """
    parts = _HEADING.split(read_text(path))
    names = " and ".join(f"## {name.title()}" for name in PLACES)
    if parts[0].strip() or len(parts) == 1:
        raise UsageError(f"{path} does not begin with a heading", f"allowed headings: {names}")
    texts = {}
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        place = heading.casefold()
        if place not in PLACES:
            close = nearest(place, PLACES)
            hint = f"did you mean {close.title()!r}? " if close else ""
            raise UsageError(
                f"{path}: a report has no section {heading!r}", f"{hint}it has: {names}"
            )
        if body.strip():
            texts[place] = body.strip()
    return texts

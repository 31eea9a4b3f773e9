"""Generated text, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.text import Text

from remote_mi.common.errors import NotFound
from remote_mi.common.text import line
from remote_mi.recipes import figures
from remote_mi.report.wording import Slice, where
from remote_mi.store.named_array import NamedArray
from remote_mi.store.result import Result


def token_texts(result: Result, tokens: Any) -> list[str]:
    """The text of each of some tokens."""
    return [result.text(token) for token in np.reshape(tokens, -1) if token >= 0]


def text(figure: figures.Text, result: Result, width: int, slice_: Slice) -> Iterator[Text]:
    """Generated tokens as text, a line for each index of the leading dimensions, one example."""
    every = result.each(figure.output)
    index = slice_.item if slice_.pair is None else slice_.pair
    if not 0 <= index < len(every):
        raise NotFound(f"there is no prompt {index + 1}", f"there are {len(every)}")
    tokens = every[index]
    if len(every) > 1:
        clean = line(result.prompts[index]["clean"])
        yield Text(f" prompt {index + 1} of {len(every)}: {clean}")
    lead = tokens.shape[:-1]
    for index in np.ndindex(*lead):
        name = where(NamedArray(tokens.values[..., 0], tokens.dims[:-1], tokens.coords), index)
        shown = line(result.passage(tokens.values[index])) or "∅"
        yield Text(f" {name + ': ' if name else ''}{shown}")

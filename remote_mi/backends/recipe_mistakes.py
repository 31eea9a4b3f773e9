"""What recipe authors get wrong most often: the words of nnsight and torch, explained."""

from __future__ import annotations

import re
from typing import Any

_ORDER = (
    "a trace reads modules only in the order in which the model runs them: layer 0 first, and in "
    "each layer attention, MLP, output; use a second trace to go back"
)
#: nnsight's and torch's sentences.
_RAN_PAST = re.compile(r"'(?:model\.)*([\w.]+?)(?:\.i\d+)?' was requested but the model already")
_NO_INDEX = re.compile(
    r"'Envoy' object .*attribute '(-?\d+)'|IndexError: index (-?\d+) is out of range"
)
_NO_TOKEN = re.compile(r"IndexError: index out of range in self")


def explain(error: str, lm: Any = None) -> str:
    """An error of a recipe, `Type: message`, with an explanation if it is a frequent mistake.

    Args:
        lm: the model, if it is known here.
    """
    kind = error.partition(":")[0]
    if found := _RAN_PAST.search(error):
        return f"{kind}: {found[1]} was read after the model had run past it; {_ORDER}"
    if found := _NO_INDEX.search(error):
        number = found[1] or found[2]
        which = "with this negative index" if number.startswith("-") else number
        count = "len(lm.layers) is the number of layers"
        if lm is not None:
            count = f"the model has {len(lm.layers)} layers, numbered from 0"
        return f"{kind}: there is no module {which} in this list; {count}"
    if _NO_TOKEN.search(error):
        count = "" if lm is None else f", which ends at {lm.embed_tokens.weight.shape[0] - 1}"
        return f"{kind}: a token id is beyond the model's embedding{count}"
    return error

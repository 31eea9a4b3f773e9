"""What happens inside a module's own code, call by call, under the names that nnsight gives it.

Some tensors are given by no module: queries after their rotation, scores before their softmax. They
are the value, or the first argument, of a call in the source of a module's `forward`, or of a
function that it calls.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from remote_mi.models.structure.observation import Call

#: How deep calls are followed: a function that `forward` calls, and what that calls.
DEPTH = 2

Edit = Callable[[Any], Any]


@dataclass
class SourceCall:
    """One call in the source of a module's `forward`.

    Attributes:
        path: its name, after that of the function it is in, if it is not in `forward` itself.
        args: its positional arguments. value: what it gives.
        times: how often it runs.
    """

    path: tuple[str, ...]
    args: tuple[Any, ...]
    value: Any
    times: int = field(default=1)


def operations(
    call: Call, changed: Mapping[tuple[str, ...], Edit] | None = None
) -> tuple[list[SourceCall], Any]:
    """Run a module's call again, and record the calls in its source.

    Args:
        changed: edits of the value of some of them; then nothing is recorded.

    Returns:
        what ran, in the order of their ends, and what the module gives. None of it if its source
        cannot be read.
    """
    from nnsight.intervention.source import SourceNotAvailable, instrument

    found: dict[tuple[str, ...], SourceCall] = {}

    def within(prefix: tuple[str, ...]) -> Callable[..., Any]:
        def operate(location: str, function: Any, *args: Any, **kwargs: Any) -> Any:
            path = (*prefix, location.removeprefix("source."))
            run = function
            if len(path) < DEPTH and _is_models_own(function):
                try:
                    run, _ = instrument(function, within(path))
                except (SourceNotAvailable, AttributeError, TypeError, SyntaxError):
                    run = function
            if changed is not None:
                value = run(*args, **kwargs)
                return changed[path](value) if path in changed else value
            kept = tuple(_kept(arg) for arg in args)
            value = run(*args, **kwargs)
            if path in found:
                found[path].times += 1
            else:
                found[path] = SourceCall(path, kept, _kept(value))
            return value

        return operate

    try:
        forward, _ = instrument(type(call.module).forward, within(()))
        args, kwargs = call.arguments
        with torch.no_grad():
            output = forward(call.module, *args, **kwargs)
    except Exception:  # a source that cannot be read, or run again
        return [], None
    return [one for one in found.values() if one.times == 1], output


def _is_models_own(function: Any) -> bool:
    """Whether a function is written in Python in the code of a model."""
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        return False
    return str(getattr(function, "__module__", "")).startswith("transformers.models.")


def _kept(value: Any) -> Any:
    """A copy: later code may change tensors in place."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, (tuple, list)):
        return tuple(_kept(item) for item in value)
    return value

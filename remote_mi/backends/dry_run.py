"""A run without weights and numbers: finds what a job will return, and mistakes, before sending it.

The unmodified recipe runs on the weightless model with tensors that have only a shape and a dtype
(torch's fake tensors). Code that depends on numbers, such as `int(tensor)`, cannot be followed:
then nothing is known beforehand, and nothing is refused.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import traceback
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnsight.intervention.interleaver import OutOfOrderError
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor

from remote_mi import interventions
from remote_mi.backends.base import (
    Work,
    check_outputs,
    example_count,
    line_in_recipe,
    recipe_error,
    recipe_label,
)
from remote_mi.backends.session import run_session
from remote_mi.backends.weightless import (
    DryRunTimeout,
    FastFakeMode,
    MeasuringFakeMode,
    fake_weights,
    silence_torch_logs,
)
from remote_mi.common.authors_code import ProcessEnded, contained, describe_error
from remote_mi.interventions.metrics import OwnMetric
from remote_mi.models.load import LoadedModel
from remote_mi.recipes.output_kinds import kind_of_output

#: CPU seconds a dry run may take before the job is sent without one.
BUDGET_S = 10.0
#: Outcomes cached in this process.
CACHED_OUTCOMES = 256

#: Output name → (shape, dtype as numpy names it).
Shapes = dict[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class Expected:
    """What a job will return, if that is known before it runs.

    Attributes:
        outputs: per call, the shape and dtype of every output; None if unknown.
        bytes: of all outputs together, uncompressed; None if unknown.
        reason: why it is unknown.
    """

    outputs: list[Shapes] | None
    bytes: int | None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON: shapes as lists."""
        outputs = self.outputs and [
            {name: [list(shape), dtype] for name, (shape, dtype) in call.items()}
            for call in self.outputs
        ]
        return {"outputs": outputs, "bytes": self.bytes, "reason": self.reason}


def expected_outputs(model: LoadedModel, work: Work, budget: float = BUDGET_S) -> Expected:
    """What the calls of a job will return, by running them without weights.

    Calls that differ only in their token ids are run once.

    Args:
        model: the weightless model. work: the job. budget: CPU seconds after which it gives up.

    Raises:
        RunFailed: for a mistake in the recipe, with its file and line: a module or variable that
            does not exist, modules read out of order, shapes that do not fit, an output that is
            missing, undeclared or misshapen.
    """
    for need, why in (("gradients", "gradients"), ("generation", "generated text")):
        if need in work.card.needs:
            return Expected(None, None, f"it works with {why}")
    deadline = time.thread_time() + budget
    key = _memory_key(model, work)
    known: dict[str, Shapes | str] = {}
    outputs: list[Shapes] = []
    for call in work.calls:
        like = json.dumps(_shape_form(call))
        if like not in known:
            known[like] = _lookup(key, like) or _call_shapes(model, work, call, deadline)
            _store(key, like, known[like])
        found = known[like]
        if isinstance(found, str):
            return Expected(None, None, found)
        outputs.append(found)
    if any(not kind_of_output(output).sized for output in work.card.returned.values()):
        return Expected(None, None, "it returns texts of any length")
    size = sum(
        math.prod(shape) * np.dtype(dtype).itemsize
        for call in outputs
        for shape, dtype in call.values()
    )
    return Expected(outputs, size)


def peak_memory(
    model: LoadedModel, work: Work, rows_bytes: int, budget: float = BUDGET_S
) -> int | None:
    """The peak memory, in bytes, of the tensors of a job's longest call, weights excluded.

    Args:
        model: the weightless model. rows_bytes: memory for the rows of a sweep.
        budget: CPU seconds after which it gives up.

    Returns:
        None if a run without numbers cannot follow the recipe.
    """
    if {"gradients", "generation"} & set(work.card.needs) or not work.calls:
        return None
    call = max(work.calls, key=lambda call: len(json.dumps(_shape_form(call))))
    mode = MeasuringFakeMode(time.thread_time() + budget)
    try:
        with silence_torch_logs(), fake_weights(model.lm._module, mode, rows_bytes), contained():
            run_session(model.lm, _single_call(work, call))
    except Exception:  # the recipe is the user's code; a mistake in it shows when it runs
        return None
    return mode.peak


def _single_call(work: Work, call: Any) -> Work:
    """The work of a single call; the setup gives the same shapes for one example as for all."""
    return replace(work, calls=[call], together=[call] if work.card.setup else ())


def _shape_form(call: Any) -> Any:
    """The parts of a call or parameter that can affect shapes: everything but the token ids."""
    if call is None:
        return None
    if isinstance(call, torch.Tensor):
        return [list(call.shape), str(call.dtype)]
    if isinstance(call, list):
        return [_shape_form(one) for one in call]
    if isinstance(call, interventions.Pair):
        return [
            _shape_form(call.clean),
            _shape_form(call.corrupt),
            call.first_difference,
            len(call.answers),
            len(call.wrongs),
        ]
    if isinstance(call, OwnMetric):
        return [call.name, call.function.__module__]
    places = [call.own, call.start, call.end, len(call.whole)]
    return [len(call.ids), call.positions, places, call.target is None]


_memory: OrderedDict[tuple[Any, str], Shapes | str] = OrderedDict()


def _memory_key(model: LoadedModel, work: Work) -> Any:
    """The cache key of an outcome: recipe, model and parameters; None if it cannot be cached.

    A recipe file yields a new function when it or a local module changes. A notebook's function
    stays the same while a variable it reads changes, so it is always run again.
    """
    if work.card.path is None:
        return None
    lm = model.lm
    names = repr(getattr(lm, "_rename", None))
    parameters = json.dumps(dict(work.parameters), default=_shape_form, sort_keys=True)
    return (
        work.function,
        type(lm._module),
        lm.config.to_json_string(use_diff=False),
        lm.attn_implementation,
        names,
        parameters,
    )


def _lookup(key: Any, like: str) -> Shapes | str | None:
    return None if key is None else _memory.get((key, like))


def _store(key: Any, like: str, outcome: Shapes | str) -> None:
    if key is None or outcome == DryRunTimeout.reason:
        return
    _memory[key, like] = outcome
    while len(_memory) > CACHED_OUTCOMES:
        _memory.popitem(last=False)


def _call_shapes(model: LoadedModel, work: Work, call: Any, deadline: float) -> Shapes | str:
    """Shapes of one call's outputs, texts excluded; or why they are unknown."""
    sized = {k: o for k, o in work.card.returned.items() if kind_of_output(o).sized}
    free = work.card.returned.keys() - sized.keys()
    try:
        mode = FastFakeMode(deadline)
        with silence_torch_logs(), fake_weights(model.lm._module, mode), contained():
            returned = run_session(model.lm, _single_call(work, call))[0]
            described = _stand_ins(returned, free)
    except Exception as error:  # the recipe is the user's code: anything can be raised
        if _is_mistake(error, work):
            raise recipe_error(work, error, "nothing was sent", model.lm) from error
        return _why_unknown(error, work)
    if isinstance(described, str):
        return described
    arrays = check_outputs(recipe_label(work.card), sized, described, example_count(call))
    return {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}


def _stand_ins(returned: Any, free: Collection[str]) -> Any:
    """The outputs, each replaced by a stand-in of its shape and dtype that takes no memory.

    Args:
        free: outputs without a shape, which are left out.
    """
    if not isinstance(returned, Mapping):
        return returned
    found: dict[Any, Any] = {}
    for name, value in returned.items():
        if name in free:
            continue
        stand_in = _stand_in(value)
        if stand_in is None and isinstance(value, list):
            stand_in = [_stand_in(item) for item in value]  # one per example, of any length
        if stand_in is _UNKNOWN or (
            isinstance(stand_in, list) and any(one is _UNKNOWN for one in stand_in)
        ):
            return f"the shape of {name!r} depends on numbers"
        found[name] = stand_in
    return found


#: Stands for a value whose shape depends on numbers.
_UNKNOWN = "unknown"


def _stand_in(value: Any) -> Any:
    """A memory-free array of a value's shape and dtype; None if it is not an array."""
    shape, dtype = _shape_and_dtype(value)
    if any(isinstance(size, torch.SymInt) for size in shape):
        return _UNKNOWN
    return np.broadcast_to(np.zeros((), dtype), shape) if dtype else None


def _shape_and_dtype(value: Any) -> tuple[tuple[Any, ...], np.dtype | None]:
    """Shape and dtype of a tensor, a number, or a list of them; no dtype for anything else."""
    if isinstance(value, FakeTensor):
        if value.dtype.is_complex:
            return (), None
        return tuple(value.shape), np.dtype(str(value.dtype).removeprefix("torch."))
    if isinstance(value, (list, tuple)) and value:
        parts = [_shape_and_dtype(item) for item in value]
        if any(dtype is None or shape != parts[0][0] for shape, dtype in parts):
            return (), None
        return (len(value), *parts[0][0]), np.result_type(*(dtype for _, dtype in parts if dtype))
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return (), None
    return array.shape, array.dtype if array.dtype.kind in "fiub" else None


# --- a mistake, or merely impossible to follow ----------------------------------------------------

#: torch's messages about shapes that do not match.
_SHAPES_DO_NOT_FIT = re.compile(
    r"must match the (size|existing size)|must match (the size|existing)|Sizes of tensors must match"
    r"|shapes? cannot be|same reduction dim|is invalid for input of size|Dimension out of range"
    r"|out of bounds for dimension|number of sizes provided|Expected size for first two dimensions"
    r"|expects each tensor to be equal size|expects? a?n? ?\d+D tensor|too many indices for tensor"
    r"|selected index k out of range|Attempting to broadcast|index out of range in self"
)
_OWN_MISTAKES = (
    AttributeError,
    NameError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AssertionError,
    ZeroDivisionError,
)
_CANNOT_FOLLOW = (
    DryRunTimeout,
    NotImplementedError,
    *(
        kind
        for name, kind in vars(fake_tensor).items()
        if name.endswith("Exception") and isinstance(kind, type)
    ),
)


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) and before not in chain:
        chain.append(before)
    return chain


def _is_mistake(error: Exception, work: Work) -> bool:
    """Whether a real run would certainly fail with this error too."""
    said = str(error)
    if isinstance(error, (OutOfOrderError, ProcessEnded)):
        return True
    if any(isinstance(e, _CANNOT_FOLLOW) for e in _chain(error)):
        return False
    if re.search(r"\b(meta|fake|FakeTensor|Sym(Int|Float|Bool)|u\d+)\b", said):
        return False
    if isinstance(error, (RuntimeError, IndexError, ValueError)) and _SHAPES_DO_NOT_FIT.search(
        said
    ):
        return True
    return isinstance(error, _OWN_MISTAKES) and _is_users_code(_innermost(error), work)


def _innermost(error: BaseException) -> str:
    """The file in which an error arose, nnsight's own frames left out."""
    nnsight = f"{os.sep}nnsight{os.sep}"
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return next((file for file in reversed(files) if nnsight not in file), "")


def _is_users_code(file: str, work: Work) -> bool:
    """Whether a file's code is sent with the job: the recipe, a local module, or the kit."""
    own = work.card.path.resolve() if work.card.path else work.function.__code__.co_filename
    kit = Path(interventions.__file__).parent
    if file == str(own) or Path(file).is_relative_to(kit):
        return True
    libraries = (Path(torch.__file__).parent.parent, Path(os.__file__).parent, kit.parent)
    return Path(file).is_file() and not any(Path(file).is_relative_to(x) for x in libraries)


def _why_unknown(error: Exception, work: Work) -> str:
    if any(isinstance(e, DryRunTimeout) for e in _chain(error)):
        return DryRunTimeout.reason
    line = line_in_recipe(work, error)
    where = f"{work.card.path}:{line}" if work.card.path else f"line {line}"
    if any(isinstance(e, _CANNOT_FOLLOW) for e in _chain(error)):
        return f"{where} depends on the numbers of a tensor"
    return f"{where} cannot be followed without numbers ({describe_error(error)})"

"""Computing without numbers: tensors with only a shape and a dtype (torch's fake tensors)."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from remote_mi.interventions.memory import memory


class DryRunTimeout(Exception):
    """The dry run exceeded its time budget."""

    reason = "a run without weights takes too long"


_CPU = torch.device("cpu")
_COPY = torch.ops.aten.copy_.default
_DEVICE = torch.ops.prim.device.default
_aten = torch.ops.aten
#: Operations whose result torch's own shape function derives from shapes alone.
_PLAIN = frozenset(
    getattr(getattr(_aten, name), overload or "default")
    for name, _, overload in (
        operation.partition(".")
        for operation in (
            "mm",
            "addmm",
            "bmm",
            "add.Tensor",
            "sub.Tensor",
            "mul.Tensor",
            "div.Tensor",
            "mul.Scalar",
            "add.Scalar",
            "view",
            "_unsafe_view",
            "t",
            "transpose.int",
            "permute",
            "expand",
            "slice.Tensor",
            "select.int",
            "unsqueeze",
            "clone",
            "detach",
            "neg",
            "rsqrt",
            "mean.dim",
            "pow.Tensor_Scalar",
            "cat",
            "silu",
            "gelu",
            "tanh",
            "alias",
            "_to_copy",
            "native_layer_norm",
            "exp",
            "_softmax",
            "_log_softmax",
            "split.Tensor",
            "cos",
            "sin",
            "copy_",
        )
    )
)


class FastFakeMode(FakeTensorMode):
    """Fake tensors with a fast path for plain operations, and a deadline.

    The fast path is the last step of the general one without its search for special cases: three
    times as fast, which saves a second per recipe and model.
    """

    def __init__(self, deadline: float) -> None:
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        # A number or a shape taken from a tensor's values raises at that very line, instead of
        # continuing with a symbol that a recipe does not expect.
        env = ShapeEnv(
            allow_scalar_outputs=False,
            allow_dynamic_output_shape_ops=False,
            assume_static_by_default=True,
        )
        super().__init__(allow_non_fake_inputs=True, shape_env=env)
        self.deadline = deadline

    def dispatch(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What torch calls for each operation."""
        if func is _DEVICE and type(args[0]) is FakeTensor and not self.in_kernel_invocation:
            return args[0].fake_device
        if time.thread_time() > self.deadline:
            raise DryRunTimeout()
        kwargs = dict(kwargs or {})
        if func not in _PLAIN or not _are_plain(args) or kwargs.pop("device", _CPU) != _CPU:
            return super().dispatch(func, types, args, kwargs)
        with fake_tensor.in_kernel_invocation_manager(self):
            out = func(*args, **kwargs)
        if func is _COPY:  # it returns its first argument, which must stay the fake one
            return args[0]
        if isinstance(out, torch.Tensor):
            return FakeTensor(self, out, _CPU)
        return type(out)(FakeTensor(self, one, _CPU) for one in out)


def _are_plain(values: Any) -> bool:
    """Whether all tensors are fake ones on the CPU, without a known value, and sizes are ints."""
    for value in values:
        if isinstance(value, torch.Tensor):
            if not (isinstance(value, FakeTensor) and value.fake_device == _CPU):
                return False
            if value.constant is not None:
                return False
        elif isinstance(value, torch.SymInt) or (
            isinstance(value, (list, tuple)) and not _are_plain(value)
        ):
            return False
    return True


class MeasuringFakeMode(FastFakeMode):
    """The same, tracking the peak memory the tensors would have taken, weights excluded.

    Storage shared by views counts once; what only autograd holds is not seen.
    """

    def __init__(self, deadline: float) -> None:
        super().__init__(deadline)
        self.peak = self.now = 0
        self._holders: dict[int, int] = {}

    def dispatch(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What torch calls for each operation."""
        out = super().dispatch(func, types, args, kwargs)
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            if type(tensor) is FakeTensor:
                self._hold(tensor)
        return out

    def _hold(self, tensor: FakeTensor) -> None:
        storage = tensor.untyped_storage()
        name, size = storage._cdata, storage.nbytes()
        holders = self._holders.get(name, 0)
        self._holders[name] = holders + 1
        if not holders:
            self.now += size
            self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self._release, name, size)

    def _release(self, name: int, size: int) -> None:
        left = self._holders.pop(name, 1) - 1
        if left:
            self._holders[name] = left
        else:
            self.now -= size


@contextmanager
def fake_weights(
    module: torch.nn.Module, mode: FastFakeMode, rows_bytes: int = 1 << 60
) -> Iterator[None]:
    """Compute without numbers; the model's weights appear to be on the CPU, as in a real run.

    Args:
        rows_bytes: memory for the rows of a sweep. Rows without numbers take none, so a single
            pass is enough unless their memory is measured.
    """
    tables: list[dict[str, Any]] = []
    for part in module.modules():
        tables += [part._parameters, part._buffers]
    kept = [dict(table) for table in tables]
    fakes: dict[int, torch.Tensor] = {}
    try:
        with memory(rows_bytes), mode:
            for table in tables:
                for name, tensor in table.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in fakes:  # a tied weight stays one weight
                        fakes[id(tensor)] = torch.empty_strided(
                            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=_CPU
                        )
                    table[name] = fakes[id(tensor)]
            yield
    finally:
        for table, before in zip(tables, kept, strict=True):
            table.clear()
            table.update(before)


@contextmanager
def silence_torch_logs() -> Iterator[None]:
    """Silence torch's logging about operations without numbers; the error says the same."""
    names = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled

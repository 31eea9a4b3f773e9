"""Isolating work on a model from the program it runs in.

remote_mi runs in other people's programs: notebooks, threads, servers, test suites. There

- only one thread of a process uses models at a time (`exclusive_model_use`). nnsight's tracing is
  not thread-safe: of two concurrent runs, one would read the other's activations;
- torch computes as in a fresh process, whatever the caller has set: default dtype, autocast,
  inference and gradient mode, default device, precision of matrix products;
- the libraries draw no progress bars and print no reports of their own.

Everything is restored when the work is done.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.common.process_state import IgnoredWarnings, Setting, SharedSettings
from remote_mi.common.progress import Watch


class _Turns:
    """Lets one thread of the process run at a time; a thread cannot take two turns at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    @contextmanager
    def take(self, watch: Watch | None) -> Iterator[None]:
        me = threading.get_ident()
        if self._owner == me:
            raise UsageError(
                "a run was started inside a run: a recipe's body cannot run another recipe",
                "run one after the other, or put both techniques into one recipe",
            )
        if not self._lock.acquire(blocking=False):
            if watch is not None:
                watch.stage("waiting for another run in this program")
            self._lock.acquire()
        self._owner = me
        try:
            yield
        finally:
            self._owner = None
            self._lock.release()


_turns = _Turns()


def _torch_settings() -> list[Setting | IgnoredWarnings]:
    import torch

    return [
        Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    ]


def _library_settings() -> list[Setting | IgnoredWarnings]:
    import huggingface_hub.utils as hub
    import transformers.utils.logging as bars
    from huggingface_hub import logging as hub_logging

    def are_drawn() -> tuple[bool, bool]:
        return bool(bars.is_progress_bar_enabled()), not hub.are_progress_bars_disabled()

    def draw(wanted: tuple[bool, bool]) -> None:
        # transformers' bars first, because they switch the hub's bars as well.
        bars.enable_progress_bar() if wanted[0] else bars.disable_progress_bar()
        hub.enable_progress_bars() if wanted[1] else hub.disable_progress_bars()

    nnsight = logging.getLogger("nnsight")
    return [
        # nnsight's warning that BERT has modules called `output`.
        IgnoredWarnings(UserWarning, message="Module '.*' has a submodule named"),
        Setting(bars.get_verbosity, bars.set_verbosity, logging.ERROR),
        Setting(hub_logging.get_verbosity, hub_logging.set_verbosity, logging.ERROR),
        Setting(lambda: nnsight.level, nnsight.setLevel, logging.ERROR),
        Setting(are_drawn, draw, (False, False)),
    ]


_torch = SharedSettings(_torch_settings)
_libraries = SharedSettings(_library_settings)


def quiet_libraries() -> Any:
    """A context in which libraries draw no bars and print no warnings; errors are still shown."""
    return _libraries.hold()


@contextmanager
def default_torch_settings() -> Iterator[None]:
    """A context in which torch computes as in a fresh process, whatever its caller has set."""
    import torch

    with ExitStack() as stack:
        stack.enter_context(_torch.hold())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(True))
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        # Only if necessary: setting a default device slows down every call of torch.
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def exclusive_model_use(watch: Watch | None = None) -> Iterator[None]:
    """A context for loading or tracing a model: one thread at a time, isolated settings, quiet.

    Args:
        watch: is notified if another run has to finish first.

    Raises:
        UsageError: if nested in the same thread.
    """
    with _turns.take(watch), default_torch_settings(), quiet_libraries():
        yield


def settings_to_record() -> dict[str, Any]:
    """Settings of the caller that are left alone and can change numbers within rounding."""
    import torch

    return {"deterministic": True} if torch.are_deterministic_algorithms_enabled() else {}

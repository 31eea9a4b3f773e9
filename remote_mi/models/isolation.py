"""What work on a model keeps to itself in the program that it runs in.

remote_mi runs in other people's programs: notebooks, threads, servers, test suites. There

- one thing at a time is done with models in a process (`exclusive_model_use`). nnsight's tracing is not made for
  threads: of two runs side by side one would read the other's activations;
- torch computes as in a fresh process, whatever the caller has set: default dtype, autocast,
  inference and gradient mode, default device, precision of matrix products;
- the libraries draw no bars and print no reports of their own.

All of it is as it was when the work is done.
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
    """One thread of the process at a time; the thread that has its turn cannot take another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    @contextmanager
    def take(self, watch: Watch | None) -> Iterator[None]:
        me = threading.get_ident()
        if self._owner == me:
            raise UsageError(
                "a run was started inside of a run: a recipe's body cannot run another recipe",
                "run one after the other, or put both techniques into one recipe",
            )
        if not self._lock.acquire(blocking=False):
            if watch is not None:
                watch.stage("waiting for another run of this program")
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
        # Those of transformers first: they switch those of the hub with them.
        bars.enable_progress_bar() if wanted[0] else bars.disable_progress_bar()
        hub.enable_progress_bars() if wanted[1] else hub.disable_progress_bars()

    nnsight = logging.getLogger("nnsight")
    return [
        # nnsight's way to say that BERT has modules called `output`.
        IgnoredWarnings(UserWarning, message="Module '.*' has a submodule named"),
        Setting(bars.get_verbosity, bars.set_verbosity, logging.ERROR),
        Setting(hub_logging.get_verbosity, hub_logging.set_verbosity, logging.ERROR),
        Setting(lambda: nnsight.level, nnsight.setLevel, logging.ERROR),
        Setting(are_drawn, draw, (False, False)),
    ]


_torch = SharedSettings(_torch_settings)
_libraries = SharedSettings(_library_settings)


def quiet_libraries() -> Any:
    """A context in which the libraries draw no bars and print no warnings; errors still come."""
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
        # Only where there is one: a default device costs every call of torch some time.
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def exclusive_model_use(watch: Watch | None = None) -> Iterator[None]:
    """A context for all that loads or traces a model: alone, with settings of its own, quiet.

    Args:
        watch: is told where another run has to end first.

    Raises:
        UsageError: inside of another one in the same thread.
    """
    with _turns.take(watch), default_torch_settings(), quiet_libraries():
        yield


def settings_to_record() -> dict[str, Any]:
    """Settings of the caller that are left as they are and can change numbers within rounding."""
    import torch

    return {"deterministic": True} if torch.are_deterministic_algorithms_enabled() else {}

"""What work on a model keeps to itself in the program that it runs in.

remote_mi runs in other people's programs: notebooks, threads, servers, test suites. There

- one thing at a time is done with models in a process (`at_work`). nnsight's tracing is not made for
  threads: of two runs side by side one would read the other's activations;
- torch computes as in a fresh process, whatever the caller has set: default dtype, autocast,
  inference and gradient mode, default device, precision of matrix products;
- the libraries draw no bars and print no reports of their own.

All of it is as it was when the work is done. What belongs to the whole process (torch's default
dtype, a library's verbosity) is set once by the first that needs it and put back by the last, so
that threads do not restore each other's values.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from remote_mi.errors import UsageError
from remote_mi.progress import Watch


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


class _Setting:
    """Something of the whole process: how it is read, how it is set, and its value during work."""

    def __init__(self, read: Callable[[], Any], put: Callable[[Any], None], ours: Any) -> None:
        self.read, self.put, self.ours = read, put, ours
        self._theirs: Any = None

    def hold(self) -> None:
        self._theirs = self.read()
        if self._theirs != self.ours:
            self.put(self.ours)

    def give_back(self) -> None:
        """As it was; a value that the program has set meanwhile stays."""
        if self._theirs != self.ours and self.read() == self.ours:
            self.put(self._theirs)


class _Held:
    """Settings that are ours as long as anybody holds them."""

    def __init__(self, settings: Callable[[], list[_Setting]]) -> None:
        self._make, self._settings = settings, []
        self._mutex, self._holders = threading.Lock(), 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        with self._mutex:
            self._holders += 1
            if self._holders == 1:
                self._settings = self._make()
                for setting in self._settings:
                    setting.hold()
        try:
            yield
        finally:
            with self._mutex:
                self._holders -= 1
                if not self._holders:
                    for setting in self._settings:
                        setting.give_back()


def _settings_of_torch() -> list[_Setting]:
    import torch

    return [
        _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        _Setting(
            torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"
        ),
    ]


def _settings_of_libraries() -> list[_Setting]:
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
        _Setting(bars.get_verbosity, bars.set_verbosity, logging.ERROR),
        _Setting(hub_logging.get_verbosity, hub_logging.set_verbosity, logging.ERROR),
        _Setting(lambda: nnsight.level, nnsight.setLevel, logging.ERROR),
        _Setting(are_drawn, draw, (False, False)),
    ]


_torch = _Held(_settings_of_torch)
_libraries = _Held(_settings_of_libraries)


def quiet_libraries() -> Any:
    """A context in which the libraries draw no bars and print no warnings; errors still come."""
    return _libraries.hold()


@contextmanager
def own_settings() -> Iterator[None]:
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
def at_work(watch: Watch | None = None) -> Iterator[None]:
    """A context for all that loads or traces a model: alone, with settings of its own, quiet.

    Args:
        watch: is told where another run has to end first.

    Raises:
        UsageError: inside of another one in the same thread.
    """
    with _turns.take(watch), own_settings(), quiet_libraries(), warnings.catch_warnings():
        # nnsight's way to say that BERT has modules called `output`.
        warnings.filterwarnings("ignore", message="Module '.*' has a submodule named")
        yield


def noted_settings() -> dict[str, Any]:
    """Settings of the caller that are left as they are and can change numbers within rounding."""
    import torch

    return {"deterministic": True} if torch.are_deterministic_algorithms_enabled() else {}

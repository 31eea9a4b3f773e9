"""A few cases of every kind of tests/soak/fuzz.py, which tries ten thousand of them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ..soak.alterations import KINDS
from ..soak.fuzz import run_case, set_up


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_altered_a_command_ends_with_a_result_or_a_message(
    project: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(project)
    before = {timer: signal.getsignal(timer) for timer in (signal.SIGALRM, signal.SIGPROF)}
    try:
        set_up(project)
        found = [fault for number in range(6) for fault in run_case(kind, number, 0, project)]
    finally:
        for timer, handler in before.items():
            signal.signal(timer, handler)
    assert not found, found

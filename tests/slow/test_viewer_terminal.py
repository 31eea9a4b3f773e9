"""The viewer in a real terminal, by way of tmux: what a person types, and what stands on the screen."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import pytest

from ..fast.report.viewing import HOSTILE, failed, kept, result_of

VIEW = [sys.executable, "-m", "remote_mi", "view"]


class Terminal:
    """A terminal of its own in tmux."""

    def __init__(self, width: int, height: int) -> None:
        self.name = f"remote-mi-{uuid.uuid4().hex[:8]}"
        self.size = ["-x", str(width), "-y", str(height)]

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self.name, "-f", "/dev/null", *words],
            capture_output=True,
            text=True,
            timeout=240,
        )
        return done.stdout

    def start(self, command: str, **environment: str) -> None:
        """Run a command line; what it leaves with is shown as `left N`, and the screen stays."""
        given = [x for k, v in environment.items() for x in ("-e", f"{k}={v}")]
        given += ["-e", f"REMOTE_MI_PROJECT={os.environ['REMOTE_MI_PROJECT']}"]
        self.tmux(
            "new-session", "-d", *self.size, *given, f"{command}; echo left $?; exec sleep 300"
        )
        self.tmux("set-option", "-g", "set-clipboard", "on")

    def keys(self, *names: str) -> None:
        self.tmux("send-keys", *names)

    @property
    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def until(self, said: str, seconds: float = 30) -> str:
        """The screen, once it says something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if said in (screen := self.screen):
                return screen
            time.sleep(0.1)
        raise AssertionError(f"the screen never said {said!r}; it says:\n{self.screen}")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        if os.environ.get("CI"):
            pytest.fail("there is no tmux; apt-get install tmux")
        pytest.skip("there is no tmux")
    made = Terminal(80, 24)
    yield made
    made.tmux("kill-server")


def test_it_is_opened_moved_in_searched_helped_copied_from_and_left(project, terminal):
    terminal.start(shlex.join([*VIEW, "demo"]))
    screen = terminal.until("layer 19 · position 9 [s2]")  # the largest effect
    assert len(screen.splitlines()) == 24 and "? help" in screen
    terminal.keys("Up", "Right")
    terminal.until("layer 20 · position 10")
    terminal.keys("C-Home")
    terminal.until("layer 29 · position 0 When")
    terminal.keys("/", "s", "2", "Enter")
    terminal.until("layer 29 · position 9 [s2]")
    terminal.keys("2")
    terminal.until("[2 largest recovery]")
    terminal.keys("Tab", "Tab", "BTab")
    terminal.until("[3 Runs]")
    terminal.keys("1", "?")
    terminal.until("Keys of the viewer")
    terminal.keys("Escape")
    terminal.until("[1 recovery]")
    terminal.keys("g", "y")
    terminal.until("copied")
    assert "recovery 1.02" in terminal.tmux("show-buffer"), "the clipboard, by way of the terminal"
    terminal.tmux("resize-window", "-x", "120", "-y", "40")
    wide = terminal.until("z zoom")
    assert len(wide.splitlines()) == 40 and "layer 19" in wide
    terminal.keys("q")
    assert "next: remote-mi view demo --plain" in terminal.until("left 0")


def test_ctrl_c_leaves_it(project, terminal):
    terminal.start(shlex.join([*VIEW, "demo"]))
    terminal.until("? help")
    terminal.keys("/", "x", "C-c")
    assert "next: remote-mi view demo --plain" in terminal.until("left 130")


def test_hostile_text_cannot_act_on_the_terminal(project, terminal):
    kept(project, result_of(HOSTILE))
    terminal.start(shlex.join(VIEW))
    terminal.until("? help")
    for _ in range(12):
        terminal.keys("End", "Down", "Tab")
        time.sleep(0.2)
        lines = terminal.screen.splitlines()
        assert lines[0].startswith("remote-mi  everything") and "? help" in lines[-1]
    assert "AAAA" not in terminal.tmux("show-buffer")
    terminal.keys("q")
    terminal.until("left 0")


def test_ids_may_come_from_a_pipe_while_keys_come_from_the_terminal(project, terminal):
    runs = [kept(project, result_of(["a", "b"])) for _ in range(2)]
    ids = " ".join(run.name.rsplit("-", 1)[-1] for run in runs)
    terminal.start(f"echo {ids} | {shlex.join([*VIEW, '-'])}", NO_COLOR="1")
    terminal.until("? help")
    terminal.keys("8")
    screen = terminal.until("[8 Runs]")
    assert screen.count("●") == 2, "the runs that were given are marked"
    terminal.keys("=")
    terminal.until("nothing differs")
    terminal.keys("q")
    terminal.until("left 0")


def test_a_failed_run_and_a_screen_that_is_none(project, terminal):
    failed(project)
    terminal.start(shlex.join(VIEW))
    terminal.until("line_12 = 12")
    terminal.keys("q")
    assert "line_12" not in terminal.until("left 0"), "the screen is as it was before"
    other = Terminal(80, 24)
    try:
        other.start(f"TERM=dumb {shlex.join(VIEW)}")
        assert "KeyError" in other.until("left 1"), "text, where a terminal can do no more"
    finally:
        other.tmux("kill-server")

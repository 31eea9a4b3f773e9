"""How long the viewer takes to open, and to answer a key on a heatmap of 80 × 512 cells.

Whole processes on a pseudo-terminal, as a terminal sees them. Opening is from the start of the
process to the first row of the recorded run on screen. A step is from the key to the last byte of
what it changes; every step scrolls, so that all cells are drawn again.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import statistics
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

import numpy as np
from _common import arguments, at_least_one, conditions, describe, report, spread

from remote_mi import Heatmap
from remote_mi.recipes.card import Card
from remote_mi.recipes.outputs import Output
from remote_mi.store.result import Result
from remote_mi.store.run_record import RunRecord
from remote_mi.store.runs import Runs

ROWS, COLUMNS = 80, 512
SCREENS = ((80, 24), (200, 50), (300, 70))
KEYS = {"right": b"\x1b[C", "down": b"\x1b[B"}
#: Seconds without output after which a step is over.
_QUIET = 0.1


class Screen:
    """The viewer in a process and terminal of its own."""

    def __init__(self, words: list[str], size: tuple[int, int]) -> None:
        self.started = time.perf_counter()
        self.process, self.terminal = pty.fork()
        if not self.process:
            for name in ("COLUMNS", "LINES", "NO_COLOR"):
                os.environ.pop(name, None)
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            os.execv(sys.executable, [sys.executable, "-m", "remote_mi", "view", *words])
        shape = struct.pack("HHHH", size[1], size[0], 0, 0)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, shape)

    def until(self, said: bytes) -> float:
        """Seconds from the start until the screen says something."""
        seen = b""
        while said not in seen:
            select.select([self.terminal], [], [])
            seen += os.read(self.terminal, 1 << 16)
        return time.perf_counter() - self.started

    def press(self, key: bytes) -> tuple[float, int]:
        """Seconds from a key to the last byte it changes, and how many bytes."""
        pressed = last = time.perf_counter()
        os.write(self.terminal, key)
        count = 0
        while select.select([self.terminal], [], [], _QUIET if count else 1.0)[0]:
            count += len(os.read(self.terminal, 1 << 16))
            last = time.perf_counter()
        return last - pressed, count

    def leave(self) -> None:
        os.write(self.terminal, b"q")
        try:
            while os.read(self.terminal, 1 << 16):
                pass
        except OSError:
            pass  # the other end has gone
        os.waitpid(self.process, 0)
        os.close(self.terminal)


def large(project: Path) -> Path:
    """A run of one heatmap of `ROWS` × `COLUMNS` random cells."""
    values = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    tokens = [f" word{i}" for i in range(COLUMNS)]
    card = Card(
        "large",
        "prompt",
        {"effect": Output(("layer", "position"))},
        {},
        (Heatmap("effect", center=0),),
    )
    document = {
        "parts": [{"tokens": tokens, "labels": {}, "clean": "".join(tokens)}],
        "axes": {"effect": {"layer": list(range(ROWS)), "position": tokens}},
        "notes": [],
        "vocabulary": {},
    }
    provenance = {
        "key": "0" * 64,
        "parameters": {},
        "prompts": {},
        "model": {"name": "none"},
        "environment": {"kind": "local-cpu", "nnsight": "", "transformers": "", "torch": ""},
    }
    result = Result(card.to_json(), document, {"effect": values, "effect@0": values}, provenance)
    path = Runs(project).write(RunRecord("0" * 8, result, {})).path
    assert path is not None
    return path


def opening() -> float:
    screen = Screen(["demo"], (100, 30))
    taken = screen.until(b"layer")
    screen.press(b"g")
    screen.leave()
    return taken


def steps(folder: Path, size: tuple[int, int], key: str, count: int) -> list[float]:
    """Seconds of each step."""
    screen = Screen([str(folder)], size)
    screen.until(b"layer")
    for start in (b"g", b"\x1b[1;5H", KEYS["right"] * (size[0] // 5), KEYS["down"] * (size[1] - 9)):
        screen.press(start)
    found = [screen.press(KEYS[key]) for _ in range(count)]
    screen.leave()
    return [seconds for seconds, bytes_ in found if bytes_ > 200]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeat", type=at_least_one, default=15, help="openings [15]")
    parser.add_argument("--steps", type=at_least_one, default=60, help="keys on each screen [60]")
    given = parser.parse_args()
    before = conditions("textual", "rich", "numpy")
    figures = {"open": [opening() for _ in range(given.repeat)]}
    with tempfile.TemporaryDirectory() as project:
        folder = large(Path(project))
        for size in SCREENS:
            for key in KEYS:
                most = given.steps if key == "right" else min(given.steps, ROWS - size[1])
                if most > 0:
                    name = f"{key}, {size[0]} × {size[1]}"
                    figures[name] = steps(folder, size, key, most)
    rows = [
        (name, f"{statistics.median(times) * 1000:.0f} ms", f"{spread(times)} s")
        for name, times in figures.items()
    ]
    notes = ["goals: open 500 ms, a step 50 ms", describe(before)]
    report(
        "The viewer",
        ("what", "median", "range"),
        rows,
        notes,
        {"conditions": before, "seconds": figures},
        given.json,
    )


if __name__ == "__main__":
    main()

"""Commands run in this process against a scripted server that serves the tiny model.

A recipe, a prompt, and the numbers that the server is scripted to send: whatever a command shows
is compared with these. Every command is checked for what none may do, whatever goes wrong: show a
traceback, name a mistake of ours, or let the key be seen.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from remote_mi.backends.ledger import Entry, Ledger
from remote_mi.backends.ndif import client, waiting
from remote_mi.backends.ndif_server import personal
from remote_mi.jobs import start_collector

from . import replies
from .scripted import Reply

KEY = "99999999-9999-4999-8999-999999999999"
PROMPT = "When Mary and John went to"
#: What the scripted server says the recipe gave.
NUMBERS = torch.arange(6, dtype=torch.float32) / 7
VALUES = NUMBERS.tolist()
RESULT = {"outputs": [{"first": NUMBERS}]}
BLOB = replies.saved(RESULT)
#: The script of a result that is as it should be.
RIGHT = [Reply(body=BLOB)]

RECIPE = '''"""One number a position."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi.interventions import Prompt
from remote_mi import recipe


@recipe(over="prompt", returns={"first": ("position",)})
def first(lm: Any, prompt: Prompt, *, scale: float = 1.0) -> dict[str, Any]:
    """The first number of the stream after layer 0."""
    with lm.trace(input_ids=torch.tensor([prompt.ids])):
        first = lm.layers[0].output[0, :, 0] * scale
    return {"first": first}
'''


@dataclass(frozen=True)
class Said:
    """What a command did: its exit code, what it printed, and how long it took."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def values(self) -> list[float]:
        """The numbers it showed."""
        assert self.code == 0, self.err
        return json.loads(self.out)["outputs"]["first"]["values"]


@dataclass
class Faulty:
    """Commands in a project, and its ledger."""

    cli: Callable[..., tuple[int, str, str]]
    monkeypatch: pytest.MonkeyPatch
    project: Path
    model: Path
    ledger: Ledger
    #: Projects for which a collector was wanted; none is started.
    collectors: list[Path] = field(default_factory=list)

    def command(self, url: str, *options: object) -> list[str]:
        """A command that runs the recipe on the server at an address."""
        return [
            "run",
            "first",
            "--model",
            str(self.model),
            "--backend",
            f"ndif:{url}",
            "-p",
            f"prompt={PROMPT}",
            "--json",
            *(str(o) for o in options),
        ]

    def run(self, url: str, *options: object) -> Said:
        """Run the recipe there."""
        return self.do(*self.command(url, *options))

    def wait(self, *options: object) -> Said:
        """Wait for the newest job."""
        return self.do("jobs", "wait", "--json", *options)

    def do(self, *arguments: object) -> Said:
        """Any command, ended by itself and in decent words."""
        self.monkeypatch.setattr(sys, "argv", ["remote-mi", *(str(a) for a in arguments)])
        begun = time.monotonic()
        code, out, err = self.cli(*arguments)
        said = Said(code, out, err, time.monotonic() - begun)
        assert "Traceback" not in err and "unexpected" not in err, err
        assert KEY not in out and KEY not in err
        assert code == 0 or "error: " in err or "warning: " in err, (code, err)
        return said

    @property
    def entries(self) -> list[Entry]:
        """The ledger, oldest first."""
        return self.ledger.all()

    @property
    def states(self) -> list[str]:
        """State of every entry, oldest first."""
        return [entry.state for entry in self.entries]


def faulty_client(
    cli: Any, project: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> Faulty:
    """Commands against servers of this machine, all of which serve the tiny model; short waits."""

    def served(host: str) -> personal.Served:
        models = {"remote-mi/tiny-llama": tiny_llama}
        return personal.Served(host, "http://127.0.0.1:9", models, False, {"plain": KEY})

    monkeypatch.setattr(personal, "running_server", served)
    monkeypatch.setattr(waiting, "LOOKUP_S", 0.2)
    monkeypatch.setattr(client, "DOWNLOAD_PAUSE_S", 0.01)
    monkeypatch.setattr(waiting, "POLL_LAST_S", 0.2)
    (project / "recipes").mkdir()
    (project / "recipes" / "first.py").write_text(RECIPE)
    made = Faulty(cli, monkeypatch, project, tiny_llama, Ledger(project))
    monkeypatch.setattr(start_collector, "start", made.collectors.append)
    return made

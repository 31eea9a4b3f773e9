"""The viewer driven by keys as a person does, and runs with every kind of figure to drive it on."""

from __future__ import annotations

import asyncio
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len

from remote_mi import Bars, Heatmap, Lines, Table, Text, TokenGrid
from remote_mi.recipes.card import Card
from remote_mi.recipes.outputs import Output, Ratio, Tokens
from remote_mi.report.viewer.app import Viewer
from remote_mi.report.viewer.header_footer import screen_text
from remote_mi.store.opening import sibling_runs
from remote_mi.store.result import Result
from remote_mi.store.run_record import RunRecord
from remote_mi.store.runs import Runs

HOSTILE = [
    "\x1b[31mred\x1b[0m\x1b]52;c;AAAA\x07",
    "[bold]markup[/bold][/]",
    "\u202egnp.evil\u202c",
    "z\u200b\u200d\u0301w",
    "漢字のトークン",
    "\r\n\t\x00\x9b2J",
    "$(rm -rf)`x`",
    "x" * 1_000_000,
]
LAYERS = 6
CARD = Card(
    "everything",
    "pair",
    {
        "effect": Output(("layer", "position")),
        "other": Output(("layer", "position")),
        "gap": Output(()),
        "top": Tokens("layer", "position", "rank"),
        "prob": Output(("layer", "position", "rank")),
        "said": Tokens("step"),
        "pattern": Output(("layer", "head", "query", "key")),
        "dose": Output(("seed", "head", "coefficient")),
    },
    {"recovery": Ratio("effect", "gap")},
    (
        Heatmap("recovery", title="[red]recovery[/red]", center=0),
        TokenGrid("top", shade="prob"),
        Heatmap("pattern", rows="query", columns="key"),
        Bars("effect", unit="nats"),
        Lines("dose"),
        Text("said"),
        Table("gap", columns=("said",)),
    ),
)


def result_of(tokens: list[str], prompts: int = 1) -> Result:
    """A result with every kind of figure, over some tokens, of random numbers."""
    rng = np.random.default_rng(0)
    n = len(tokens)
    made = {
        "effect": rng.normal(size=(LAYERS, n)),
        "other": rng.uniform(size=(LAYERS, n)),
        "gap": np.float64(2.0),
        "top": rng.integers(0, n, (LAYERS, n, 2)),
        "prob": rng.uniform(size=(LAYERS, n, 2)),
        "said": np.arange(n),
        "pattern": rng.uniform(size=(LAYERS, 2, n, n)),
        "dose": rng.normal(size=(2, 3, 4)),
    }
    arrays = {
        f"{name}@{i}": np.asarray(v) + (i if v.dtype.kind == "f" else 0)
        for name, v in made.items()
        for i in range(prompts)
    }
    arrays |= {k: np.asarray(v) for k, v in made.items() if prompts == 1 or v.dtype.kind == "f"}
    arrays["recovery"] = made["effect"] / 2
    arrays |= {"recovery:low": made["effect"] / 2 - 0.1, "recovery:high": made["effect"] / 2 + 0.1}
    sizes = {
        "layer": list(range(LAYERS)),
        "head": [0, 1, 2],
        "seed": [7, 8],
        "rank": [0, 1],
        "coefficient": [-1.0, 0.0, 1.0, 2.0],
        "step": list(range(n)),
    }
    axes = {}
    for name in (*CARD.returns, *CARD.summaries):
        dims = CARD.returns["effect" if name == "recovery" else name].dims
        axes[name] = {d: sizes.get(d, tokens) for d in dims}
    axes["pattern"]["head"] = [0, 1]
    parts = [
        {"tokens": tokens, "labels": {}, "clean": "".join(tokens)[:5000], "corrupt": "b"}
        for _ in range(prompts)
    ]
    document = {
        "parts": parts,
        "axes": axes,
        "notes": [tokens[0]],
        "vocabulary": {str(i): t for i, t in enumerate(tokens)},
    }
    provenance = {
        "key": "0" * 64,
        "model": {"name": tokens[0]},
        "parameters": {"x": tokens[1]},
        "prompts": {"origin": "list"},
        "cache": "miss",
        "record": {"dtype": "float32"},
        "environment": {"kind": "local-cpu", "nnsight": "0", "transformers": "0", "torch": "0"},
    }
    return Result(CARD.to_json(), document, arrays, provenance)


def kept(project: Path, result: Result, error: str | None = None, **sources: str) -> Path:
    """A run folder of a result."""
    files = {f"{k}.py": text.encode() for k, text in sources.items()}
    record = RunRecord(os.urandom(4).hex(), result, {"schema": 1}, files, [], error)
    path = Runs(project).write(record).path
    assert path is not None
    return path


def driven(folder: Path, project: Path, drive, size=(80, 24)):
    """Open the viewer on a run, and drive it."""

    async def run():
        room = Runs(project) if folder.parent == project / "runs" else sibling_runs(folder)
        app = Viewer(folder, project, room)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await drive(app, pilot)

    with pytest.MonkeyPatch.context() as patch:
        # Between keys, wait for the screen; the pilot waits for the processor to be idle on top.
        patch.setattr("textual.app.wait_for_idle", _briefly)
        patch.setattr("textual.pilot.wait_for_idle", _briefly)
        asyncio.run(asyncio.wait_for(run(), 120))


async def _briefly(*_: float) -> None:
    await asyncio.sleep(0.005)


def whole(app: Viewer, width: int) -> str:
    """The screen's text, after checking that it is as wide as the screen and holds no controls."""
    text = screen_text(app)
    for line in text.splitlines():
        assert cell_len(line) <= width, line
        bad = [c for c in line if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Mn")]
        assert not bad, (line, bad)
    return text


async def until(pilot, true, seconds: float = 20) -> None:
    """Wait until something is true of the screen."""
    end = asyncio.get_running_loop().time() + seconds
    while not true():
        assert asyncio.get_running_loop().time() < end, screen_text(pilot.app)
        await pilot.pause(0.02)


async def says(pilot, said: str) -> None:
    """Wait until the screen says something."""
    await until(pilot, lambda: said in screen_text(pilot.app))


async def settled(app: Viewer, pilot) -> None:
    """Wait for what goes on beside, and for the screen."""
    await asyncio.wait_for(app.workers.wait_for_complete(), 60)
    await pilot.pause()


def failed(project: Path) -> Path:
    result = result_of(["a", "b"])
    record = {"server_said": "Traceback on the server\n\x1b[31mCUDA error"}
    result.provenance = {**result.provenance, "record": record}
    code = "\n".join(f"line_{i} = {i}" for i in range(1, 30))
    return kept(project, result, "mine.py:12: KeyError: 'mine'", mine=code)

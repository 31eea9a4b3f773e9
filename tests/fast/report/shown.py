"""A result with a figure of every kind, made without a model, and hostile texts to show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from remote_mi.jobs.aggregation import Part, assemble
from remote_mi.recipes.card import Card
from remote_mi.recipes.figures import Bars, Figure, Heatmap, Lines, Table, Text, TokenGrid
from remote_mi.recipes.outputs import Output, Tokens
from remote_mi.store.result import Result
from remote_mi.store.run_record import RunRecord
from remote_mi.store.runs import Runs

DOC = """Where something is.

It is computed as

    effect[l, p] = a < b

Sign: positive is `more`.
Control: a random direction of the same length.
Not implemented: everything else.

Args:
    site: what is <b>read</b>.
"""
FIGURES: tuple[Figure, ...] = (
    Heatmap("effect", center=0, unit="nats"),
    Bars("effect"),
    Lines("curve", title="curve over layers"),
    Heatmap("pattern", rows="query", columns="key"),
    TokenGrid("top", shade="prob"),
    Text("said", title="text"),
    Table("score", title="pairs", columns=("first",)),
)
CARD = Card(
    "probing",
    "pair",
    {
        "effect": Output(("layer", "position")),
        "control": Output(("draw", "layer", "position")),  # 3 pairs and 2 draws can be told
        "curve": Output(("head", "layer")),
        "pattern": Output(("layer", "query", "key")),
        "top": Tokens("layer", "position", "rank"),
        "prob": Output(("layer", "position", "rank")),
        "said": Tokens("step"),
        "score": Output(()),
        "first": Tokens("one"),
    },
    {},
    FIGURES,
    controls={"effect": "control"},
    doc=DOC,
    references=("zhang2023patching",),
)
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=http://192.0.2.7/x onerror=alert(1)>",
    "\"' onmouseover=alert(1) x='",
    "javascript:alert(1)",
    "\x1b[2J\x07\x00\r\n",
    "\u202egnp.exe\u2066\u200b",
    "=cmd|' /C calc'!A0",
    "$\\frac{1}{0}$ 中文 |a|b| `x` [l](javascript:alert(1)) ![i](http://192.0.2.7/y) \ud800",
    "x" * 1_000_000,
]


def result(tokens: list[str] | None = None, n: int = 3, layers: int = 4) -> Result:
    """The result of `n` pairs of prompts with these tokens."""
    tokens = ["When", " Mary", " and", " to"] if tokens is None else tokens
    rng = np.random.default_rng(0)
    size = len(tokens)
    shape = (layers, size)
    base = rng.normal(0, 1, shape)
    if layers > 1 and size > 2:
        base[1, 2] = 6.0  # larger than anything by chance
    parts = [
        Part(
            {
                "effect": (base + rng.normal(0, 0.1, shape)).astype(np.float32),
                "control": rng.normal(0, 0.5, (2, *shape)).astype(np.float32),
                "curve": (np.linspace(-1, 3, layers) * [[1], [-1]]).astype(np.float32)
                + rng.normal(0, 0.05, (2, layers)).astype(np.float32),
                "pattern": rng.uniform(0, 1, (layers, size, size)).astype(np.float32),
                "top": rng.integers(0, max(1, size), (*shape, 2)),
                "prob": rng.uniform(0, 1, (*shape, 2)).astype(np.float32),
                "said": np.arange(size),
                "score": np.float32(rng.normal(2, 1)),
                "first": np.array([size - 1]),
            },
            tokens,
            {"end": size - 1},
            "t",
            {
                "clean": "".join(tokens),
                "corrupt": "c",
                "answer": "".join(tokens[-1:]),
                "wrong": " x",
            },
        )
        for _ in range(n)
    ]
    made = assemble(CARD, parts)
    document = {
        "parts": [{"tokens": p.tokens, "labels": dict(p.labels), **p.text} for p in parts],
        **made.document,
        "notes": made.notes,
        "vocabulary": {str(i): text for i, text in enumerate(tokens)},
    }
    return Result(CARD.to_json(), document, made.arrays, provenance())


def provenance() -> dict[str, Any]:
    return {
        "key": "0" * 64,
        "model": {"name": "tiny", "revision": None},
        "parameters": {"site": "here"},
        "prompts": {"origin": "command line"},
        "record": {"device": "cpu", "dtype": "float32"},
        "environment": {
            "kind": "local-cpu",
            "torch": "2.13",
            "nnsight": "0.8.1",
            "transformers": "5.22",
        },
        "time": "2026-01-02T03:04:05Z",
        "cache": "miss",
        "reason": "here",
    }


def kept(project: Path, found: Result, id8: str = "aaaa1111", error: str | None = None) -> Result:
    """The result as a run of a project."""
    lock = {
        "recipe": {"name": found.recipe["name"]},
        "model": {"name": "tiny"},
        "parameters": {"site": "here"},
        "prompts": {
            "origin": "command line",
            "examples": [{"clean": "Mary", "corrupt": "John", "answer": " a", "wrong": " b"}],
        },
    }
    return Runs(project).write(RunRecord(id8, found, lock, error=error))

"""How often 95% intervals hold the truth, and how often maps without an effect have a claim.

    python tests/benchmarks/coverage.py [--repeat 4000]

Prints the tables of docs/statistics.md: coverage of means, ratios, shares, differences, clusters and
two-way clusters, beside the percentile bootstrap; false alarms of maps by exchanging roles in steps,
beside single cells and Benjamini-Hochberg; and the power for an effect of one cell.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from remote_mi.common.statistics.intervals import (
    difference_interval,
    mean_interval,
    ratio_interval,
    share_interval,
    two_way_interval,
)
from remote_mi.common.statistics.randomisation import LEVEL, exchange_roles

SIZES = (2, 3, 5, 8, 24, 90)
Law = Callable[[Any, tuple[int, ...]], np.ndarray]
LAWS: dict[str, Law] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "skewed": lambda rng, size: rng.lognormal(size=size) - np.exp(0.5),
    "heavy-tailed": lambda rng, size: rng.standard_t(2, size=size),
    "correlated cells": lambda rng, size: (
        rng.normal(size=(*size[:-1], 1)) + 0.3 * rng.normal(size=size)
    ),
}


def covered(found: Any, truth: Any) -> float:
    """The share of intervals that hold the truth."""
    return float(np.mean((found.low <= truth) & (truth <= found.high)))


def bootstrap(values: np.ndarray, truth: float, rng: Any) -> float:
    """The coverage of the percentile bootstrap with 1000 resamples."""
    n, hits = len(values), 0
    picked = rng.integers(0, n, (1000, n))
    for column in values.T[:1000]:
        low, high = np.percentile(column[picked].mean(1), (2.5, 97.5))
        hits += low <= truth <= high
    return hits / min(1000, values.shape[1])


def ratios(n: int, size: float, law: str, repeat: int, rng: Any) -> tuple[float, float]:
    """The coverage of ratios 0.5 where they are given, and how often they are.

    Args:
        size: of the mean gap, in standard deviations.
    """
    hits, given, times = 0.0, 0, max(200, repeat // 10)
    for _ in range(times):
        if law == "normal":
            gap, noise = rng.normal(size, 1, n), rng.normal(0, 0.5, (n, 20))
        else:
            off = np.exp(0.5 * 0.7**2)
            gap = size * rng.lognormal(0, 0.7, n) / off
            noise = 0.5 * (rng.lognormal(0, 0.7, (n, 20)) - off)
        if bool(mean_interval(gap).excludes_zero):
            hits += covered(ratio_interval(0.5 * gap[:, None] + noise, gap), 0.5)
            given += 1
    return hits / given if given else np.nan, given / times


def coverage(repeat: int, rng: Any) -> Iterator[dict[str, str]]:
    """One row for each number of samples."""
    for n in SIZES:
        normal, skewed = rng.normal(1, 1, (n, repeat)), rng.lognormal(0, 1, (n, repeat))
        share = rng.uniform(0.02, 0.98, repeat)
        right = (rng.random((n, repeat)) < share).astype(float)
        of = np.repeat(np.arange(n), 3)
        clustered = rng.normal(0, 1, (n, repeat))[of] + rng.normal(0, 1, (3 * n, repeat))
        row: dict[str, Any] = {
            "n": n,
            "mean": covered(mean_interval(normal), 1),
            "log-normal": covered(mean_interval(skewed), np.exp(0.5)),
            "bootstrap": bootstrap(normal, 1, rng),
            "its log-normal": bootstrap(skewed, float(np.exp(0.5)), rng),
            "share": covered(share_interval(right), share),
            "difference": covered(
                difference_interval(rng.normal(0, 1, (n, repeat)), rng.normal(1, 2, (n, repeat))), 1
            ),
            "clusters of 3": covered(mean_interval(clustered, of.tolist()), 0),
        }
        for name, size, law in (
            ("ratio", 4.0, "normal"),
            ("weak ratio", 1.0, "normal"),
            ("log-normal ratio", 1.0, "log-normal"),
        ):
            found, given = ratios(n, size, law, repeat, rng)
            row[name] = f"{found:.3f} ({given:.0%})"
        for rows in (2, 3, 5):
            grid = rng.normal(size=(rows, n, 2000)) + rng.normal(size=(1, n, 2000))
            grid = grid + rng.normal(size=(rows, 1, 2000))
            row[f"{rows} × n"] = covered(two_way_interval(grid), 0)
        yield {k: f"{v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()}


def by_hochberg(p: np.ndarray) -> bool:
    """Whether Benjamini and Hochberg's procedure claims anything."""
    ordered = np.sort(p)
    return bool((ordered <= LEVEL * np.arange(1, len(p) + 1) / len(p)).any())


def single_cells(effect: np.ndarray, control: np.ndarray) -> np.ndarray:
    """The level of each cell by itself."""
    cells = range(effect.shape[1])
    return np.array([exchange_roles(effect[:, [c]], control[:, :, [c]]).p[0] for c in cells])


def alarms(repeat: int, rng: Any) -> Iterator[dict[str, str]]:
    """The share of maps with a claim where effect and control are of one law."""
    for units, draws in ((2, 4), (3, 3), (5, 1), (8, 1), (24, 1), (90, 1)):
        for law, make in LAWS.items():
            count = {"in steps": 0, "cell by cell": 0, "Benjamini-Hochberg": 0}
            times, few = max(200, repeat // 8), max(40, repeat // 80)
            for index in range(times):
                values = make(rng, (units, draws + 1, 60))
                effect, control = values[:, 0], values[:, 1:]
                count["in steps"] += bool((exchange_roles(effect, control).p <= LEVEL).any())
                if index < few:
                    p = single_cells(effect, control)
                    count["cell by cell"] += bool((p <= LEVEL).any())
                    count["Benjamini-Hochberg"] += by_hochberg(p)
            shares = {k: v / (times if k == "in steps" else few) for k, v in count.items()}
            row = {"units × draws": f"{units} × {draws}", "law": law}
            yield {**row, **{k: f"{v:.3f}" for k, v in shares.items()}}


def power(repeat: int, rng: Any) -> Iterator[dict[str, str]]:
    """How often the one cell of 420 that has an effect is told, by its size."""
    for units in (5, 8, 24, 90):
        row = {"pairs": str(units)}
        for size in (0.5, 1.0, 2.0, 4.0, 8.0):
            found = 0
            times = max(50, repeat // 40)
            for _ in range(times):
                values = rng.normal(size=(units, 2, 420))
                values[:, 0, 7] += size
                told = exchange_roles(values[:, 0], values[:, 1:]).p[7] <= LEVEL
                found += bool(told and mean_interval(values[:, 0, 7]).excludes_zero)
            row[f"{size:g} sd"] = f"{found / times:.2f}"
        yield row


def table(title: str, rows: Iterator[dict[str, str]]) -> None:
    """Print rows as a Markdown table, as they come."""
    print(f"\n{title}\n", flush=True)
    for index, row in enumerate(rows):
        if not index:
            print("|", " | ".join(row), "|\n|", " | ".join("---" for _ in row), "|")
        print("|", " | ".join(row.values()), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    table("Coverage of 95% intervals", coverage(given.repeat, rng))
    table("Maps of 60 cells without an effect that have a claim", alarms(given.repeat, rng))
    table("Power for one cell of 420, one draw a pair", power(given.repeat, rng))


if __name__ == "__main__":
    main()

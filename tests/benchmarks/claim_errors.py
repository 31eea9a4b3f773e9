"""How often a claim about many cells is decided wrongly where every cell lies on its bound.

    python tests/benchmarks/claim_errors.py [--times 1000]

Every cell's true mean is the bound itself, so that `any: "> bound"` must not hold, and
`every: "> bound"` must not fail. Prints the share of simulated maps in which they do, which should be
at most 2.5% (the intervals have two sides), and the share in which plain intervals would say so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from remote_mi.common.statistics.intervals import mean_interval
from remote_mi.store.claims.estimates import Estimate
from remote_mi.store.claims.evaluation import judge_estimates
from remote_mi.store.claims.expectation import parse_expectation

CELLS, PAIRS = (1, 10, 40, 400), (5, 8, 24)
ANY = parse_expectation({"output": "x", "any": "> 0"})
EVERY = parse_expectation({"output": "x", "every": "> 0"})


def normal(rng: np.random.Generator, pairs: int, cells: int) -> np.ndarray:
    return rng.normal(size=(pairs, cells))


def correlated(rng: np.random.Generator, pairs: int, cells: int) -> np.ndarray:
    """Half of the variance is what all cells of a pair have in common."""
    return rng.normal(size=(pairs, 1)) + rng.normal(size=(pairs, cells))


def skewed(rng: np.random.Generator, pairs: int, cells: int) -> np.ndarray:
    """Log-normal, less its mean."""
    return rng.lognormal(size=(pairs, cells)) - np.exp(0.5)


LAWS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "normal": normal,
    "correlated": correlated,
    "log-normal": skewed,
}


def errors(law: str, pairs: int, cells: int, times: int) -> tuple[float, float, float, float]:
    """The shares of maps in which `any` holds and `every` fails, each also by plain intervals."""
    rng, counts = np.random.default_rng(0), np.zeros(4)
    for _ in range(times):
        found = mean_interval(LAWS[law](rng, pairs, cells))
        estimates = [
            Estimate(float(v), float(low), float(high), pairs)
            for v, low, high in zip(found.value, found.low, found.high, strict=True)
        ]
        counts += (
            judge_estimates(estimates, ANY).verdict == "holds",
            bool((found.low > 0).any()),
            judge_estimates(estimates, EVERY).verdict == "fails",
            bool((found.high < 0).any()),
        )
    return tuple((counts / times).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=1000)
    times = parser.parse_args().times
    print("| pairs × cells | law | any holds | plain | every fails | plain |")
    print("|---|---|---|---|---|---|")
    for law in LAWS:
        for pairs in PAIRS:
            for cells in CELLS:
                shares = " | ".join(f"{s:.3f}" for s in errors(law, pairs, cells, times))
                print(f"| {pairs} × {cells} | {law} | {shares} |", flush=True)


if __name__ == "__main__":
    main()

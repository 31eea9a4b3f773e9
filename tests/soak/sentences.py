"""Random results by the thousand: no sentence about them is contradicted by their numbers.

    python tests/soak/sentences.py --from 2000 --to 10000

The slow group does the first two thousand. Prints a line for every thousand, and the seed and the
sentence of what fails; exits with 1 if anything did.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fast.report.random_results import random_result
from tests.fast.report.said import check_everything_said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="first", type=int, default=2000)
    parser.add_argument("--to", dest="end", type=int, default=10000)
    given = parser.parse_args()
    failed = 0
    for seed in range(given.first, given.end):
        try:
            check_everything_said(random_result(seed))
        except AssertionError as wrong:
            failed += 1
            print(f"seed {seed}: {wrong}", flush=True)
        if (seed + 1) % 1000 == 0:
            print(f"{seed + 1 - given.first} results, {failed} of them wrong", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

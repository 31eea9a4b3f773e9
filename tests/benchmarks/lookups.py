"""Whether finding a result takes longer the more there are.

A cache and projects of 100 and of 10,000 entries are made in a temporary folder and removed. Each
lookup is timed in turn on the small and on the large one, another key each time:

    hit in the cache        an entry by its path, checked
    miss in the cache       a key that is not there
    hit among the runs      by the index, the run read and checked
    miss among the runs     the folder has not changed for a while
    miss after a new run    the folder has just changed, so its names are listed again

and once: making the index, listing all runs, and what a study asks to resume.
"""

from __future__ import annotations

import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import alternate, arguments, conditions, describe, median_ratio, report, seconds

from remote_mi.store.cache import Cache
from remote_mi.store.cache_index import CacheIndex
from remote_mi.store.environment import Environment
from remote_mi.store.result import Result
from remote_mi.store.run_index import RunRow
from remote_mi.store.run_record import RunRecord, id8_of
from remote_mi.store.runs import Runs

HERE = Environment("local-cpu", "0.8.1", "5.22.2", "2.13.0")
ARRAYS = {"effect": np.zeros((30, 14), np.float32), "score": np.float64(1)}
#: A change of a folder this long ago is not looked at twice, in seconds.
SETTLED = 2.5


class Store:
    """A cache and a project with a number of results, the same in each.

    Runs beyond the first few are links to the files of one, with a run.json of their own: this
    leaves their names, keys and sizes as they are, and writes 10,000 of them in seconds.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        self.cache, self.project = Cache(folder / f"cache-{size}"), folder / f"project-{size}"
        for index in range(size):
            self.cache.put(_key(index), HERE, {}, ARRAYS, {}, _about(index))
        self.runs = Runs(self.project)
        first = self.runs.folder / self.run(0)
        text = (first / "run.json").read_text()
        for index in range(1, size):
            key = _key(index)
            moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(1_700_000_000 + index))
            made = self.runs.folder / f"{moment}-toy-{id8_of(key, HERE)}"
            shutil.copytree(first, made, copy_function=_link)
            (made / "run.json").unlink()
            (made / "run.json").write_text(text.replace(_key(0), key))

    def run(self, index: int) -> str:
        """Write a run as the runner does."""
        provenance = {
            "key": _key(index),
            "environment": HERE.to_json(),
            "model": {"name": "m"},
            "prompts": {"origin": "ioi"},
            "parameters": {"site": "resid_pre"},
        }
        result = Result({"name": "toy"}, {}, ARRAYS, provenance)
        id8 = id8_of(_key(index), HERE)
        return self.runs.write(RunRecord(id8, result, {}, {"toy.py": b"pass"})).run_id


def _key(index: int) -> str:
    return f"{index:08x}" * 8


def _about(index: int) -> dict[str, Any]:
    return {"recipe": "toy", "model": {"name": "m"}, "parameters": {"site": index}}


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def wanted(found: Any, there: bool) -> None:
    """Stop if a lookup did not find what it should."""
    if (found is not None) is not there:
        sys.exit("a lookup gave what it should not; no figures")


def lookups(store: Store, generator: random.Random) -> dict[str, Callable[[], None]]:
    """The lookups that are timed, by name."""

    def key() -> str:
        return _key(generator.randrange(store.size))

    def absent() -> str:
        return _key(generator.randrange(10**6, 10**9))

    return {
        "hit in the cache": lambda: wanted(store.cache.get(key(), HERE), True),
        "miss in the cache": lambda: wanted(store.cache.get(absent(), HERE), False),
        "hit among the runs": lambda: wanted(Runs(store.project).lookup(key(), HERE), True),
        "miss among the runs": lambda: wanted(Runs(store.project).lookup(absent(), HERE), False),
    }


def after_a_run(store: Store, number: int) -> float:
    """Seconds of a miss just after a run was written."""
    store.run(10**9 + number)
    missing = _key(2 * 10**9 + number)
    return seconds(lambda: wanted(Runs(store.project).lookup(missing, HERE), False))[0]


def once(store: Store) -> dict[str, float]:
    """Seconds of what is done once: with a new index, and then with it."""
    rows: list[RunRow] = []
    tasks: dict[str, Callable[[], Any]] = {
        "index of runs made": lambda: rows.extend(Runs(store.project).rows()),
        "all runs listed": lambda: rows.extend(Runs(store.project).rows()),
        "done runs of a study": lambda: Runs(store.project).latest_done(),
        "index of cache made": lambda: CacheIndex(store.cache).rows(),
        "cache entries listed": lambda: CacheIndex(store.cache).rows(),
    }
    taken = {name: seconds(task)[0] for name, task in tasks.items()}
    if len(rows) != 2 * store.size:
        sys.exit("a list gave what it should not; no figures")
    return taken


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--sizes", nargs=2, type=int, default=(100, 10_000), metavar="N")
    parser.add_argument("--repeat", type=int, default=200)
    chosen = parser.parse_args()
    found = conditions("numpy")
    with tempfile.TemporaryDirectory() as folder:
        print("making the stores")
        small, large = (Store(Path(folder), size) for size in chosen.sizes)
        rows: list[list[Any]] = []
        figures: dict[str, Any] = {}

        def add(name: str, few: list[float], many: list[float]) -> None:
            low, high = statistics.median(few), statistics.median(many)
            ratio = median_ratio(many, few)
            figures[name] = {"small": low, "large": high, "ratio": ratio}
            rows.append([name, f"{low * 1e3:.2f}", f"{high * 1e3:.2f}", f"{ratio:.2f}"])

        listed = [once(store) for store in (small, large)]
        time.sleep(SETTLED)
        for store in (small, large):
            Runs(store.project).lookup(_key(10**9 - 1), HERE)
        each = [lookups(store, random.Random(0)) for store in (small, large)]
        for name in each[0]:
            taken = alternate({"small": each[0][name], "large": each[1][name]}, chosen.repeat)
            add(name, taken["small"], taken["large"])
        new = [(after_a_run(small, n), after_a_run(large, n)) for n in range(20)]
        add("miss after a new run", [a for a, _ in new], [b for _, b in new])
        for name in listed[0]:
            add(name, [listed[0][name]], [listed[1][name]])
    header = ["", *(f"{size:,} (ms)" for size in chosen.sizes), "ratio"]
    report(
        "Lookups, medians",
        header,
        rows,
        [describe(found)],
        {"conditions": found, "lookups": figures},
        chosen.json,
    )


if __name__ == "__main__":
    main()

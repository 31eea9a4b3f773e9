"""Every technique against TransformerLens or captum, and against plain nnsight: seconds, numbers.

The embedded model in float32, the same weights, token ids and threads on all sides, in turn and
never at the same time:

    ours      the recipe, as every local run executes it, without its controls where they can be
              left out (`+ controls`: with them, by default)
    peer      as one writes it with TransformerLens 4.3, or with captum 0.9 for input attribution
    nnsight   as one writes it by hand in plain nnsight: a loop of traces in one session

Sweeps replace one cell at a time. There the other sides run some random cells of the grid; their
seconds are those of a run without cells, and of all cells, from what some of them take. The
goals: none slower, sweeps at least 10 times faster than TransformerLens. What the sides give is
compared, in all cells that were run. The environment of the peers is built on first use.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _by_hand
import _by_hand_gradients
import nnsight
import numpy as np
import torch
from _common import (
    arguments,
    at_least_one,
    conditions,
    describe,
    load_embedded,
    report,
    seconds,
    spread,
    work_of,
)
from _techniques_cases import Case, all_cases
from _transformerlens import Unavailable, Worker, default_venv, ensure_captum, ensure_venv

HERE = Path(__file__).parent
SCRIPTS = {"TransformerLens": HERE / "_techniques_worker.py", "captum": HERE / "_captum_worker.py"}
SWEEP_GOAL = 10

Side = Callable[..., tuple[float, dict[str, np.ndarray]]]
"""From cells, and whether to compute the rest, to the seconds and the arrays of one run."""


def sweep_arguments(case: Case, cells: list[list[int]], rest: bool) -> dict[str, Any]:
    """What a sweep's function gets beside the request."""
    return ({"cells": cells} if case.grid else {}) | ({"rest": rest} if case.rest else {})


def with_nnsight(case: Case, lm: Any, gradients: bool) -> Side:
    """The technique by hand."""
    function = getattr(_by_hand, case.recipe, None) or getattr(_by_hand_gradients, case.recipe)

    def run(cells: list[list[int]], rest: bool = True) -> tuple[float, dict[str, np.ndarray]]:
        given = {**case.request, **sweep_arguments(case, cells, rest)}
        found: dict[str, Any] = {}

        def in_session() -> None:
            nonlocal found
            with torch.set_grad_enabled(gradients), lm.session():
                outputs = function(lm, **given)
                nnsight.save(outputs)
            found = outputs

        taken = seconds(in_session)[0]
        return taken, {name: value.detach().numpy() for name, value in found.items()}

    return run


def with_peer(case: Case, worker: Worker, folder: Path) -> Side:
    """The technique in the other process."""

    def run(cells: list[list[int]], rest: bool = True) -> tuple[float, dict[str, np.ndarray]]:
        given = {**case.request, **sweep_arguments(case, cells, rest)}
        to = folder / "found.npz"
        answer = worker.ask("technique", name=case.recipe, to=str(to), **given)
        with np.load(to, allow_pickle=False) as found:
            return answer["seconds"], dict(found)

    return run


def whole(case: Case, side: Side) -> tuple[float, dict[str, np.ndarray]]:
    """Seconds of all cells, and the arrays of those that were run."""
    total = math.prod(case.grid)
    if not case.grid or len(case.cells) == total:
        return side(case.cells)
    # The rest takes as long as many cells: it is not in the two runs that are subtracted.
    empty = side([], rest=not case.rest)[0]
    taken, found = side(case.cells, rest=not case.rest)
    each = (taken - empty) / len(case.cells)
    if each <= 0:
        sys.exit(f"{case.name}: the machine is too busy to time {len(case.cells)} cells")
    if case.rest:
        empty, beside = side([])
        found |= {name: beside[name] for name in case.rest}
    return empty + each * total, found


def measure(case: Case, lm: Any, worker: Worker, repeat: int, loops: int, folder: Path) -> Any:
    """Seconds of all sides in each round, and how far their numbers are from ours.

    Returns:
        the row's figures: `seconds` of each side, `controls` (seconds), and of both other sides
        `ratio` (theirs / ours), `max_difference` and `other_tokens`.
    """
    from remote_mi.backends.session import run_session

    bare = work_of(case.recipe, *case.calls, **{**case.parameters, **case.off})
    full = work_of(case.recipe, *case.calls, **case.parameters)
    ours = case.pick(run_session(lm, bare))  # also the warm-up
    sides = {
        "peer": with_peer(case, worker, folder),
        "nnsight": with_nnsight(case, lm, bare.gradients),
    }
    if not case.grid:
        for side in sides.values():
            side([])  # the warm-up
    taken: dict[str, list[float]] = {"ours": [], "peer": [], "nnsight": []}
    apart = dict.fromkeys(sides, 0.0)
    other = dict.fromkeys(sides, 0)
    for index in range(repeat):
        order = ["ours", *sides]
        for name in order[index % 3 :] + order[: index % 3]:
            if name == "ours":
                taken[name].append(seconds(lambda: run_session(lm, bare))[0])
            elif index < loops or not case.grid:
                time, found = whole(case, sides[name])
                taken[name].append(time)
                far, tokens = difference(ours, found)
                apart[name], other[name] = max(apart[name], far), max(other[name], tokens)
    controls = [seconds(lambda: run_session(lm, full))[0] for _ in range(min(repeat, 3))]
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return {
        "seconds": taken,
        "medians": medians,
        "controls": controls if case.off else [],
        "cells": math.prod(case.grid) if case.grid else 0,
        "cells_run": len(case.cells),
        "ratio": {name: medians[name] / medians["ours"] for name in sides},
        "max_difference": apart,
        "other_tokens": other,
    }


def difference(ours: dict[str, Any], theirs: dict[str, np.ndarray]) -> tuple[float, int]:
    """Largest difference of the numbers; how many generated tokens are other ones."""
    assert set(theirs) <= set(ours), f"{set(theirs) - set(ours)} is not compared"
    largest, tokens = 0.0, 0
    for name, found in theirs.items():
        own = np.asarray(ours[name])
        if name == "text":
            width = min(own.shape[-1], found.shape[-1])
            own, found = own[..., :width], found[..., :width]
            tokens += int(((own != found) & (own >= 0) & (found >= 0)).sum())
            continue
        assert own.shape == found.shape, f"{name}: {own.shape}, theirs {found.shape}"
        largest = max(largest, float(np.abs(own.astype(float) - found).max(initial=0)))
    return largest, tokens


def row(case: Case, found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    times, medians, ratio = found["seconds"], found["medians"], found["ratio"]
    goal = SWEEP_GOAL if case.grid else 1
    misses = [name for name in ratio if ratio[name] < (goal if name == "peer" else 1)]
    part = "all" if found["cells_run"] == found["cells"] else str(found["cells_run"])
    controls = f"{statistics.median(found['controls']):.3f}" if found["controls"] else ""
    return [
        case.name,
        case.work,
        part if case.grid else "",
        f"{medians['ours']:.3f}",
        spread(times["ours"]),
        controls,
        case.peer.replace("TransformerLens", "TL"),
        f"{medians['peer']:.3f}",
        f"{ratio['peer']:.2f}",
        f"{found['max_difference']['peer']:.1e}",
        f"{medians['nnsight']:.3f}",
        f"{ratio['nnsight']:.2f}",
        f"{found['max_difference']['nnsight']:.1e}",
        "missed: " + ", ".join(misses) if misses else "",
    ]


def notes(cases: list[Case], measured: dict[str, Any], threads: int) -> list[str]:
    """What is to be known beside the table."""
    made = [
        "cells run: of a sweep, by the other sides; their seconds are of all cells",
        "head_detectors cannot leave its controls out: the others run the same ones",
        f"goals: ratios ≥ 1, of a sweep to TransformerLens ≥ {SWEEP_GOAL}; {threads} threads",
    ]
    for case in cases:
        for side, count in measured[case.name]["other_tokens"].items():
            if count:
                made.append(f"{case.name}: {count} generated tokens differ from {side}'s")
    return made


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--venv",
        metavar="FOLDER",
        type=Path,
        default=default_venv(),
        help="the peers' environment; built if missing [%(default)s]",
    )
    parser.add_argument("--repeat", type=at_least_one, default=7, help="rounds [%(default)s]")
    parser.add_argument(
        "--loops",
        type=at_least_one,
        default=1,
        help="rounds in which the others' sweeps run [%(default)s]",
    )
    parser.add_argument(
        "--cells",
        type=int,
        default=40,
        metavar="N",
        help="cells of a sweep they run; 0: all [%(default)s]",
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="a technique; repeatable")
    parser.add_argument("--threads", type=at_least_one, default=2, help="[%(default)s]")
    args = parser.parse_args()
    found = conditions("nnsight", "transformers", "torch")
    try:
        python = ensure_venv(args.venv)
        ensure_captum(python)
        cases, measured = run(args, python)
    except Unavailable as error:
        sys.exit(f"not measured: {error}")
    report(
        f"techniques, median seconds of {args.repeat} rounds",
        [
            "technique",
            "work",
            "cells run",
            "ours",
            "range",
            "+ controls",
            "peer",
            "peer s",
            "ratio",
            "max |diff|",
            "nnsight s",
            "ratio",
            "max |diff|",
            "goals",
        ],
        [row(case, measured[case.name]) for case in cases],
        [*notes(cases, measured, args.threads), describe(found)],
        {"conditions": found, "threads": args.threads, "techniques": measured},
        args.json,
    )


def run(args: Any, python: Path) -> tuple[list[Case], dict[str, Any]]:
    """Measure what is asked for."""
    from remote_mi.models.embedded import embedded_folder

    model = load_embedded(args.threads)
    measured: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        Worker(python, SCRIPTS["TransformerLens"]) as lens,
        Worker(python, SCRIPTS["captum"]) as captum,
    ):
        folder, workers = Path(name), {"TransformerLens": lens, "captum": captum}
        cases = all_cases(model, args.cells, folder)
        unknown = set(args.only or []) - {case.recipe for case in cases}
        if unknown:
            sys.exit(f"no technique named {', '.join(sorted(unknown))}")
        cases = [case for case in cases if not args.only or case.recipe in args.only]
        for peer in {case.peer for case in cases}:
            workers[peer].ask("load", folder=str(embedded_folder()), threads=args.threads)
        eager = load_embedded(args.threads, "eager") if any(c.eager for c in cases) else model
        for case in cases:
            print(f"measuring {case.name}", file=sys.stderr)
            lm = (eager if case.eager else model).lm
            measured[case.name] = measure(
                case, lm, workers[case.peer], args.repeat, args.loops, folder
            )
            print("  ".join(row(case, measured[case.name])), file=sys.stderr, flush=True)
    return cases, measured


if __name__ == "__main__":
    main()

"""How often probes of random activations claim something, and how often they find what is there.

    python tests/benchmarks/probe_alarms.py [--sets 20] [--maps 10]

For every kind of labels and groups: sets of labels, each with maps of random activations, from which
`linear_probe` reads them with 19 draws of its control. Prints the share of maps with a claim, which
should be at most 5%, and the share in which an effect in one of the cells is told from the control.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from remote_mi.common.statistics.randomisation import LEVEL
from remote_mi.jobs.control_tests import ControlSamples, against_control
from remote_mi.recipes import catalog, loading
from remote_mi.store.verdict import SET

DRAWS = 19
CELLS = 6
WIDTH = 12


def alone_even(rng: Any) -> tuple[Any, Any]:
    """Twenty prompts of two classes, each by itself."""
    return rng.permutation(np.arange(20) % 2), np.arange(20)


def alone_uneven(rng: Any) -> tuple[Any, Any]:
    """Twenty-four prompts, six of one class."""
    return rng.permutation(np.arange(24) < 6).astype(int), np.arange(24)


def three_classes(rng: Any) -> tuple[Any, Any]:
    """Twenty-four prompts of three classes: four, eight and twelve."""
    return rng.permutation(np.repeat([0, 1, 2], [4, 8, 12])), np.arange(24)


def pure_groups(rng: Any) -> tuple[Any, Any]:
    """Sixteen groups of one class each, of one to three prompts."""
    group = np.repeat(np.arange(16), rng.integers(1, 4, 16))
    return rng.permutation(np.arange(16) % 2)[group], group


def larger_groups(rng: Any) -> tuple[Any, Any]:
    """Groups of one class that are larger in one class than in the other."""
    classes = np.arange(16) % 2
    group = np.repeat(
        np.arange(16), np.where(classes, rng.integers(2, 4, 16), rng.integers(1, 3, 16))
    )
    return classes[group], group


def mixed_groups(rng: Any) -> tuple[Any, Any]:
    """Twelve groups of one prompt of each class."""
    return np.concatenate([rng.permutation(2) for _ in range(12)]), np.repeat(np.arange(12), 2)


KINDS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "alone, even": alone_even,
    "alone, uneven": alone_uneven,
    "three classes": three_classes,
    "pure groups": pure_groups,
    "larger groups of one class": larger_groups,
    "mixed groups": mixed_groups,
}


def activations(rng: Any, group: Any, maps: int) -> Any:
    """[prompt, map, cell, dimension]: a part of the group's, a part of all cells', and of each."""
    shape = (len(group), maps, CELLS, WIDTH)
    of_group = rng.normal(size=(group.max() + 1, maps, 1, WIDTH))[group]
    return of_group + rng.normal(size=(len(group), maps, 1, WIDTH)) + rng.normal(size=shape)


def claims(fit: Callable[..., Any], x: Any, y: Any, group: Any, seed: int) -> Any:
    """Whether each cell of each map is told from its control, [map, cell]."""
    examples = [
        {"arrays": {"activation": a}, "label": f"c{c}", "group": f"g{g}"}
        for a, c, g in zip(x, y, group, strict=True)
    ]
    found = fit(examples, folds=3, control_draws=DRAWS, seed=seed)
    accuracy, draws = found["accuracy"].mean(-1), found["shuffled_accuracy"]
    each = [
        against_control(ControlSamples(accuracy[None, m], draws[None, :, m], None, SET), "")[0]
        for m in range(len(accuracy))
    ]
    return np.stack(each) <= LEVEL


def simulate(kind: str, sets: int, maps: int, effect: float, seed: int = 0) -> tuple[float, float]:
    """The share of maps with a claim in a cell without effect, and of those whose effect is told.

    Args:
        effect: difference of the classes in one dimension of the first cell, in standard deviations
            over prompts of a group.
    """
    card = catalog.find("linear_probe", Path("/nowhere"))
    fit = loading.load_function(card, Path("/nowhere")).__globals__["fit_probes"]
    rng = np.random.default_rng(seed)
    false, true = 0.0, 0.0
    for index in range(sets):
        y, group = KINDS[kind](rng)
        x = activations(rng, group, maps)
        x[:, :, 0, 0] += effect * np.sqrt(2) * y[:, None]
        told = claims(fit, x, y, group, seed + index)
        false += told[:, 1:].any(1).mean() if effect else told.any(1).mean()
        true += told[:, 0].mean()
    return false / sets, true / sets


def main() -> None:
    """Print one row for each kind of labels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--maps", type=int, default=10)
    given = parser.parse_args()
    print("| labels | maps with a claim | found: 4 SD | 8 SD |\n|---|---|---|---|", flush=True)
    for kind in KINDS:
        without = simulate(kind, given.sets, given.maps, 0.0)[0]
        found = [simulate(kind, max(2, given.sets // 4), given.maps, e)[1] for e in (4.0, 8.0)]
        print(
            f"| {kind} | {without:.3f} | " + " | ".join(f"{f:.2f}" for f in found) + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Classes of prompts, shuffled as if they had nothing to do with what was measured."""

from __future__ import annotations

from typing import Any


def shuffled_classes(classes: Any, group: Any, rng: Any) -> Any:
    """Classes shuffled between groups of one class and size, and within the groups of several.

    Only what is alike can be exchanged: if the groups of one class were larger, it would be more
    frequent in the classes than in their shuffles.

    Args:
        classes: of each prompt, a numpy array [prompt]. group: the number of its group, [prompt].
        rng: a numpy generator.

    Returns:
        [prompt], like `classes`.
    """
    members = [(group == number).nonzero()[0] for number in sorted(set(group.tolist()))]
    pure = [m for m in members if len(set(classes[m].tolist())) == 1]
    new = classes.copy()
    for size in sorted({len(m) for m in pure}):
        alike = [m for m in pure if len(m) == size]
        for m, source in zip(alike, rng.permutation(len(alike)), strict=True):
            new[m] = classes[alike[source][0]]
    for m in members:
        if len(set(classes[m].tolist())) > 1:
            new[m] = rng.permutation(classes[m])
    return new

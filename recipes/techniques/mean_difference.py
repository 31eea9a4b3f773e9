"""Directions from differences of means: of labelled classes, or of clean and corrupt prompts."""

from __future__ import annotations

from typing import Annotated, Any

from remote_mi import Heatmap, Lines, Range, recipe
from remote_mi.interventions import Pair, Prompt, Site, changes, run, shuffled_classes, stack


@recipe(
    over="prompt",
    returns={"activation": ("layer", "place", "d_model")},
    summaries={
        "direction": ("layer", "place", "d_model"),
        "length": ("layer", "place"),
        "shuffled_length": ("draw", "layer", "place"),
        "relative_length": ("layer", "place"),
        "cosine": ("layer", "to_layer", "place"),
        "threshold": ("layer", "place"),
    },
    controls={"length": "shuffled_length"},
    analysis="class_difference",
    evidence="observational",
    figures=[
        Lines("length", x="layer", title="distance of the class means by layer"),
        Lines("relative_length", x="layer", title="the same, in lengths of the activation"),
        Heatmap("cosine", center=0, title="cosine between layers"),
    ],
    references=["marks2024geometry", "arditi2024refusal"],
)
def mean_difference(
    lm: Any,
    prompt: Prompt,
    *,
    site: Site = "resid_pre",
    places: list[str] = ["end"],  # noqa: B006 - literals only in a recipe's signature
    towards: str | None = None,
    control_draws: Annotated[int, Range(1, 99)] = 19,
    seed: int = 0,
) -> dict[str, Any]:
    """The direction from one class of prompts to another: the difference of their mean activations.

    For each layer and place, of the activations x at one site, where the prompts' labels ("label")
    are the classes:

        direction[l]       = mean of x over the prompts of the class `towards`
                             − mean of x over all other prompts
        length[l]          = ‖direction[l]‖
        relative_length[l] = length[l] / mean over all prompts of ‖x‖
        cosine[l, k]       = direction[l] · direction[k] / (length[l] · length[k])
        threshold[l]       = direction[l] · the midpoint of the two means

    The direction is the artifact of this technique: direction_ablation, direction_addition and
    steering take it as `RUN:direction`. A prompt is on the side of `towards` if direction · x is
    over the threshold (the mass-mean probe of Marks & Tegmark 2023, without their covariance).
    Sign: the direction points to the class `towards`.
    Units: those of the activation.
    Control: shuffled_length, the same of shuffled labels: means of any two parts of the prompts
    differ, the more the fewer they are. A length is told from them if at most one in twenty of
    labels and draws, the labels included, reaches it in any layer and place; that needs 19 draws.
    Groups of one class exchange their classes with groups as large; in groups of several classes the
    prompts exchange theirs. There is no interval: a length cannot be negative, so that one over
    resampled prompts would be off the other way.
    Cost: 1 forward pass per prompt.
    What this does not show: that the model uses the direction (remove it or add it to find out), nor
    that it is of the label: it holds whatever else distinguishes the two classes of these prompts.
    Not implemented: whitening by the covariance, a choice of the best layer and place.

    Args:
        site: whose activations are read.
        places: labels of the positions that are read, each with its own direction.
        towards: the class that the direction points to; by default the last by name, of two.
        control_draws: shuffles of the labels; 19 or more can tell a length from chance.
        seed: of the shuffles.
    """
    where = [prompt.position(place) for place in places]
    return {"activation": stack([x[0, where] for x in run(lm, prompt, site).values])}


@recipe(
    over="pair",
    returns={"difference": ("layer", "place", "d_model")},
    summaries={
        "length": ("layer", "place"),
        "flipped_length": ("draw", "layer", "place"),
        "agreement": ("layer", "place"),
        "cosine": ("layer", "to_layer", "place"),
    },
    controls={"length": "flipped_length"},
    analysis="pairs_difference",
    evidence="observational",
    figures=[
        Lines("length", x="layer", title="length of the mean difference by layer"),
        Lines("agreement", x="layer", title="cosine of each pair with the others"),
        Heatmap("cosine", center=0, title="cosine between layers"),
    ],
    references=["rimsky2024steering", "marks2024geometry"],
)
def pair_difference(
    lm: Any,
    pair: Pair,
    *,
    site: Site = "resid_pre",
    places: list[str] = ["end"],  # noqa: B006 - literals only in a recipe's signature
    control_draws: Annotated[int, Range(1, 99)] = 19,
    seed: int = 0,
) -> dict[str, Any]:
    """The direction from corrupt to clean prompts: the mean difference of the pairs' activations.

    For each layer and place, of the activations x at one site:

        difference[l] = x(clean) − x(corrupt), of each pair; its mean over the pairs is the direction
        length[l]     = ‖mean over the pairs of difference[l]‖
        agreement[l]  = cosine of each pair's difference with the mean of the other pairs', averaged
        cosine[l, k]  = cosine of the mean differences of two layers

    The mean is the artifact of this technique (Rimsky et al. 2024): direction_ablation,
    direction_addition and steering take it as `RUN:difference`.
    Sign: the direction points from the corrupt to the clean prompts. Pairs of a phenomenon whose
    clean prompts are of either class cancel each other: take pairs that contrast the same way.
    Units: those of the activation.
    Control: flipped_length, the same with the two prompts of each pair exchanged at random: how long
    the mean of differences without a common direction is. A length is told from them if at most one
    in twenty of the pairs as they are and the draws reaches it in any layer and place.
    Cost: 2 forward passes per pair.
    What this does not show: that the model uses the direction (remove it or add it to find out). It
    holds whatever else distinguishes clean from corrupt prompts. Before the first token in which a
    pair differs, the difference is 0.
    Not implemented: a choice of the best layer and place.

    Args:
        site: whose activations are read.
        places: labels of the positions that are read, each with its own direction.
        control_draws: random exchanges; 19 or more can tell a length from chance.
        seed: of the exchanges.
    """
    clean, corrupt = (run(lm, prompt, site) for prompt in (pair.clean, pair.corrupt))
    where = [pair.clean.position(place) for place in places]
    return {"difference": stack([x[0, where] for x in changes(lm, corrupt, clean)])}


def class_difference(
    examples: list[dict[str, Any]], *, towards: str | None, control_draws: int, seed: int, **_: Any
) -> dict[str, Any]:
    """The direction between classes and its controls; see `mean_difference`.

    Raises:
        ValueError: if a label is missing, or which class the direction points to is not clear.
    """
    import numpy as np

    x = np.stack([e["arrays"]["activation"] for e in examples]).astype(np.float64)
    members = is_of_class(examples, towards)
    names = [example["group"] or ("", index) for index, example in enumerate(examples)]
    group = np.array([names.index(name) for name in names])
    rng = np.random.default_rng(seed)
    direction = difference(x, members)
    drawn = [difference(x, shuffled_classes(members, group, rng)) for _ in range(control_draws)]
    length = np.linalg.norm(direction, axis=-1)
    middle = (x[members].mean(0) + x[~members].mean(0)) / 2
    return {
        "direction": direction,
        "length": length,
        "shuffled_length": np.linalg.norm(np.stack(drawn), axis=-1),
        "relative_length": length / np.linalg.norm(x, axis=-1).mean(0),
        "cosine": cosines(direction),
        "threshold": (direction * middle).sum(-1),
    }


def pairs_difference(
    examples: list[dict[str, Any]], *, control_draws: int, seed: int, **_: Any
) -> dict[str, Any]:
    """The mean difference of pairs and its controls; see `pair_difference`."""
    import numpy as np

    each = np.stack([e["arrays"]["difference"] for e in examples]).astype(np.float64)
    names = [example["group"] or ("", index) for index, example in enumerate(examples)]
    group = np.array([names.index(name) for name in names])
    rng = np.random.default_rng(seed)
    mean, flips = each.mean(0), rng.choice([-1.0, 1.0], (control_draws, len(each)))[:, group]
    others = (mean * len(each) - each) / max(1, len(each) - 1)
    sizes = np.linalg.norm(each, axis=-1) * np.linalg.norm(others, axis=-1)
    along = (each * others).sum(-1)  # 0 for a pair without a difference, or without others
    agreement = np.divide(along, sizes, out=np.zeros_like(sizes), where=sizes > 0).mean(0)
    drawn = np.einsum("dp,p...->d...", flips, each) / len(each)
    return {
        "length": np.linalg.norm(mean, axis=-1),
        "flipped_length": np.linalg.norm(drawn, axis=-1),
        "agreement": agreement,
        "cosine": cosines(mean),
    }


def is_of_class(examples: list[dict[str, Any]], towards: str | None) -> Any:
    """Which prompts are of the class that the direction points to, [prompt]."""
    import numpy as np

    for index, example in enumerate(examples):
        if example["label"] in (None, ""):
            raise ValueError(f'prompt {index + 1} has no label: give every prompt a "label"')
    labels = [str(example["label"]) for example in examples]
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise ValueError(f"all labels are {labels[0]!r}: a difference needs two classes")
    if towards is None and len(classes) > 2:
        raise ValueError(f"towards is needed with {len(classes)} classes: {', '.join(classes)}")
    if towards is not None and towards not in classes:
        raise ValueError(f"no prompt has the label {towards!r}; there are {', '.join(classes)}")
    return np.array([label == (towards or classes[-1]) for label in labels])


def difference(x: Any, members: Any) -> Any:
    """The mean of the members − that of the others, [layer, place, d_model]; x: [prompt, …]."""
    return x[members].mean(0) - x[~members].mean(0)


def cosines(direction: Any) -> Any:
    """The cosine of every two layers' directions, [layer, to_layer, place]; 0 where one is 0."""
    import numpy as np

    length = np.linalg.norm(direction, axis=-1, keepdims=True)
    unit = np.divide(direction, length, out=np.zeros_like(direction), where=length > 0)
    return np.einsum("lpd,kpd->lkp", unit, unit)

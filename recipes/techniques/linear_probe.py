"""Linear probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from remote_mi import Bars, Heatmap, Lines, Range, recipe
from remote_mi.interventions import Prompt, Site, run, stack

#: Inverse strengths of the L2 penalty that are tried.
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
#: Folds in which the strength is chosen, inside each training part.
INNER_FOLDS = 3


@recipe(
    over="prompt",
    returns={"activation": ("layer", "place", "d_model")},
    summaries={
        "accuracy": ("layer", "place"),
        "shuffled_accuracy": ("draw", "layer", "place"),
        "selectivity": ("layer", "place"),
        "majority": (),
    },
    controls={"accuracy": "shuffled_accuracy"},
    analysis="fit_probes",
    evidence="observational",
    figures=[
        Lines("accuracy", x="layer", title="accuracy by layer"),
        Heatmap("selectivity", center=0),
        Bars("majority", title="accuracy of always saying the most frequent class"),
    ],
    references=["alain2016probes", "hewitt2019control", "belinkov2022probing"],
)
def linear_probe(
    lm: Any,
    prompt: Prompt,
    *,
    site: Site = "resid_pre",
    places: list[str] = ["end"],  # noqa: B006 - literals only in a recipe's signature
    folds: Annotated[int, Range(2, 20)] = 5,
    control_draws: Annotated[int, Range(1, 50)] = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """At which layers a linear classifier can read a prompt's label from its activations.

    For each layer and place, a logistic regression with an L2 penalty is fitted to the activations
    x at one site, each dimension standardised on the training part:

        p(class | x) = softmax(W z + b),   z = (x − mean) / standard deviation
        accuracy     = share of prompts whose label is the most probable class

    Every prompt is classified by a probe that has seen no prompt of its group: cross-validation
    over whole groups, with the classes spread evenly over the folds. The strength of the penalty is
    chosen by the same kind of cross-validation inside each training part. The labels are those of
    the prompts ("label"), as are the groups ("group"); a prompt without a group is one of its own.
    Sign: accuracies are shares from 0 to 1. Intervals: 95% bootstrap over the groups, with the
    predictions as they are.
    Control: shuffled_accuracy, the same with shuffled labels, each draw fitted and scored anew;
    its band is the smallest and the largest draw. Groups of one class exchange their classes;
    in groups of several classes the prompts exchange theirs. selectivity = accuracy −
    shuffled_accuracy. In the control tasks of Hewitt & Liang 2019, random labels belong to word
    types that recur in the test set, so that a probe which memorises does well on them; here
    nothing recurs in another group, so the control is about at chance, and shows how far chance
    goes. With few prompts it is somewhat lower: a class that is frequent in the held-out part is
    rarer in the training part. selectivity is then larger than accuracy − chance.
    majority is the accuracy of always predicting the most frequent class.
    Cost: 1 forward pass per prompt; the probes are fitted on this machine, with scikit-learn.
    What this does not show: that the model uses what can be read: a direction may be there without
    anything reading it, and the probe chooses its own. What a linear probe misses may be there in
    another form. A high accuracy may rest on a cue that goes with the label in these prompts, e.g.
    a word or a length; the shuffled labels do not rule that out.
    Not implemented: non-linear probes, control tasks over word types, amnesic probing.

    Args:
        site: whose activations are read: the stream before, in or after a block, what attention or
            the MLP adds, queries, keys, values or heads' outputs, or the MLP's neurons.
        places: labels of the positions that are read, each with its own probes.
        folds: parts of the cross-validation.
        control_draws: shuffles of the labels.
        seed: of the folds, the shuffles and the intervals.
    """
    where = [prompt.position(place) for place in places]
    return {"activation": stack([x[0, where] for x in run(lm, prompt, site).values])}


def fit_probes(
    examples: list[dict[str, Any]], *, folds: int, control_draws: int, seed: int, **_: Any
) -> dict[str, Any]:
    """Accuracies of the probes of every layer and place; see `linear_probe`.

    Raises:
        ValueError: if a label is missing, or there are too few classes or groups.
    """
    import numpy as np

    x = np.stack([e["arrays"]["activation"] for e in examples]).astype(np.float64)
    y, group = classes_and_groups(examples, folds)
    rng = np.random.default_rng(seed)
    targets = [y, *(shuffled(y, group, rng) for _ in range(control_draws))]
    right = np.stack([are_right(x, target, group, folds, seed) for target in targets])
    of_shuffled = right[1:].mean(-1)  # [draw, layer, place]
    return {
        "accuracy": right[0],
        "shuffled_accuracy": of_shuffled,
        "selectivity": right[0] - right[1:].mean(0),
        "majority": np.bincount(y).max() / len(y),
    }


def classes_and_groups(examples: list[dict[str, Any]], folds: int) -> tuple[Any, Any]:
    """The index of each prompt's class and of its group; one without a group gets its own."""
    import numpy as np

    for index, example in enumerate(examples):
        if example["label"] in (None, ""):
            raise ValueError(f'prompt {index + 1} has no label: give every prompt a "label"')
    labels = [str(example["label"]) for example in examples]
    names = [example["group"] or ("", index) for index, example in enumerate(examples)]
    group = np.array([names.index(name) for name in names])
    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"all labels are {labels[0]!r}: a probe needs at least two classes")
    for index, name in enumerate(classes.tolist()):
        count = len(set(group[y == index].tolist()))
        if count < folds:
            raise ValueError(
                f"class {name!r} occurs in {count} groups, and {folds} folds need {folds}: "
                "give more prompts, or fewer folds"
            )
    return y, group


def shuffled(y: Any, group: Any, rng: Any) -> Any:
    """Labels shuffled between the groups of one class, and within the groups of several."""
    members = [(group == g).nonzero()[0] for g in sorted(set(group.tolist()))]
    pure = [m for m in members if len(set(y[m].tolist())) == 1]
    new = y.copy()
    for m, source in zip(pure, rng.permutation(len(pure)), strict=True):
        new[m] = y[pure[source][0]]
    for m in members:
        if len(set(y[m].tolist())) > 1:
            new[m] = rng.permutation(y[m])
    return new


def are_right(x: Any, y: Any, group: Any, folds: int, seed: int) -> Any:
    """Whether a probe without a prompt's group predicts its class, [layer, place, prompt]."""
    import numpy as np

    right = np.zeros((*x.shape[1:3], len(y)))  # a prompt without any probe counts as wrong
    for train, test in splits(y, group, folds, seed):
        inner = splits(y[train], group[train], INNER_FOLDS, seed)
        for cell in np.ndindex(x.shape[1:3]):
            own = x[(slice(None), *cell)]
            scores = np.zeros(len(STRENGTHS))
            for fit, held_out in inner:
                found = predicted(own[train][fit], y[train][fit], own[train][held_out], STRENGTHS)
                scores += [(classes == y[train][held_out]).sum() for classes in found]
            best = [STRENGTHS[int(scores.argmax())]]  # the strongest penalty in case of a tie
            right[cell][test] = predicted(own[train], y[train], own[test], best)[0] == y[test]
    return right


def splits(y: Any, group: Any, folds: int, seed: int) -> list[Any]:
    """(training, held-out) indices: whole groups, classes spread evenly.

    As many folds as every class has groups, at most `folds`; splits whose training part lacks a
    class are left out. [] if none remain.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    count = min(folds, *(len(set(group[y == c].tolist())) for c in set(y.tolist())))
    if count < 2:
        return []
    kind = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return [(train, test) for train, test in kind.split(y, y, group) if set(y[train]) == set(y)]


def predicted(x: Any, y: Any, held_out: Any, strengths: Sequence[float]) -> list[Any]:
    """The most probable class of each held-out prompt, for each strength.

    The fit depends only on inner products, so it is done in the space spanned by the training part.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    mean, scale = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1.0)
    u, size, basis = np.linalg.svd((x - mean) / scale, full_matrices=False)
    kept = size > 1e-8 * max(float(size[0]), 1e-12)
    if not kept.any():  # the same activation in every prompt
        return [np.full(len(held_out), np.bincount(y).argmax()) for _ in strengths]
    trained, test = u[:, kept] * size[kept], ((held_out - mean) / scale) @ basis[kept].T
    kinds = [LogisticRegression(C=c, solver="newton-cholesky", max_iter=200) for c in strengths]
    return [probe.fit(trained, y).predict(test) for probe in kinds]

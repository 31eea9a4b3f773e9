"""Linear probes."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi import Bars, Heatmap, Lines, Range, recipe
from remote_mi.interventions import Prompt, Site, read_site
from remote_mi.interventions.sites import read_stream, skip_unembedding

#: Inverse strengths of the L2 penalty that are tried.
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
#: Folds in which the strength is chosen, inside each training part.
INNER_FOLDS = 3
#: Resamples of the groups for an interval of 95%.
RESAMPLES = 1000


@recipe(
    over="prompt",
    returns={"activation": ("layer", "place", "d_model")},
    summaries={
        "accuracy": ("layer", "place"),
        "shuffled_accuracy": ("layer", "place"),
        "selectivity": ("layer", "place"),
        "majority": (),
    },
    controls={"accuracy": "shuffled_accuracy"},
    analysis="fit_probes",
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
    """At which layers a linear classifier can read a prompt's label off its activations.

    For each layer and place, a logistic regression with an L2 penalty is fitted to the activations
    x at one site, each number standardised by the training part:

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
    shuffled_accuracy. In the control tasks of Hewitt & Liang 2019 random labels belong to word
    types that return in the test set, so that a probe which memorises does well on them; here
    nothing returns in another group, so the control is about at chance, and says how far chance
    goes. With few prompts it lies somewhat below: a class that is frequent in what is held out is
    rarer in what the probe is fitted to. selectivity is then larger than accuracy − chance.
    majority is the accuracy of always saying the most frequent class.
    Cost: 1 forward pass a prompt; the probes are fitted on this machine, with scikit-learn.
    Not implemented: non-linear probes, control tasks over word types, amnesic probing. A probe
    finds what can be read, not what the model uses.

    Args:
        site: whose activations are read: the stream before a block, between attention and MLP, or
            what attention or the MLP adds.
        places: labels of the positions that are read, each with probes of its own.
        folds: parts of the cross-validation.
        control_draws: shuffles of the labels.
        seed: of the folds, the shuffles and the intervals.
    """
    known = {"end": prompt.end, **prompt.positions}
    for place in places:
        if place not in known:
            raise ValueError(f"a prompt has no position {place!r}; it has {', '.join(known)}")
    where = [known[place] for place in places]
    with lm.trace(input_ids=torch.tensor([prompt.ids]), use_cache=False):
        found = []
        for index, layer in enumerate(lm.layers):
            x = read_stream(lm, index) if site == "resid_pre" else read_site(layer, site)
            found.append(x[0, where].float())
        skip_unembedding(lm)
    return {"activation": torch.stack([x.to(found[0].device) for x in found])}


def fit_probes(
    examples: list[dict[str, Any]], *, folds: int, control_draws: int, seed: int, **_: Any
) -> dict[str, Any]:
    """Accuracies of the probes of every layer and place; see `linear_probe`.

    Raises:
        ValueError: if a label is missing, or there are too few classes or groups.
    """
    import numpy as np

    x = np.stack([e["arrays"]["activation"] for e in examples]).astype(np.float64)
    labels = [e["label"] for e in examples]
    for index, label in enumerate(labels):
        if label in (None, ""):
            raise ValueError(f'prompt {index + 1} has no label: give every prompt a "label"')
    # A prompt without a group is a group of its own.
    names = [e["group"] or ("", index) for index, e in enumerate(examples)]
    group = np.array([names.index(name) for name in names])
    classes = sorted(set(map(str, labels)))
    y = np.array([classes.index(str(label)) for label in labels])
    _check_groups(y, group, classes, folds)
    rng = np.random.default_rng(seed)
    targets = [y, *(_shuffled(y, group, rng) for _ in range(control_draws))]
    splits = [_splits(t, group, folds, seed) for t in targets]
    inner = [
        [_splits(t[train], group[train], INNER_FOLDS, seed) for train, _ in s]
        for t, s in zip(targets, splits, strict=True)
    ]
    layers, places = x.shape[1:3]
    correct = np.empty((1 + control_draws, layers, places, len(y)))
    for layer in range(layers):
        for place in range(places):
            for draw, target in enumerate(targets):
                predicted = _predicted(x[:, layer, place], target, splits[draw], inner[draw])
                correct[draw, layer, place] = predicted == target
    accuracy, shuffled = correct[0].mean(-1), correct[1:].mean(-1)
    gain = correct[0] - correct[1:].mean(0)
    low, high = _interval(correct[0], group, rng)
    gain_low, gain_high = _interval(gain, group, rng)
    return {
        "accuracy": accuracy,
        "accuracy:low": low,
        "accuracy:high": high,
        "shuffled_accuracy": shuffled.mean(0),
        "shuffled_accuracy:low": shuffled.min(0),
        "shuffled_accuracy:high": shuffled.max(0),
        "selectivity": gain.mean(-1),
        "selectivity:low": gain_low,
        "selectivity:high": gain_high,
        "majority": np.bincount(y).max() / len(y),
    }


def _check_groups(y: Any, group: Any, classes: list[str], folds: int) -> None:
    if len(classes) < 2:
        raise ValueError(f"all labels are {classes[0]!r}: a probe needs at least two classes")
    for index, name in enumerate(classes):
        count = len(set(group[y == index].tolist()))
        if count < folds:
            raise ValueError(
                f"class {name!r} occurs in {count} groups, and {folds} folds need {folds}: "
                "give more prompts, or fewer folds"
            )


def _shuffled(y: Any, group: Any, rng: Any) -> Any:
    """Labels exchanged between the groups of one class, and inside the groups of several."""
    members = [(group == g).nonzero()[0] for g in sorted(set(group.tolist()))]
    pure = [m for m in members if len(set(y[m].tolist())) == 1]
    new = y.copy()
    for m, source in zip(pure, rng.permutation(len(pure)), strict=True):
        new[m] = y[pure[source][0]]
    for m in members:
        if len(set(y[m].tolist())) > 1:
            new[m] = rng.permutation(y[m])
    return new


def _splits(y: Any, group: Any, folds: int, seed: int) -> list[Any]:
    """(training, held-out) indices: whole groups, classes spread evenly.

    As many folds as every class has groups, at most `folds`; splits whose training part lacks a
    class are left out. [] where there are none.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    count = min(folds, *(len(set(group[y == c].tolist())) for c in set(y.tolist())))
    if count < 2:
        return []
    kind = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return [(train, test) for train, test in kind.split(y, y, group) if set(y[train]) == set(y)]


def _predicted(x: Any, y: Any, splits: list[Any], inner: list[Any]) -> Any:
    """The class of each prompt, by the probe that has not seen its group; −1 by none."""
    import numpy as np

    predicted = np.full(len(y), -1)
    for (train, test), within in zip(splits, inner, strict=True):
        strength = _strength(x[train], y[train], within)
        predicted[test] = _classes(x[train], y[train], x[test], [strength])[0]
    return predicted


def _strength(x: Any, y: Any, splits: list[Any]) -> float:
    """The best strength of the penalty by cross-validation; the stronger one of equals."""
    import numpy as np

    right = np.zeros(len(STRENGTHS))
    for train, test in splits:
        found = _classes(x[train], y[train], x[test], list(STRENGTHS))
        right += [(classes == y[test]).sum() for classes in found]
    return STRENGTHS[int(right.argmax())]


def _classes(x: Any, y: Any, held_out: Any, strengths: list[float]) -> list[Any]:
    """The most probable class of each held-out prompt, for each strength.

    The fit depends on inner products only, so it is done in the space the training part spans.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    u, size, basis = np.linalg.svd((x - mean) / scale, full_matrices=False)
    kept = size > 1e-8 * max(float(size[0]), 1e-12)
    trained, test = u[:, kept] * size[kept], ((held_out - mean) / scale) @ basis[kept].T
    if not kept.any():  # the same activation in every prompt
        most = np.bincount(y).argmax()
        return [np.full(len(held_out), most) for _ in strengths]
    found = []
    for strength in strengths:
        probe = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=200)
        found.append(probe.fit(trained, y).predict(test))
    return found


def _interval(values: Any, group: Any, rng: Any) -> tuple[Any, Any]:
    """The 95% bootstrap interval over groups of the mean over prompts, [..., prompt] → [...]."""
    import numpy as np

    ids = sorted(set(group.tolist()))
    sums = np.stack([values[..., group == g].sum(-1) for g in ids], -1)
    sizes = np.array([(group == g).sum() for g in ids])
    drawn = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), RESAMPLES)
    means = sums @ drawn.T / (drawn @ sizes)
    low, high = np.percentile(means, (2.5, 97.5), axis=-1)
    return low, high

"""Linear probes."""

from __future__ import annotations

from typing import Annotated, Any

from remote_mi import Bars, Heatmap, Lines, Range, recipe
from remote_mi.interventions import Prompt, Site, by_layer, run, shuffled_classes

#: Inverse strengths of the L2 penalty that are tried.
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
#: Folds in which the strength is chosen, inside each training part.
INNER_FOLDS = 3
#: Layers and places that are fitted at once: what fits into the processor's cache.
CELLS = 32
#: Most steps of Newton's method; it takes four to ten.
MOST_STEPS = 100


@recipe(
    over="prompt",
    returns={"activation": ("layer", "place", "d_model")},
    summaries={
        "accuracy": ("layer", "place"),
        "shuffled_accuracy": ("draw", "layer", "place"),
        "selectivity": ("layer", "place"),
        "majority": (),
        "direction": ("layer", "place", "d_model"),
        "threshold": ("layer", "place"),
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
    control_draws: Annotated[int, Range(1, 50)] = 19,
    towards: str | None = None,
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
    Sign: accuracies are shares from 0 to 1. Intervals: 95%, of a share (Wilson), over the prompts,
    or over groups where they are given, with the probes as they are: they do not say what other
    training prompts would have given.
    Control: shuffled_accuracy, the same with shuffled labels, each draw fitted and scored anew over
    all prompts. If labels had nothing to do with activations they would be one shuffle more. So an
    accuracy is told from chance if at most one in twenty of labels and draws, the labels included,
    reaches it in any layer and place; that needs 19 draws, and with fewer nothing is claimed.
    Groups of one class exchange their classes with groups as large; in groups of several classes
    the prompts exchange theirs. Where no two can be exchanged, nothing is claimed either.
    selectivity = accuracy − the mean of shuffled_accuracy, without an interval: what varies in it
    is the accuracy, which has one, and the shuffles, against which it is tested. In the control
    tasks of Hewitt & Liang 2019, random labels belong to word types that recur in the test set, so
    that a probe which memorises does well on them; here nothing recurs in another group, so the
    control is about at chance. With few prompts it is somewhat lower: a class that is frequent in
    the held-out part is rarer in the training part. selectivity is then larger than
    accuracy − chance.
    majority is the accuracy of always predicting the most frequent class.
    direction is the artifact of this technique, e.g. for steering: the normal of a probe of all
    prompts for the class `towards` against the others, as long as their means are apart along it. A
    prompt is of that class if direction · x is over threshold.
    Cost: 1 forward pass per prompt; the probes are fitted on this machine, in a time that grows with
    the cube of prompts and, with more than two classes, of classes.
    What this does not show: that the model uses what can be read: a direction may be there without
    anything reading it, and the probe chooses its own. What a linear probe misses may be there in
    another form. A high accuracy may rest on a cue that goes with the label in these prompts, e.g.
    a word or a length; the shuffled labels do not rule that out.
    Not implemented: non-linear probes, control tasks over word types, amnesic probing.

    Args:
        site: whose activations are read: the stream before, in or after a block, what attention or
            the MLP adds, queries, keys, values or heads' outputs, or the MLP's neurons; or another
            site that `remote-mi models sites` draws.
        places: labels of the positions that are read, each with its own probes.
        folds: parts of the cross-validation.
        control_draws: shuffles of the labels; 19 or more can tell an accuracy from chance.
        towards: the class that the direction points to; by default the last by name.
        seed: of the folds and the shuffles.
    """
    where = [prompt.position(place) for place in places]
    return {"activation": by_layer(lambda x: x[0, where], run(lm, prompt, site).values)}


def fit_probes(
    examples: list[dict[str, Any]], *, folds: int, control_draws: int, seed: int, **more: Any
) -> dict[str, Any]:
    """Accuracies and directions of the probes of every layer and place; see `linear_probe`.

    Raises:
        ValueError: if a label is missing, or there are too few classes or groups.
    """
    import numpy as np

    y, group = classes_and_groups(examples, folds)
    x = np.stack([e["arrays"]["activation"] for e in examples], 2)
    layers, places, prompts, width = x.shape
    cells = x.reshape(-1, prompts, width)
    finite = np.isfinite(cells).all((1, 2))
    rng = np.random.default_rng(seed)
    targets = [y, *(shuffled_classes(y, group, rng) for _ in range(control_draws))]
    right = np.full((len(targets), len(cells), prompts), np.nan)
    for index, target in enumerate(targets):
        right[index, finite] = are_right(cells[finite], target, group, folds, seed)
    right = right.reshape(-1, layers, places, prompts)
    accuracies = right.mean(-1)  # [labels or draw of them, layer, place]
    probes = np.full((len(cells), width + 1), np.nan)
    wanted = is_of_class(examples, more.get("towards"))
    probes[finite] = directions(cells[finite], wanted, group, seed)
    return {
        "accuracy": right[0],
        "shuffled_accuracy": accuracies[1:],
        "selectivity": accuracies[0] - accuracies[1:].mean(0),
        "majority": np.bincount(y).max() / len(y),
        "direction": probes[:, :-1].reshape(layers, places, width),
        "threshold": probes[:, -1].reshape(layers, places),
    }


def is_of_class(examples: list[dict[str, Any]], towards: str | None) -> Any:
    """1 for each prompt of the class that the directions point to, else 0."""
    labels = [str(example["label"]) for example in examples]
    if towards not in (None, *labels):
        raise ValueError(f"no prompt has the label {towards!r}; there are {sorted(set(labels))}")
    import numpy as np

    return np.array([int(label == (towards or max(labels))) for label in labels])


def directions(x: Any, y: Any, group: Any, seed: int) -> Any:
    """Each cell's direction and threshold, [cell, d_model + 1], by a probe of all prompts."""
    import numpy as np

    x = x.astype(np.float64)
    best = strongest(x, y, (np.arange(len(y)), splits(y, group, INNER_FOLDS, seed)))
    mean, scale = scales(x)
    z = (x - mean) * scale
    alpha, bias = logistic_fits(z @ z.mT, y, best)
    normal = (alpha[:, 0].mT @ z * scale)[:, 0]
    apart = ((x[:, y == 1].mean(1) - x[:, y == 0].mean(1)) * normal).sum(-1)
    # As long as the means are apart along it: |apart| / ‖normal‖.
    factor = np.abs(apart) / np.maximum((normal**2).sum(-1), 1e-300)
    threshold = (normal * mean[:, 0]).sum(-1) - bias[:, 0, 0]
    return np.concatenate([normal, threshold[:, None]], -1) * factor[:, None]


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


def are_right(x: Any, y: Any, group: Any, folds: int, seed: int) -> Any:
    """Whether a probe without a prompt's group predicts its class, [cell, prompt].

    Args:
        x: [cell, prompt, dimension].
    """
    import numpy as np

    right = np.zeros(x.shape[:2])  # a prompt without any probe counts as wrong
    for train, test in splits(y, group, folds, seed):
        inner = splits(y[train], group[train], INNER_FOLDS, seed)
        for start in range(0, len(x), CELLS):
            cells = slice(start, start + CELLS)
            block = x[cells].astype(np.float64)
            best = strongest(block, y, (train, inner))
            found = predicted(block, y, (train, test), best)
            right[cells, test] = found[:, 0] == y[test]
    return right


def strongest(x: Any, y: Any, parts: tuple[Any, Any]) -> Any:
    """The strength of the penalty, [cell, 1]; `parts`: the training part, and the splits of it."""
    import numpy as np

    train, inner = parts
    tried = np.broadcast_to(STRENGTHS, (len(x), len(STRENGTHS)))
    scores = np.zeros(tried.shape)
    for fit, held_out in inner:
        found = predicted(x, y, (train[fit], train[held_out]), tried)
        scores += (found == y[train[held_out]]).sum(-1)
    best = scores.argmax(1)[:, None]  # the strongest penalty in case of a tie
    return np.take_along_axis(tried, best, 1)


def splits(y: Any, group: Any, folds: int, seed: int) -> list[Any]:
    """(training, held-out) indices: whole groups, classes spread evenly.

    As many folds as every class has groups, at most `folds`; splits whose training part lacks a
    class are left out. [] if none remain. The groups are shuffled; those with the most uneven
    classes come first, and each joins the fold by which the shares of every class differ the least
    between the folds, the smallest in case of a tie (scikit-learn's StratifiedGroupKFold).
    """
    import numpy as np

    count = min(folds, *(len(set(group[y == c].tolist())) for c in set(y.tolist())))
    if count < 2:
        return []
    of = np.unique(group, return_inverse=True)[1]
    counts = np.zeros((of.max() + 1, y.max() + 1))  # [group, class]
    np.add.at(counts, (of, y), 1)
    shuffled_groups = np.arange(len(counts))
    np.random.RandomState(seed).shuffle(shuffled_groups)
    uneven = np.argsort(-counts[shuffled_groups].std(1), kind="stable")
    held, place = np.zeros((count, counts.shape[1])), np.zeros(len(counts), int)  # [fold, class]
    for one in shuffled_groups[uneven]:
        after = held + np.eye(count)[:, :, None] * counts[one]  # [chosen fold, fold, class]
        off = (after / counts.sum(0)).std(1).mean(1)
        least = 0
        for fold in range(1, count):
            tie = np.isclose(off[fold], off[least])
            if off[fold] < off[least] or (tie and held[fold].sum() < held[least].sum()):
                least = fold
        held[least] += counts[one]
        place[one] = least
    parts = [((place[of] != f).nonzero()[0], (place[of] == f).nonzero()[0]) for f in range(count)]
    return [(train, test) for train, test in parts if set(y[train]) == set(y)]


def predicted(x: Any, y: Any, split: tuple[Any, Any], strengths: Any) -> Any:
    """The most probable class of each held-out prompt, [cell, strength, held-out prompt].

    A fit depends only on inner products: W = Σᵢ αᵢ zᵢ over the training part.

    Args:
        x: [cell, prompt, dimension]. split: indices of the training and the held-out part.
        strengths: [cell, strength].
    """
    train, _ = split
    mean, scale = scales(x[:, train])
    trained, held_out = ((x[:, part] - mean) * scale for part in split)
    alpha, bias = logistic_fits(trained @ trained.mT, y[train], strengths)
    scores = (held_out @ trained.mT)[:, None] @ alpha + bias[:, :, None]
    return scores.argmax(-1) if scores.shape[-1] > 1 else (scores[..., 0] > 0).astype(int)


def scales(x: Any) -> tuple[Any, Any]:
    """Mean and 1 / standard deviation, [cell, 1, dimension]; 0 if constant up to rounding."""
    import numpy as np

    mean, spread = x.mean(1, keepdims=True), x.std(1, keepdims=True)
    varies = spread > 1e-6 * np.abs(mean)
    return mean, np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)


def logistic_fits(kernel: Any, y: Any, strengths: Any) -> tuple[Any, Any]:
    """Penalised logistic regressions of many cells and strengths, each fitted exactly.

    The minimum over W and b of C Σᵢ −log p(yᵢ) + ½ ‖W‖², as in scikit-learn: p is the softmax of
    f = W z + b; for two classes, W and b are of the second and f of the first is 0. There,
    W = Σᵢ αᵢ zᵢ with α = C (y − p). Found by Newton's method for f, of every fit at once.

    Args:
        kernel: [cell, prompt, prompt], inner products of the training part.
        y: [prompt], class of each.
        strengths: [cell, strength], C.

    Returns:
        α, [cell, strength, prompt, class], and b, [cell, strength, class].
    """
    import numpy as np

    shape, prompts, classes = strengths.shape, len(y), int(y.max()) + 1
    target = np.eye(classes)[y] if classes > 2 else y[:, None].astype(float)
    strength, cell = strengths.reshape(-1), np.repeat(np.arange(shape[0]), shape[1])
    alpha = np.zeros((len(strength), *target.shape))
    bias = np.zeros((len(strength), target.shape[1]))
    going = np.arange(len(strength))
    for _ in range(MOST_STEPS):
        now = alpha[going], bias[going]
        scaled = kernel[cell[going]] * strength[going, None, None]
        moved = newton_step(scaled, target, *now)
        alpha[going], bias[going], size = moved
        going = going[size > 1e-4]  # the error is about its square
        if not len(going):
            break
    alpha *= strength[:, None, None]
    return alpha.reshape(*shape, prompts, -1), bias.reshape(*shape, -1)


def newton_step(kernel: Any, target: Any, alpha: Any, bias: Any) -> tuple[Any, Any, Any]:
    """One step towards the minimum of Σᵢ −log p(yᵢ) + ½ Σ α K α over α and b, with f = K α + b.

    With p replaced by its tangent, p + H (f' − f), the minimum f' has α' = y − p − H (f' − f) and
    Σᵢ α'ᵢ = 0, which is one linear system for f' and b'. A step that is very long, or after which
    the objective would be larger, is shortened to log(1 + its length), which always makes the
    objective smaller (Bach 2010, Electronic Journal of Statistics 4).

    Args:
        kernel: [fit, prompt, prompt], times C. target: [prompt, class], 1 for a prompt's own.
        alpha: [fit, prompt, class], over C. bias: [fit, class].

    Returns:
        The new α and b, and how far the step moves f at most, [fit].
    """
    import numpy as np

    prompts, classes = target.shape
    one = np.eye(classes)
    f = kernel @ alpha + bias[:, None]
    p = np.exp(f - normaliser(f)[..., None])
    hessian = p[..., None] * (one - p[..., None, :])  # [fit, prompt, class, class]
    pulled = target - p + (hessian * f[..., None, :]).sum(-1)
    by_class = hessian.swapaxes(1, 2)
    # (1 + K H) f' − b' = K pulled, and Σ H f' = Σ pulled: [fit, prompt or b, class, the same]
    system = np.zeros((len(f), prompts + 1, classes, prompts + 1, classes))
    system[:, :-1, :, :-1] = kernel[:, :, None, :, None] * by_class[:, None]
    system[:, :-1, :, :-1] += np.eye(prompts)[:, None, :, None] * one[:, None]
    system[:, :-1, :, -1] = -one
    system[:, -1, :, :-1] = by_class
    system[:, -1, :, -1] = classes > 1  # Σ b = 0: a constant in every class changes nothing
    known = np.concatenate([kernel @ pulled, pulled.sum(1, keepdims=True)], 1)
    size = (prompts + 1) * classes
    new = np.linalg.solve(system.reshape(-1, size, size), known.reshape(-1, size, 1))
    new_f, new_bias = np.split(new.reshape(known.shape), [prompts], 1)
    new_alpha = pulled - (hessian * new_f[..., None, :]).sum(-1)
    moved = new_f - f
    far = (np.ptp(moved, -1) if classes > 1 else np.abs(moved[..., 0])).max(1)
    before = objective(f, alpha, bias, target)
    worse = objective(new_f, new_alpha, new_bias[:, 0], target) > before
    short = (worse & (far > 0)) | (far > 10)  # so far that probabilities might be 0 and 1
    share = np.where(short, np.log1p(far) / np.maximum(far, 1e-300), 1.0)
    alpha = alpha + share[:, None, None] * (new_alpha - alpha)
    return alpha, bias + share[:, None] * (new_bias[:, 0] - bias), far


def objective(f: Any, alpha: Any, bias: Any, target: Any) -> Any:
    """Σᵢ −log p(yᵢ) + ½ Σ α K α, [fit], with K α = f − b; see `newton_step`."""
    loss = normaliser(f) - (target * f).sum(-1)
    return loss.sum(1) + 0.5 * (alpha * (f - bias[:, None])).sum((1, 2))


def normaliser(f: Any) -> Any:
    """log Σ exp f over the classes, [..., class]; with one, f of the other is 0."""
    import numpy as np

    if f.shape[-1] == 1:
        return np.logaddexp(0.0, f[..., 0])
    most = f.max(-1)
    return most + np.log(np.exp(f - most[..., None]).sum(-1))

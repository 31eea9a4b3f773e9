"""Random results, of every shape that readings know, for tests of what is said of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from remote_mi.jobs.aggregation import Part, assemble
from remote_mi.recipes.card_building import build_card
from remote_mi.recipes.figures import Bars, Figure, Heatmap, Lines
from remote_mi.recipes.outputs import Ratio
from remote_mi.store.result import Result

from .shown import provenance

EVIDENCE = ("", "observational", "interventional", "counterfactual")
#: Name → dimensions, and the figures that show it.
SHAPES: dict[str, tuple[tuple[str, ...], list[type[Figure]]]] = {
    "stream": (("layer", "position"), [Heatmap, Bars]),
    "heads": (("layer", "head"), [Heatmap, Bars]),
    "curve": (("layer",), [Lines, Bars]),
    "curves": (("head", "layer"), [Lines]),
    "tokens": (("position",), [Bars]),
    "grid": (("layer", "coefficient"), [Heatmap]),
}
WORDS = ["When", " Mary", " and", " John", " went", " home", " gave", " a", " drink", " to"]


def random_result(seed: int) -> Result:
    """A result with one output of effects, perhaps a ratio and a control; the seed decides all."""
    rng = np.random.default_rng(seed)
    name = str(rng.choice([*SHAPES, "stream", "stream"]))
    dims, kinds = SHAPES[name]
    ratio, controlled = rng.random() < 0.5, rng.random() < 0.7
    shown = "share" if ratio else "effect"
    center = 0.0 if rng.random() < 0.5 else None
    figures = [Heatmap(shown, center=center) if kind is Heatmap else kind(shown) for kind in kinds]
    declaration: dict[str, Any] = {
        "over": "pair",
        "returns": {"effect": dims, "gap": ()},
        "summaries": {"share": Ratio("effect", gap="gap")} if ratio else {},
        "controls": {"effect": "control"} if controlled else {},
        "figures": figures,
        "evidence": str(rng.choice(EVIDENCE)),
    }
    return made_result(declaration, _parts(rng, dims, controlled))


def _parts(rng: np.random.Generator, dims: tuple[str, ...], controlled: bool) -> list[Part]:
    """Effects around a pattern, with noise, zeros, rounding and NaN here and there."""
    pairs, tokens = int(rng.integers(1, 11)), int(rng.integers(2, 8))
    sizes = {"layer": int(rng.integers(1, 10)), "head": int(rng.integers(1, 7)), "coefficient": 4}
    one_template = rng.random() < 0.6
    shape = tuple(tokens if dim == "position" else sizes[dim] for dim in dims)
    scale = 10.0 ** rng.uniform(-3, 1)
    pattern, noise = scale * _pattern(rng, dims, shape), scale * rng.choice([0.02, 0.2, 1.0])
    if rng.random() < 0.2:
        pattern[rng.random(shape) < 0.5] *= 1e-9
    sign, draws = rng.choice([1, -1]), int(rng.integers(0, 6))
    weak, twins = rng.random() < 0.1, rng.random() < 0.15
    labels = {
        f"l{i}": i for i in sorted(rng.choice(tokens, int(rng.integers(1, tokens + 1)), False))
    }
    parts = []
    for pair in range(pairs):
        effect = pattern + noise * rng.normal(size=shape)
        effect[np.abs(pattern) < 1e-7 * scale] *= rng.choice([0.0, 1e-9, 1.0])
        if rng.random() < 0.05:
            effect[tuple(int(rng.integers(n)) for n in shape)] = np.nan
        arrays = {"effect": effect, "gap": np.array(sign * scale * rng.uniform(0.5, 1.5))}
        if weak:
            arrays["gap"] = scale * rng.normal(size=())
        if controlled:
            arrays["control"] = 0.3 * noise * rng.normal(size=(draws, *shape))
        words = [str(word) for word in rng.choice(WORDS, tokens)]
        template = "t" if one_template else f"t{pair}"
        text = {"clean": "".join(words), "corrupt": "c", "answer": " a", "wrong": " b"}
        own = {name: int(at) for name, at in labels.items()}
        values = {k: v.astype(np.float32) for k, v in arrays.items()}
        parts.append(Part(values, words, own, template, text, f"c{pair // 2}" if twins else ""))
    return parts


def _pattern(rng: np.random.Generator, dims: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Nothing, a few cells, a curve, or one column that hands over to another."""
    pattern = np.zeros(shape)
    kind = rng.integers(6)
    if kind == 1:
        for _ in range(int(rng.integers(1, 6))):
            pattern[tuple(int(rng.integers(n)) for n in shape)] = rng.normal()
    elif kind >= 2 and "layer" in dims:
        at = dims.index("layer")
        steps = np.arange(shape[at])
        after = 1 / (1 + np.exp(-(steps - rng.uniform(0, shape[at])) * rng.uniform(0.3, 5)))
        by_layer = np.moveaxis(pattern, at, 0)
        if by_layer.ndim == 1:
            by_layer += after * rng.choice([1, -1])
        else:
            one, other = rng.choice(by_layer.shape[1], 2)
            by_layer[:, one] += 1 - after
            by_layer[:, other] += after * rng.choice([1, 1, -1])
    return pattern


def made_result(declaration: dict[str, Any], parts: list[Part]) -> Result:
    """The result of a recipe with this declaration, over pairs."""
    arguments = [("lm", None, False, None, False), ("pair", None, False, None, False)]
    card = build_card("random", "Random.", arguments, declaration, None, 0)
    parameters = {"coefficients": [-1.0, -0.5, 0.5, 1.0]}
    made = assemble(card, parts, parameters=parameters)
    document = {
        "parts": [{"tokens": p.tokens, "labels": dict(p.labels), **p.text} for p in parts],
        **made.document,
        "notes": made.notes,
        "vocabulary": {},
    }
    return Result(card.to_json(), document, made.arrays, {**provenance(), "parameters": parameters})

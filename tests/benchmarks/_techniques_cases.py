"""The work on which each technique is compared: what the recipe is given, and the other sides."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import PAIR, tokenized, tokenized_all

FACT = {"prompt": "The Eiffel Tower is located in the city of", "target": " Paris"}
SUBJECT = "The Eiffel Tower"
DRAWS = 6
STEPS = 64
COEFFICIENTS = [0.5, 1.0, 2.0]
NAMES = (("Mary", "John"), ("Anna", "Paul"), ("Kate", "Mark"), ("Lucy", "Jack"))
INSPECTION = "cat->cat; 1135->1135; hello->hello; ?"

Pick = Callable[[list[dict[str, Any]]], dict[str, Any]]


@dataclass
class Case:
    """One technique on one piece of work.

    Attributes:
        name: in the table. recipe: ours; the other sides' functions have its name.
        work: in words.
        calls: what the recipe is called with. parameters: those of the recipe.
        off: the parameters that leave its controls out, so that all sides do the same.
        request: the arguments of the other sides' functions, without cells.
        pick: from what the recipe gave (of each call) to arrays of their names.
        grid: how many cells a sweep has along its dimensions; () if it is none.
        cells: those that the other sides run; their arrays of cells are in this order.
        rest: names of what the other sides compute beside the cells, and can leave out.
        eager: whether attention weights are needed. peer: "TransformerLens" or "captum".
    """

    name: str
    recipe: str
    work: str
    calls: list[Any]
    request: dict[str, Any]
    pick: Pick
    parameters: dict[str, Any] = field(default_factory=dict)
    off: dict[str, Any] = field(default_factory=dict)
    grid: tuple[int, ...] = ()
    cells: list[list[int]] = field(default_factory=list)
    rest: tuple[str, ...] = ()
    eager: bool = False
    peer: str = "TransformerLens"


def some_cells(grid: tuple[int, ...], count: int) -> list[list[int]]:
    """Random cells of a grid without repetition, the same ones every time; all for 0."""
    every = [[int(i) for i in cell] for cell in np.ndindex(grid)]
    return every if count == 0 else random.Random(0).sample(every, min(count, len(every)))


def named(*names: str) -> Pick:
    """The outputs of these names, of the only call."""
    return lambda found: {name: found[0][name] for name in names}


def at_cells(cells: list[list[int]], *names: str, plain: tuple[str, ...] = ()) -> Pick:
    """Outputs at the cells only, [cell, …], and others as they are, of the only call."""
    layers, places = (list(index) for index in zip(*cells, strict=True))

    def pick(found: list[dict[str, Any]]) -> dict[str, Any]:
        first = found[0]
        chosen = {name: first[name][layers, places] for name in names}
        return chosen | {name: first[name] for name in plain}

    return pick


def pair_cases(model: Any, count: int) -> list[Case]:
    """The techniques on one pair of prompts."""
    pair = tokenized(model, "pair")
    layers, length = len(model.lm.layers), len(pair.clean.ids)
    heads = model.lm.config.num_attention_heads
    places, by_head = (layers, length), (layers, heads)
    at, at_head = some_cells(places, count), some_cells(by_head, count)
    clean = {"clean": pair.clean.ids, "answer": pair.answer, "wrong": pair.wrong}
    both = {**clean, "corrupt": pair.corrupt.ids}
    off = {"control_draws": 0}
    grid, head_grid = f"{layers}×{length}", f"{layers}×{heads}"

    def both_prompts(found: list[dict[str, Any]]) -> dict[str, Any]:
        names = ("logit_diff", "prob", "prob_diff", "rank", "top_prob")
        return {n: torch.stack([found[0][n], found[0][f"corrupt_{n}"]]) for n in names}

    return [
        Case("baseline", "baseline", "2 prompts", [pair], both, both_prompts),
        Case(
            "activation_patching",
            "activation_patching",
            f"{grid} cells",
            [pair],
            both,
            at_cells(at, "effect", plain=("gap",)),
            off=off,
            grid=places,
            cells=at,
        ),
        Case(
            "head_patching",
            "head_patching",
            f"{head_grid} heads",
            [pair],
            both,
            at_cells(at_head, "effect", plain=("gap",)),
            off=off,
            grid=by_head,
            cells=at_head,
        ),
        Case(
            "ablation",
            "ablation",
            f"zero, {grid} cells + {layers} layers",
            [pair],
            clean,
            (at_cells(at, "effect", plain=("layer_effect", "loss_change"))),
            {"kind": "zero"},
            off,
            places,
            at,
            ("layer_effect", "loss_change"),
        ),
        Case(
            "head_ablation",
            "head_ablation",
            f"zero, {head_grid} heads",
            [pair],
            clean,
            (at_cells(at_head, "effect", "loss_change")),
            {"kind": "zero"},
            off,
            by_head,
            at_head,
        ),
        Case(
            "direct_logit_attribution",
            "direct_logit_attribution",
            f"{head_grid} heads, {layers} MLPs",
            [pair],
            clean,
            named("head", "mlp", "embedding", "sum", "logit_diff"),
            off={"control_draws": 1},
        ),
        Case(
            "attribution_patching",
            "attribution_patching",
            f"{grid} cells",
            [pair],
            both,
            named("effect", "gap"),
            off=off,
        ),
        Case(
            "head_attribution",
            "head_attribution",
            f"{head_grid} heads",
            [pair],
            both,
            named("effect", "gap"),
            off=off,
        ),
        Case(
            "integrated_gradients",
            "integrated_gradients",
            f"{STEPS} steps",
            [pair],
            {**both, "steps": STEPS},
            named("attribution", "completeness_error"),
            {"steps": STEPS},
            off,
            peer="captum",
        ),
    ]


def prompt_cases(model: Any, count: int) -> list[Case]:
    """The techniques on one prompt, or several."""
    from remote_mi.interventions import Prompt

    prompt = tokenized(model, "prompt")
    several = tokenized_all(model, "prompt", [{"prompt": texts["clean"]} for texts in pairs(2)])
    layers, length = len(model.lm.layers), len(prompt.ids)
    cells = some_cells((layers, length), count)
    ids = {"ids": prompt.ids, "target": prompt.target}
    reader = model.tokenizer(INSPECTION, add_special_tokens=False)["input_ids"]

    def with_plain_text(found: list[dict[str, Any]]) -> dict[str, Any]:
        picked = at_cells(cells, "target_prob", "top_prob")(found)
        first = found[0]
        return picked | {"text": torch.cat([first["unpatched_text"][None], first["text"]])}

    def activations(found: list[dict[str, Any]]) -> dict[str, Any]:
        return {"activation": torch.stack([one["activation"][:, 0] for one in found])}

    return [
        Case(
            "logit_lens",
            "logit_lens",
            f"{layers}×{length} cells",
            [prompt],
            ids,
            named("top_prob", "target_prob", "target_rank", "kl", "entropy"),
        ),
        Case(
            "attention_patterns",
            "attention_patterns",
            f"1 prompt of {length}",
            [prompt],
            {"ids": prompt.ids},
            named("pattern", "first", "entropy", "distance"),
            eager=True,
        ),
        Case(
            "saliency",
            "saliency",
            f"1 prompt of {length}",
            [prompt],
            ids,
            named("gradient_norm", "gradient_x_input"),
            off={"control_draws": 0},
            peer="captum",
        ),
        Case(
            "linear_probe",
            "linear_probe",
            f"activations, {len(several)} prompts",
            several,
            {"prompts": [one.ids for one in several]},
            activations,
        ),
        Case(
            "patchscopes",
            "patchscopes",
            f"{layers}×{length} cells + {layers + 1} texts",
            [prompt],
            {**ids, "inspection": reader, "steps": 5},
            with_plain_text,
            {"inspection": Prompt(reader, {"end": len(reader) - 1}, None), "steps": 5},
            {"control_draws": 0},
            (layers, length),
            cells,
            ("text",),
        ),
    ]


def pairs(each: int) -> list[dict[str, str]]:
    """Pairs of other names; `each` prompts to be had of every pair of names."""
    made = []
    for io, s in NAMES:
        for place in ("store", "park", "school")[:each]:
            start = f"When {io} and {s} went to the {place}, "
            made.append(
                {
                    "clean": f"{start}{s} gave a drink to",
                    "corrupt": f"{start}{io} gave a drink to",
                    "answer": f" {io}",
                    "wrong": f" {s}",
                }
            )
    return made


def steering_cases(model: Any) -> list[Case]:
    """Steering, measured only and with a text."""
    several = tokenized_all(model, "pair", pairs(1))
    layer = 2 * len(model.lm.layers) // 3
    order = torch.randperm(len(several), generator=torch.Generator().manual_seed(0)).tolist()
    request = {
        "pairs": [
            {
                "clean": pair.clean.ids,
                "corrupt": pair.corrupt.ids,
                "answer": pair.answer,
                "wrong": pair.wrong,
            }
            for pair in several
        ],
        "folds": [order[0::2], order[1::2]],
        "layer": layer,
        "coefficients": COEFFICIENTS,
    }
    made = []
    # The recipe always writes at least one token; the other sides write none where that is all.
    for name, steps, theirs in (("steering", 1, 0), ("steering, with text", 12, 12)):

        def pick(found: list[dict[str, Any]], texts: bool = theirs > 0) -> dict[str, Any]:
            first = found[0]
            chosen = {
                n: torch.stack([torch.as_tensor(x) for x in first[n]])
                for n in ("effect", "clean", "corrupt")
            }
            chosen["effect"] = chosen["effect"][:, 0]
            if texts:
                chosen["text"] = torch.cat([first["plain_text"][None], first["steered_text"]])
            return chosen

        text = f", {1 + len(COEFFICIENTS)} texts of {theirs}" if theirs else ""
        made.append(
            Case(
                name,
                "steering",
                f"{len(several)} pairs × {len(COEFFICIENTS)}{text}",
                [several],
                {**request, "steps": theirs},
                pick,
                {"layers": [layer], "coefficients": COEFFICIENTS, "folds": 2, "steps": steps},
                {"control_draws": 0},
            )
        )
    return made


def tracing_case(model: Any, count: int, folder: Path) -> Case:
    """Causal tracing; all sides get the same noise, from a file."""
    from remote_mi.interventions import embedding_noise

    prompt = tokenized_all(model, "prompt", [FACT])[0]
    subject = model.tokenizer(SUBJECT, add_special_tokens=False)["input_ids"]
    layers, length, last = len(model.lm.layers), len(prompt.ids), len(subject) - 1
    of_subject = embedding_noise(model.lm, last + 1, 3.0, DRAWS, 0)
    noise = torch.nn.functional.pad(of_subject, (0, 0, 0, length - 1 - last))
    np.save(folder / "noise.npy", noise.numpy())
    cells = some_cells((layers, length), count)

    def by_cell(found: list[dict[str, Any]]) -> dict[str, Any]:
        first = {**found[0], "effect": found[0]["effect"].movedim(0, -1)}
        return at_cells(cells, "effect", plain=("clean", "corrupt"))([first])

    return Case(
        "causal_tracing",
        "causal_tracing",
        f"{layers}×{length} cells × {DRAWS} draws",
        [prompt],
        {"ids": prompt.ids, "target": prompt.target, "noise": str(folder / "noise.npy")},
        by_cell,
        {"draws": DRAWS, "noise": 3.0, "subject_start": 0, "subject_end": last},
        {"control": "none"},
        grid=(layers, length),
        cells=cells,
    )


def detectors_case(model: Any) -> Case:
    """Head detectors on the recipe's own random tokens."""
    from remote_mi.interventions import info

    model_of, length, sequences = info(model.lm), 25, 20
    low, high = int(0.02 * model_of.vocabulary), int(0.8 * model_of.vocabulary)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(high - low, generator=generator) for _ in range(sequences)]
    halves = torch.stack(drawn)[:, : 2 * length] + low
    begin = torch.tensor([model_of.begin] * sequences, dtype=torch.long)
    first = halves[:, :length]
    repeated = torch.cat([begin, first, first], 1)
    others = torch.cat([begin, halves], 1)
    names = (
        "induction",
        "previous_token",
        "duplicate_token",
        "loss_first",
        "loss_second",
        "control_induction",
        "control_duplicate_token",
        "control_loss_second",
    )
    return Case(
        "head_detectors",
        "head_detectors",
        f"2×{sequences} rows of {repeated.shape[1]}",
        [None],
        {"repeated": repeated.tolist(), "others": others.tolist(), "length": length},
        named(*names),
        eager=True,
    )


def all_cases(model: Any, count: int, folder: Path) -> list[Case]:
    """Every technique, in the order of the table.

    Args:
        count: cells of a sweep that the other sides run; 0 for all.
    """
    made = [
        *pair_cases(model, count),
        *prompt_cases(model, count),
        *steering_cases(model),
        tracing_case(model, count, folder),
        detectors_case(model),
    ]
    order = [
        "baseline",
        "logit_lens",
        "activation_patching",
        "head_patching",
        "ablation",
        "head_ablation",
        "causal_tracing",
        "patchscopes",
        "direct_logit_attribution",
        "attention_patterns",
        "head_detectors",
        "attribution_patching",
        "head_attribution",
        "integrated_gradients",
        "saliency",
        "steering",
        "steering, with text",
        "linear_probe",
    ]
    assert sorted(order) == sorted(case.name for case in made), PAIR
    return sorted(made, key=lambda case: order.index(case.name))

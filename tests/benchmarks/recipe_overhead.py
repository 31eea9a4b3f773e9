"""What a recipe costs above the same traces written by hand in plain nnsight.

Three ways, in turn, on the embedded model:

    ours       the built-in recipe through `run_session`, as every local run executes it, without
               controls
    session    the same algorithm by hand (below, none of our helpers), in one nnsight session
    bare       the same function without a session around its traces

The ratios are ours over each of the two: the quotient of the medians, that of the minima, and the
median of the quotients of each round. Where other work shares the machine the minima say most.
The goal is 1.05 at most. What the three give is compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import nnsight
import torch
from _common import (
    alternate,
    arguments,
    at_least_one,
    conditions,
    describe,
    load_embedded,
    median_ratio,
    report,
    spread,
    tokenized,
    work_of,
)
from transformers import DynamicCache


def lens_by_hand(lm: Any, ids: list[int], target: int, top: int) -> dict[str, torch.Tensor]:
    """The logit lens of one prompt, all layers and positions."""
    with lm.model.trace(input_ids=torch.tensor([ids]), use_cache=False):
        stream = nnsight.save([layer.output[0] for layer in lm.model.layers])
    final = lm.lm_head(lm.model.norm(stream[-1])).float().log_softmax(-1)
    wanted = torch.full_like(final[:, :1], target, dtype=torch.long)
    rows = []
    for resid_post in stream:
        log_p = lm.lm_head(lm.model.norm(resid_post)).float().log_softmax(-1)
        best, token = log_p.topk(top, dim=-1)
        of_target = log_p.gather(-1, wanted)
        row = {
            "top_token": token,
            "top_prob": best.exp(),
            "target_prob": of_target[:, 0].exp(),
            "target_rank": (log_p > of_target).sum(-1),
            "kl": (final.exp() * (final - log_p)).sum(-1),
            "entropy": -(log_p.exp() * log_p).sum(-1),
        }
        rows.append(row)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def sweep_by_hand(
    lm: Any, clean: list[int], corrupt: list[int], first: int, answer: int, wrong: int
) -> dict[str, torch.Tensor]:
    """Residual patching, clean into corrupt: one pass over a batch that grows at each layer.

    Args:
        first: first position where the prompts differ; what is before it is computed once.
    """
    cells = len(corrupt) - first
    cell = torch.arange(cells)
    kept = DynamicCache()
    with lm.model.trace(input_ids=torch.tensor([clean]), past_key_values=kept, use_cache=True):
        patches = nnsight.save([layer.input[0, first:] for layer in lm.model.layers])
        clean_end = nnsight.save(lm.model.norm.output[:, -1])
    prefix = DynamicCache()
    for index, layer in enumerate(kept.layers):
        rows = 1 + (index + 1) * cells
        prefix.update(
            layer.keys[:, :, :first].expand(rows, -1, -1, -1),
            layer.values[:, :, :first].expand(rows, -1, -1, -1),
            index,
        )
    with lm.model.trace(
        input_ids=torch.tensor([corrupt[first:]]),
        position_ids=torch.arange(first, len(corrupt))[None],
        past_key_values=prefix,
        use_cache=True,
    ):
        for index, layer in enumerate(lm.model.layers):
            stream = layer.input
            joining = stream[:1].repeat(cells, 1, 1)
            joining[cell, cell] = patches[index]
            layer.input = torch.cat([stream, joining])
        ends = nnsight.save(lm.model.norm.output[:, -1])
    unembedding = lm.lm_head.weight[[answer, wrong]].float()
    logits = torch.cat([clean_end, ends]).float() @ unembedding.T
    scores = logits[:, 0] - logits[:, 1]
    effect = (scores[2:] - scores[1]).reshape(-1, cells)
    return {
        "effect": torch.nn.functional.pad(effect, (first, 0)),
        "control": torch.zeros(0, len(lm.model.layers), len(corrupt)),
        "gap": scores[0] - scores[1],
        "clean": scores[0],
        "corrupt": scores[1],
    }


def in_session(lm: Any, by_hand: Callable[..., dict[str, Any]], inputs: tuple[Any, ...]) -> Any:
    """What a function that opens traces gives inside one session."""
    with lm.session():
        outputs = by_hand(lm, *inputs)
        nnsight.save(outputs)
    return outputs


def largest_difference(ours: dict[str, Any], other: dict[str, Any]) -> float:
    """Over all outputs of two ways."""
    assert ours.keys() == other.keys()
    return max(
        float((ours[name].double() - other[name].double()).abs().max())
        for name in ours
        if ours[name].numel()
    )


def measure(
    lm: Any,
    recipe: str,
    call: Any,
    by_hand: Callable[..., Any],
    inputs: tuple[Any, ...],
    repeat: int,
    **parameters: Any,
) -> dict[str, Any]:
    """Seconds of the three ways, their ratios, and how far the outputs are apart."""
    from remote_mi.backends.session import run_session

    work = work_of(recipe, call, **parameters)
    ways = {
        "ours": lambda: run_session(lm, work)[0],
        "session": lambda: in_session(lm, by_hand, inputs),
        "bare": lambda: by_hand(lm, *inputs),
    }
    with torch.no_grad():
        outputs = {name: way() for name, way in ways.items()}  # also the warm-up
        times = alternate(ways, repeat)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    least = {name: min(taken) for name, taken in times.items()}
    return {
        "seconds": times,
        "medians": medians,
        "ratio": {w: medians["ours"] / medians[w] for w in ("session", "bare")},
        "ratio_of_minima": {w: least["ours"] / least[w] for w in ("session", "bare")},
        "ratio_paired": {w: median_ratio(times["ours"], times[w]) for w in ("session", "bare")},
        "max_difference": max(
            largest_difference(outputs["ours"], outputs[w]) for w in ("session", "bare")
        ),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeat", type=at_least_one, default=15, help="rounds [%(default)s]")
    parser.add_argument("--threads", type=at_least_one, default=2, help="[%(default)s]")
    args = parser.parse_args()
    found = conditions("nnsight", "transformers", "torch")
    model = load_embedded(args.threads)
    prompt, pair = tokenized(model, "prompt"), tokenized(model, "pair")
    measured = {
        "logit_lens": measure(
            model.lm,
            "logit_lens",
            prompt,
            lens_by_hand,
            (prompt.ids, prompt.target, 5),
            args.repeat,
        ),
        "activation_patching": measure(
            model.lm,
            "activation_patching",
            pair,
            sweep_by_hand,
            (pair.clean.ids, pair.corrupt.ids, pair.first_difference, pair.answer, pair.wrong),
            args.repeat,
            control_draws=0,
        ),
    }
    rows = []
    for recipe, figures in measured.items():
        for way in ("session", "bare"):
            rows.append(
                [
                    recipe,
                    way,
                    f"{figures['medians']['ours']:.3f}",
                    spread(figures["seconds"]["ours"]),
                    f"{figures['medians'][way]:.3f}",
                    spread(figures["seconds"][way]),
                    f"{figures['ratio'][way]:.3f}",
                    f"{figures['ratio_of_minima'][way]:.3f}",
                    f"{figures['ratio_paired'][way]:.3f}",
                    f"{figures['max_difference']:.1e}",
                ]
            )
    report(
        f"recipes against plain nnsight, median seconds of {args.repeat} rounds",
        [
            "recipe",
            "by hand",
            "ours",
            "range",
            "hand",
            "range",
            "ratio",
            "of minima",
            "by round",
            "max |difference|",
        ],
        rows,
        [f"goal: a ratio of 1.05 at most; {args.threads} threads", describe(found)],
        {"conditions": found, "threads": args.threads, "recipes": measured},
        args.json,
    )


if __name__ == "__main__":
    main()

"""Exact patching sweeps against TransformerLens: seconds, and how far the numbers are apart.

One pair, the embedded model in float32, both sides in one run on the same weights and the same
token ids, in turn and never at the same time:

    residual   recipe activation_patching   against get_act_patch_resid_pre
    heads      recipe head_patching         against get_act_patch_attn_head_out_all_pos

Both times hold the clean run, the unpatched corrupt run and all cells; loading is not in them, and
neither are our controls (`+ controls`: with one random direction a cell, as by default).
TransformerLens runs every cell as one forward pass, with eager attention; it is called as its
documentation does. The environment it needs is built on first use.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    arguments,
    at_least_one,
    conditions,
    describe,
    load_embedded,
    report,
    seconds,
    spread,
    tokenized,
    work_of,
)
from _transformerlens import Unavailable, Worker, default_venv, ensure_venv

from remote_mi.models.embedded import embedded_folder

SWEEPS = {"residual": ("activation_patching", "resid_pre"), "heads": ("head_patching", "head_z")}
"""Name → our recipe, site."""


def unpatched_difference(model: Any, pair: Any, theirs: Worker, folder: Path) -> float:
    """Largest difference of any logit of the two plain prompts."""
    import torch

    ids = [pair.clean.ids, pair.corrupt.ids]
    target = folder / "logits.npy"
    theirs.ask("logits", ids=ids, to=str(target))
    with model.lm.trace(input_ids=torch.tensor(ids), use_cache=False):
        logits = model.lm.output.logits.save()
    return float(np.abs(logits.detach().numpy() - np.load(target, allow_pickle=False)).max())


def measure(
    name: str, model: Any, pair: Any, theirs: Worker, folder: Path, repeat: int, tl_repeat: int
) -> dict[str, Any]:
    """Times of one sweep on both sides and the difference of its effects.

    Returns:
        shape; `max_difference` over all cells and repeats, and the gap it can be held against;
        of "ours" and "theirs" seconds and CPU seconds of each repeat, clean and corrupt metric;
        of "ours" the seconds with controls, too.
    """
    from remote_mi.backends.session import run_session

    recipe, site = SWEEPS[name]
    work, controlled = work_of(recipe, pair, control_draws=0), work_of(recipe, pair)
    request = {
        "site": site,
        "clean": pair.clean.ids,
        "corrupt": pair.corrupt.ids,
        "answer": pair.answer,
        "wrong": pair.wrong,
        "to": str(folder / f"{name}.npy"),
    }
    # The warm-up; TransformerLens had its own with the plain logits.
    outputs = run_session(model.lm, work)[0]
    effect = outputs["effect"].numpy()
    clean, corrupt = float(outputs["clean"]), float(outputs["corrupt"])
    ours: dict[str, Any] = {
        "seconds": [],
        "cpu_seconds": [],
        "with_controls": [],
        "clean": clean,
        "corrupt": corrupt,
    }
    other: dict[str, Any] = {"seconds": [], "cpu_seconds": []}
    apart = 0.0
    for index in range(max(repeat, tl_repeat)):
        if index < repeat:
            taken, busy = seconds(lambda: run_session(model.lm, work))
            ours["seconds"].append(taken)
            ours["cpu_seconds"].append(busy)
            taken = seconds(lambda: run_session(model.lm, controlled))[0]
            ours["with_controls"].append(taken)
        if index < tl_repeat:
            answer = theirs.ask("sweep", **request)
            other["seconds"].append(answer["seconds"])
            other["cpu_seconds"].append(answer["cpu_seconds"])
            other.update(clean=answer["clean"], corrupt=answer["corrupt"])
            difference = effect - np.load(request["to"], allow_pickle=False)
            apart = max(apart, float(np.abs(difference).max()))
    return {
        "shape": list(effect.shape),
        "max_difference": apart,
        "gap": clean - corrupt,
        "ours": ours,
        "theirs": other,
    }


def row(name: str, sweep: dict[str, Any]) -> list[Any]:
    """A line of the table; the ratios are added to the sweep's figures."""
    ours, theirs = sweep["ours"], sweep["theirs"]
    seconds = [statistics.median(side["seconds"]) for side in (ours, theirs)]
    busy = [statistics.median(side["cpu_seconds"]) for side in (ours, theirs)]
    sweep.update(ratio=seconds[1] / seconds[0], cpu_ratio=busy[1] / busy[0])
    return [
        name,
        "×".join(map(str, sweep["shape"])),
        f"{seconds[0]:.3f}",
        spread(ours["seconds"]),
        f"{statistics.median(ours['with_controls']):.3f}",
        f"{seconds[1]:.1f}",
        spread(theirs["seconds"]),
        f"{sweep['ratio']:.1f}",
        f"{sweep['cpu_ratio']:.1f}",
        f"{sweep['max_difference']:.1e}",
        f"{sweep['max_difference'] / sweep['gap']:.1e}",
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--venv",
        metavar="FOLDER",
        type=Path,
        default=default_venv(),
        help="TransformerLens's environment; built if missing [%(default)s]",
    )
    parser.add_argument("--repeat", type=at_least_one, default=3, help="of ours [%(default)s]")
    parser.add_argument("--tl-repeat", type=at_least_one, default=1, help="of theirs [%(default)s]")
    parser.add_argument(
        "--threads", type=at_least_one, default=2, help="on both sides [%(default)s]"
    )
    args = parser.parse_args()
    found = conditions("nnsight", "transformers", "torch")
    try:
        python = ensure_venv(args.venv)
        model = load_embedded(args.threads)
        pair = tokenized(model, "pair")
        with tempfile.TemporaryDirectory() as name, Worker(python) as theirs:
            folder, weights = Path(name), str(embedded_folder())
            loaded = theirs.ask("load", folder=weights, threads=args.threads)
            plain = unpatched_difference(model, pair, theirs, folder)
            sweeps = {
                sweep: measure(sweep, model, pair, theirs, folder, args.repeat, args.tl_repeat)
                for sweep in SWEEPS
            }
    except Unavailable as error:
        print(f"not measured: {error}")
        return
    attention = {"ours": model.record["attention"], "theirs": loaded["attention"]}
    rows = [row(name, sweep) for name, sweep in sweeps.items()]
    sides = [sweeps["residual"][side] for side in ("ours", "theirs")]
    report(
        "exact patching, median seconds",
        [
            "sweep",
            "cells",
            "ours",
            "range",
            "+ controls",
            "TransformerLens",
            "range",
            "ratio",
            "of CPU time",
            "max |difference|",
            "of the gap",
        ],
        rows,
        [
            f"unpatched logits of both prompts: max |difference| {plain:.1e}",
            "clean, corrupt metric: ours {clean:.5f}, {corrupt:.5f}; ".format(**sides[0])
            + "TransformerLens {clean:.5f}, {corrupt:.5f}".format(**sides[1]),
            f"attention: ours {attention['ours']}, TransformerLens {attention['theirs']}; "
            f"{args.threads} threads on both sides",
            describe(found),
        ],
        {
            "conditions": found,
            "threads": args.threads,
            "attention": attention,
            "unpatched_max_difference": plain,
            "sweeps": sweeps,
        },
        args.json,
    )


if __name__ == "__main__":
    main()

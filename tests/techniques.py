"""Every built-in technique with work small enough for a tiny model: what the suites run alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from remote_mi.jobs.recipe_check.examples import examples_for

__all__ = ["SUBJECT", "TECHNIQUES", "examples_for"]

SUBJECT = {"subject_start": 1, "subject_end": 3}
#: Prompts of as many tokens as the examples have, for means.
REFERENCE = "ioi_abc,n=6,side=corrupt"
#: A vector of the tiny models' width, for the techniques that take one.
DIRECTION = {"direction": str(Path(__file__).with_name("direction.safetensors"))}
#: Recipe → its variants, each as keyword arguments of `remote_mi.run` beside model and prompts.
TECHNIQUES: dict[str, list[dict[str, Any]]] = {
    "ablation": [
        {"kind": "mean"},
        {"kind": "zero", "site": "mlp_out"},
        {"kind": "resample"},
        {"reference": REFERENCE, "average": "each", "positions": ["end", "all"], "layers": [0, 2]},
    ],
    "activation_patching": [
        {},
        {"site": "mlp_out"},
        {"site": "attn_out", "direction": "noise"},
        {"positions": ["end", "3"], "layers": [1]},
    ],
    "attention_patterns": [{}],
    "attribution_patching": [{}, {"site": "mlp_out", "compare": "exact"}],
    "baseline": [{}],
    "behaviour": [{"steps": 3}, {"steps": 3, "temperature": 0.9, "draws": 2}],
    "behaviour_steering": [{"steps": 3, "coefficients": [2.0, 9.0], "control_draws": 2}],
    "causal_tracing": [{**SUBJECT, "draws": 2}, {**SUBJECT, "site": "mlp_out", "window": 2}],
    "direct_logit_attribution": [{}],
    "direction_ablation": [{**DIRECTION, "control_draws": 2}],
    "direction_addition": [{**DIRECTION, "control_draws": 2, "site": "mlp_out"}],
    "head_ablation": [{}, {"reference": REFERENCE, "average": "after_first"}],
    "head_attribution": [{}],
    "head_detectors": [{"sequences": 3, "length": 6}],
    "head_patching": [{}, {"direction": "noise"}],
    "heads_by_position": [
        {"positions": ["end", "3"], "control_draws": 1},
        {"kind": "mean", "reference": REFERENCE, "layers": [1], "site": "v"},
    ],
    "integrated_gradients": [{"steps": 8}],
    "linear_probe": [{"folds": 2}],
    "logit_lens": [{}],
    "mean_difference": [{"control_draws": 3}],
    "pair_difference": [{"control_draws": 3}],
    "path_patching": [{}, {"to": ["1.1.q", "1.0.v"], "mlps": "frozen"}],
    "patchscopes": [{"inspection": "When Mary and John went to", "steps": 2}],
    "saliency": [{}],
    "set_ablation": [
        {"heads": ["0.1", "2.2"], "control_sets": 5},
        {"heads": ["0.1"], "neurons": ["1.5"], "kind": "denoise", "control_sets": 5},
        {"heads": ["1.3"], "replaced": "rest", "reference": REFERENCE, "control_sets": 3},
    ],
    "steering": [{"steps": 2, "coefficients": [1.0, 2.0]}, {**DIRECTION, "steps": 2}],
}

"""Every built-in technique with work small enough for a tiny model: what the suites run alike."""

from __future__ import annotations

from typing import Any

from remote_mi.jobs.recipe_check.examples import examples_for

__all__ = ["SUBJECT", "TECHNIQUES", "examples_for"]

SUBJECT = {"subject_start": 1, "subject_end": 3}
#: Recipe → its variants, each as keyword arguments of `remote_mi.run` beside model and prompts.
TECHNIQUES: dict[str, list[dict[str, Any]]] = {
    "ablation": [{"kind": "mean"}, {"kind": "zero", "site": "mlp_out"}, {"kind": "resample"}],
    "activation_patching": [{}, {"site": "mlp_out"}, {"site": "attn_out", "direction": "noise"}],
    "attention_patterns": [{}],
    "attribution_patching": [{}, {"site": "mlp_out", "compare": "exact"}],
    "baseline": [{}],
    "behaviour": [{"steps": 3}, {"steps": 3, "temperature": 0.9, "draws": 2}],
    "behaviour_steering": [{"steps": 3, "coefficients": [2.0, 9.0], "control_draws": 2}],
    "causal_tracing": [{**SUBJECT, "draws": 2}, {**SUBJECT, "site": "mlp_out", "window": 2}],
    "direct_logit_attribution": [{}],
    "head_ablation": [{}],
    "head_attribution": [{}],
    "head_detectors": [{"sequences": 3, "length": 6}],
    "head_patching": [{}, {"direction": "noise"}],
    "integrated_gradients": [{"steps": 8}],
    "linear_probe": [{"folds": 2}],
    "logit_lens": [{}],
    "patchscopes": [{"inspection": "When Mary and John went to", "steps": 2}],
    "saliency": [{}],
    "steering": [{"steps": 2, "coefficients": [1.0, 2.0]}],
}
